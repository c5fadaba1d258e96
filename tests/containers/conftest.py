import shutil
import subprocess
from pathlib import Path

import pytest
from chart.rendering import Chart
from containers.podman import ROOT, TOOLS, Image, build

from services.local.service import free_port


@pytest.fixture(scope="session")
def _tools() -> None:
    if not (TOOLS / "podman-build").exists():
        pytest.skip("the tools that build images are not beside this checkout")


@pytest.fixture(scope="session")
def api_image(_tools: None) -> Image:
    return build("api")


@pytest.fixture(scope="session")
def ray_image(_tools: None) -> Image:
    return build("ray")


@pytest.fixture(scope="session")
def chart(_tools: None) -> Chart:
    done = subprocess.run([TOOLS / "install-helm"], capture_output=True, text=True, check=True)
    return Chart(Path(done.stdout.split()[-1]))


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def context(tmp_path: Path, _tools: None) -> Path:
    """A copy of what the images are built from."""
    folder = tmp_path / "context"
    for name in ("dti_engine", "services", "deploy/image"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    files = ("Dockerfile", ".dockerignore", "pyproject.toml", "constraints.txt")
    for name in (*files, "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder / name)
    return folder
