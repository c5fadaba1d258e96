import os
import subprocess
from pathlib import Path

import pytest
from chart.rendering import TOOLS, Chart


@pytest.fixture(scope="session")
def helm_folder() -> Path:
    """The folder with `helm` (4) and `helm3` (3.18)."""
    if not (TOOLS / "install-helm").exists():
        pytest.skip("the tools that install Helm are not beside this checkout")
    done = subprocess.run([TOOLS / "install-helm"], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def chart(helm_folder: Path) -> Chart:
    os.environ.pop("HELM_NAMESPACE", None)
    return Chart(helm_folder)
