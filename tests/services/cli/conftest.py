"""`dti` against the real API over a store in a folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosted import Hosted, hosted, make_bundle
from stub_engine import StubEngine
from typer.testing import CliRunner, Result

from services.cli_app import app
from services.storage.directory import DirectoryStore

Dti = Callable[..., Result]


@pytest.fixture
def service(tmp_path: Path, engine_at: tuple[StubEngine, str]) -> Iterator[Hosted]:
    with hosted(DirectoryStore(tmp_path / "store"), engines=engine_at[1]) as service:
        yield service


@pytest.fixture
def dti(service: Hosted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dti:
    """dti("jobs", ...) -> what the command did, in a folder of its own."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))

    def run(*arguments: object, **environment: str) -> Result:
        env = {**service.environment, "COLUMNS": "100", **environment}
        return CliRunner().invoke(app, [str(each) for each in arguments], env=env)

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of three bundles."""
    for seed, name in enumerate(("rex", "My Tom (2)", "ann")):
        make_bundle(tmp_path / "photos" / name, seed, description='{"initializer": "dog"}')
    return tmp_path / "photos"
