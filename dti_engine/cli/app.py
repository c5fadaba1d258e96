"""The `dti` program of the library; a package above this one may mount more commands on `app`."""

from typing import Annotated

import typer

from dti_engine import __version__
from dti_engine.cli import blend as blending
from dti_engine.cli import bundle as bundles
from dti_engine.cli import demo as demonstration
from dti_engine.cli import doctor as diagnosis
from dti_engine.cli import export as exchange
from dti_engine.cli import generate as generation
from dti_engine.cli import init as initialization
from dti_engine.cli import inspect as inspection
from dti_engine.cli import models
from dti_engine.cli import push as publishing
from dti_engine.cli import report as reporting
from dti_engine.cli import train as training
from dti_engine.cli.console import Commands, examples, mount, print_any_text
from dti_engine.cli.evaluate_miniature import MINIATURE_EXAMPLES, miniature
from dti_engine.cli.evaluate_photographs import PHOTOGRAPHS_EXAMPLES, photographs

app = typer.Typer(
    name="dti",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # a bug shows its plain traceback, for a report
    epilog=examples(
        "dti demo",
        "dti train photos/rex --initializer dog --output tokens",
        'dti generate "a photo of a <rex> on a beach" --token tokens/rex.safetensors',
    ),
)


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"dti {__version__}")
        raise typer.Exit


@app.callback()
def dti(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Learn a subject as one token from a few images, and generate it in any prompt.

    Directional Textual Inversion learns the direction of a word; the model itself stays unchanged.
    `dti COMMAND --help` explains each command with examples.
    """


evaluate = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Score every method on many subjects, beside floor and baselines, with intervals.",
)
mount(evaluate, miniature, MINIATURE_EXAMPLES)
mount(evaluate, photographs, PHOTOGRAPHS_EXAMPLES)

mount(app, diagnosis.doctor, diagnosis.EXAMPLES)
mount(app, demonstration.demo, demonstration.EXAMPLES)
mount(app, initialization.init, initialization.EXAMPLES)
app.add_typer(bundles.app, name="bundle", epilog=examples(*bundles.CHECK_EXAMPLES))
mount(app, training.train, training.EXAMPLES)
mount(app, reporting.report, reporting.EXAMPLES)
mount(app, generation.generate, generation.EXAMPLES)
mount(app, blending.blend, blending.EXAMPLES)
app.add_typer(evaluate, name="evaluate", epilog=examples(*MINIATURE_EXAMPLES))
app.add_typer(models.app, name="models")
mount(app, inspection.inspect, inspection.EXAMPLES)
mount(app, exchange.export, exchange.EXPORT_EXAMPLES)
mount(app, exchange.import_token, exchange.IMPORT_EXAMPLES, name="import")
mount(app, publishing.push, publishing.EXAMPLES)


def main() -> None:
    """Run the program."""
    print_any_text()
    app()
