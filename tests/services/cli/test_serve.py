"""`dti serve` without its processes: what it announces, and where it cannot."""

import threading
from pathlib import Path
from typing import Any

import pytest

from services.cli.serve import _announce, _kept_models, _wait
from services.client.config import read_config
from services.contracts.models import ModelsFile, read_models
from services.local.service import LocalServiceSettings


class Service:
    url = "http://127.0.0.1:8000"
    settings = LocalServiceSettings(store="unused")
    folder = Path("logs")
    metrics_urls = ("http://127.0.0.1:8000/metrics",)


def test_address_and_key_are_noted_for_other_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    service: Any = Service()
    _announce(service, "dti_key")
    noted = read_config()
    assert noted
    assert (noted.server, noted.key) == (Service.url, "dti_key")


def test_a_home_that_cannot_be_written_does_not_end_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    service: Any = Service()
    _announce(service, "dti_key")
    printed = capsys.readouterr()
    assert printed.out == f"{Service.url}\ndti_key\n"
    assert "cannot write" in printed.err
    assert "--server and --api-key" in printed.err


_MODELS = '{"tiny": {"weights": "miniature", "recipe": "miniature"}}'


def test_a_change_of_the_models_file_is_not_followed_and_that_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models.json"
    models.write_text(_MODELS)
    file, kept, waits = ModelsFile(models), _kept_models(models), iter([False] * 3 + [True])

    class Stopped(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return next(waits)

    models.write_text(_MODELS.replace("tiny", "other"))
    _wait(Stopped(), file)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("stop it and start it again") == 1
    # The processes have the copy, so that none of them follows the change either.
    assert kept
    assert list(read_models(kept)) == ["tiny"]
