"""The package without extras, installed for real: what is not in it, and that the API serves."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MAX_BYTES = 135_000_000
PACKAGED = ("dti_engine", "services", "pyproject.toml", "README.md", "LICENSE")
ABSENT = ("torch", "ray", "numpy", "diffusers", "transformers", "huggingface_hub", "matplotlib")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a virtual environment with what `pip install .` installs."""
    folder = tmp_path_factory.mktemp("base")
    # From a copy, as a build leaves folders behind in the source.
    for name in PACKAGED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / "source" / name, ignore=ignored)
        else:
            shutil.copy(source, folder / "source" / name)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip = [folder / "venv/bin/python", "-m", "pip", "install", "--disable-pip-version-check"]
    constraints = ("--constraint", ROOT / "constraints.txt")
    done = subprocess.run(
        [*pip, *constraints, folder / "source"], capture_output=True, text=True, check=False
    )
    if done.returncode and re.search(
        r"Could not fetch|No matching distribution|Max retries", done.stderr
    ):
        pytest.skip(f"no package index can be reached: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    return folder / "venv"


def variables(home: Path) -> dict[str, str]:
    """Return the environment of a process that must not see this checkout."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONPATH" and not name.startswith("DTI_")
    }
    return inherited | {"HOME": str(home), "XDG_CONFIG_HOME": str(home)}


def test_it_is_small_and_has_neither_torch_nor_ray_nor_numpy(
    environment: Path, tmp_path: Path
) -> None:
    code = (
        "import importlib.util, json;"
        f"print(json.dumps([name for name in {ABSENT} if importlib.util.find_spec(name)]))"
    )
    done = subprocess.run(
        [environment / "bin/python", "-c", code],
        cwd=tmp_path,
        env=variables(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == []
    (packages,) = environment.glob("lib/python*/site-packages")
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
    assert size < MAX_BYTES


@contextmanager
def api(environment: Path, store: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [environment / "bin/python", "-m", "services.api", "--store", store, "--port", "0"],
        cwd=store.parent,
        env=variables(store.parent),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0]
                return
        raise AssertionError("".join(lines))
    finally:
        process.kill()
        process.communicate()


def test_a_key_an_upload_and_a_job_are_served_from_it(environment: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    made = subprocess.run(
        [environment / "bin/dti", "keys", "create", "acme", "--store", store],
        cwd=tmp_path,
        env=variables(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    bundle = b"bytes of a bundle"
    sha256 = hashlib.sha256(bundle).hexdigest()
    job = {"subjects": [{"id": "rex", "bundle": sha256, "initializer": "dog"}]}
    with api(environment, store) as url:
        headers = {"Authorization": f"Bearer {made.stdout.strip()}", "Idempotency-Key": "one"}
        with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
            assert client.put(f"/v1/uploads/{sha256}", content=bundle).status_code == 201
            submitted = client.post("/v1/training-jobs", json=job)
            assert submitted.status_code == 202, submitted.text
            items = client.get(f"{submitted.headers['Location']}/items").json()["items"]
    assert [(item["id"], item["state"]) for item in items] == [("rex", "queued")]
