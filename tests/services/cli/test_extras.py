"""Commands without the packages of the extras: what works, and what they say of the rest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hosted import Hosted

HIDE = """
import sys

HIDDEN = {
    "torch", "numpy", "diffusers", "transformers", "tokenizers", "safetensors", "huggingface_hub",
    "matplotlib", "jinja2", "scipy", "ray",
}


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hidden())
from services.cli_app import main

main()
"""


def dti(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return a function that runs `dti` without the packages of the engine and of Ray."""
    return subprocess.run(
        [sys.executable, "-c", HIDE, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "command", "extra"),
    [
        (("train", "{photos}"), "dti train", "engine"),
        (("generate", "a dog"), "dti generate", "engine"),
        (("models",), "dti models", "engine"),
        (("demo",), "dti demo", "engine"),
        (("evaluate", "miniature"), "dti evaluate miniature", "engine"),
        (("serve",), "dti serve", "ray"),
    ],
)
def test_a_command_that_lacks_an_extra_names_it(
    photos: Path, tmp_path: Path, arguments: tuple[str, ...], command: str, extra: str
) -> None:
    words = [word.format(photos=photos) for word in arguments]
    home = {"XDG_CONFIG_HOME": str(tmp_path), "DTI_STORE": str(tmp_path / "store")}
    refused = dti(*words, **home)
    assert refused.returncode == 2, refused.stderr
    assert f"{command} needs the extra '{extra}': pip install 'dti[{extra}]'" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    "arguments", [("--help",), ("jobs",), ("submit", "{photos}"), ("tokens",), ("bundle", "--help")]
)
def test_a_client_needs_no_extra(service: Hosted, photos: Path, arguments: tuple[str, ...]) -> None:
    words = [word.format(photos=photos) for word in arguments]
    done = dti(*words, **service.environment)
    assert done.returncode == 0, done.stderr
