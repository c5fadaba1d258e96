"""Images that are built from this checkout, and containers of them.

The build tools lie beside the checkout; without them these tests are skipped.
"""

import fcntl
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.local.service import free_port

ROOT = Path(__file__).parents[2]
TOOLS = ROOT.parent / "shared" / "tools"
LIMITS = ("--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=12345:12345")
"""The image's own uid is 10001: this one has no entry in any file of users."""

READ_ONLY = ("--read-only", "--read-only-tmpfs=false", *LIMITS)
RAY_FOLDERS = ("--tmpfs=/tmp:rw,exec,mode=1777", "--shm-size=512m")
"""The folders that Ray writes to."""

BUILD_TIMEOUT_S = 1800


def podman(*arguments: str, check: bool = True, timeout_s: float = 120) -> str:
    """Return the standard output of podman."""
    done = subprocess.run(
        [str(TOOLS / "podman-ctl"), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Image:
    """An image, by its id."""

    id: str

    @property
    def config(self) -> dict[str, Any]:
        """The image's record: size, labels, layers."""
        (record,) = json.loads(podman("image", "inspect", self.id))
        return record

    @property
    def layers(self) -> list[str]:
        return self.config["RootFS"]["Layers"]

    @property
    def megabytes_over_base(self) -> float:
        base = Image(self.config["Labels"]["org.opencontainers.image.base.name"])
        return (self.config["Size"] - base.config["Size"]) / 1e6

    def run(
        self, *command: str, options: tuple[str, ...] = READ_ONLY, timeout_s: float = 120
    ) -> str:
        """Return what a command prints in a container of the image."""
        return podman(
            *("run", "--rm", "--pull=never", *options, self.id, *command), timeout_s=timeout_s
        )

    @contextmanager
    def running(self, *command: str, options: tuple[str, ...] = READ_ONLY) -> Iterator["Container"]:
        """Run a command in a container of the image until the block ends."""
        name = podman("run", "--detach", "--pull=never", *options, self.id, *command).strip()
        try:
            yield Container(name)
        finally:
            podman("rm", "--force", "--time=30", name)


@dataclass(frozen=True)
class Container:
    """A running container, by its id."""

    id: str

    def execute(self, *command: str, check: bool = True) -> str:
        """Return what a command prints in the container."""
        return podman("exec", self.id, *command, check=check)

    def succeeds(self, *command: str) -> bool:
        """Return whether a command ends with 0 in the container, as a probe does."""
        done = subprocess.run(
            [str(TOOLS / "podman-ctl"), "exec", self.id, *command],
            capture_output=True,
            timeout=60,
            check=False,
        )
        return done.returncode == 0

    @property
    def log(self) -> str:
        return podman("logs", self.id)


def build(target: str, context: Path = ROOT) -> Image:
    """Build one target of the Dockerfile; unchanged layers come from the cache."""
    if not (TOOLS / "podman-build").exists():
        pytest.skip("no ../shared/tools beside the checkout: images cannot be built")
    tag = f"localhost/dti-test-{target}:{context.name}"
    options = ["--target", target, "--build-arg", "VERSION=1.2.3", "--build-arg", "REVISION=abc"]
    with Path("/tmp/dti-test-build.lock").open("w") as lock:  # one build at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [str(TOOLS / "podman-build"), str(context), tag, *options],
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return Image(done.stdout.split()[-1])


@pytest.fixture(scope="session")
def api_image() -> Image:
    return build("api")


@pytest.fixture(scope="session")
def ray_image() -> Image:
    return build("ray")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A copy of what the images are built from."""
    folder = tmp_path / "context"
    for name in ("dti_engine", "services", "deploy"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Dockerfile", ".dockerignore", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, folder / name)
    for name in ("README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder / name)
    return folder
