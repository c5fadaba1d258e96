"""Podman, by the tools beside the checkout: images that are built from it, and their containers."""

import fcntl
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
TOOLS = ROOT.parent / "shared" / "tools"

READ_ONLY = (
    *("--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL"),
    # The image's own uid is 10001: this one has no entry in any file of users.
    *("--security-opt=no-new-privileges", "--user=12345:12345"),
)
RAY_FOLDERS = ("--tmpfs=/tmp:rw,exec,mode=1777", "--shm-size=512m")
"""The folders that Ray writes to."""

_BUILD_TIMEOUT_S = 1800


def call(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Return how a command of podman has ended, and what it has printed."""
    return subprocess.run(
        [str(TOOLS / "podman-ctl"), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def podman(*arguments: str, timeout_s: float = 120) -> str:
    """Return the standard output of a command of podman. Fails the test if the command fails."""
    done = call(*arguments, timeout_s=timeout_s)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Image:
    """An image, by its id and its name with a tag."""

    id: str
    name: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """What podman knows of the image: size, labels, layers."""
        (record,) = json.loads(podman("image", "inspect", self.id))
        return record

    @property
    def layers(self) -> list[str]:
        return self.record["RootFS"]["Layers"]

    @property
    def megabytes_over_base(self) -> float:
        base = Image(self.record["Labels"]["org.opencontainers.image.base.name"])
        return (self.record["Size"] - base.record["Size"]) / 1e6

    def run(self, *command: str, options: tuple[str, ...] = READ_ONLY) -> str:
        """Return what a command prints in a container of the image."""
        arguments = ("run", "--rm", "--pull=never", *options, self.id, *command)
        return podman(*arguments, timeout_s=300)

    @contextmanager
    def running(self, *command: str, options: tuple[str, ...] = READ_ONLY) -> Iterator["Container"]:
        """Run a command in a container of the image until the block ends."""
        name = podman("run", "--detach", "--pull=never", *options, self.id, *command).strip()
        try:
            yield Container(name)
        finally:
            podman("rm", "--force", "--time=10", name)


@dataclass(frozen=True)
class Container:
    """A container, by its id or name."""

    id: str

    def execute(self, *command: str) -> str:
        """Return what a command prints in the container."""
        return podman("exec", self.id, *command)

    def succeeds(self, *command: str) -> bool:
        """Return whether a command ends with 0 in the container, as a probe does."""
        return call("exec", self.id, *command).returncode == 0

    @property
    def state(self) -> dict[str, Any]:
        (record,) = json.loads(podman("container", "inspect", self.id))
        return record["State"]

    @property
    def log(self) -> str:
        done = call("logs", self.id)
        return done.stdout + done.stderr


def build(target: str, context: Path = ROOT) -> Image:
    """Build one target of the Dockerfile; unchanged layers come from the cache."""
    name = f"localhost/dti-test-{target}:{context.name}"
    options = ["--target", target, "--build-arg", "VERSION=1.2.3", "--build-arg", "REVISION=abc"]
    with (Path(tempfile.gettempdir()) / "dti-test-build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [str(TOOLS / "podman-build"), str(context), name, *options],
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return Image(done.stdout.split()[-1], name)


def answers(url: str, timeout_s: float = 10) -> bool:
    """Return whether a GET is answered with 200."""
    try:
        return httpx.get(url, timeout=timeout_s).status_code == 200
    except httpx.TransportError:
        return False


def wait_for(is_so: Callable[[], bool], explain: Callable[[], str], timeout_s: float = 120) -> None:
    """Wait until something is so, or fail with an explanation."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.5)
