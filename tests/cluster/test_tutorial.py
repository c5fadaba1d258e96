"""The commands of the service tutorial run as they stand there, against the whole service."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dti_engine.artifacts.artifact import Artifact
from dti_engine.miniature.world.subjects import draw_subject, held_out_subjects

from .conftest import SECONDS, Caller

pytestmark = pytest.mark.ray

TUTORIAL = Path(__file__).parents[2] / "docs/tutorial/first-service.md"


def test_the_curl_commands_learn_a_token(caller: Caller, tmp_path: Path) -> None:
    (commands,) = re.findall(r"```bash\n(.*?)```", TUTORIAL.read_text(), re.S)
    draw_subject(held_out_subjects("demo")[1], tmp_path / "photos/rex", count=3)
    credential = caller.http.headers["Authorization"].removeprefix("Bearer ")
    access = {"DTI_SERVER": caller.service.url, "DTI_API_KEY": credential}
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # for python3
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env=os.environ | access | path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "event: end" in done.stdout
    artifact = Artifact.load(tmp_path / "rex.safetensors")
    assert artifact.token.placeholder == "<rex>"
    assert artifact.manifest.training
    assert artifact.manifest.training.initializer == "dog"
