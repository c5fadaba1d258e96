"""`dti` with the commands of the service: what starting it loads, and what its help shows."""

import os
import shlex
import subprocess
import sys

import pytest
import typer.main
from hosted import Hosted
from typer.testing import CliRunner

from dti_engine.cli import blend as blending
from dti_engine.cli import generate as generation
from services.cli import generate_bulk, jobs, tokens
from services.cli import submit as submission
from services.cli_app import app

EXAMPLES = {
    "generate": generation.EXAMPLES,
    "blend": blending.EXAMPLES,
    "generate-bulk": generate_bulk.EXAMPLES,
    "submit": submission.EXAMPLES,
    "jobs": jobs.LIST_EXAMPLES,
    "job": jobs.SHOW_EXAMPLES,
    "cancel": jobs.CANCEL_EXAMPLES,
    "retry": jobs.RETRY_EXAMPLES,
    "tokens": tokens.EXAMPLES,
    "delete": jobs.DELETE_EXAMPLES,
}
HEAVY = ("torch", "numpy", "diffusers", "transformers", "safetensors", "ray", "fastapi", "boto3")


def loaded(arguments: str, environment: dict[str, str], names: tuple[str, ...]) -> str:
    """Return which of these modules a command has loaded."""
    code = (
        "import sys; from services.cli_app import app; "
        f"app({shlex.split(arguments)}, standalone_mode=False); "
        f"print([name for name in {names} if name in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return ran.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", ["submit --help", "--help"])
def test_help_loads_nothing_that_is_slow(command: str) -> None:
    assert loaded(command, dict(os.environ), (*HEAVY, "httpx", "PIL")) == "[]"


@pytest.mark.parametrize("command", ["jobs", "submit {photos}", "tokens"])
def test_no_command_loads_torch(command: str, service: Hosted, photos: object) -> None:
    environment = {**os.environ, **service.environment}
    assert loaded(command.format(photos=photos), environment, HEAVY) == "[]"


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_shows_examples_of_the_command(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    assert f"dti {name}" in shown.stdout.partition("Examples")[2]


@pytest.mark.parametrize("example", [each for some in EXAMPLES.values() for each in some])
def test_examples_use_options_that_exist(example: str) -> None:
    program, name, *arguments = shlex.split(example)
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert program == "dti"
    assert {each for each in arguments if each.startswith("-")} <= known


def test_every_command_of_the_service_has_json_and_says_where_it_is() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name in EXAMPLES:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {"--json", "--server", "--api-key"} <= options


def test_commands_of_the_engine_are_still_there() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert all(name in shown for name in ("train", "generate", "bundle", "submit"))
