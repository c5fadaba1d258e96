"""`dti evaluate`: subject and prompt scores of each method, beside floor and baselines."""

import typer

from dti_engine.cli.console import Commands, mount
from dti_engine.cli.evaluate_miniature import MINIATURE_EXAMPLES, miniature
from dti_engine.cli.evaluate_photographs import PHOTOGRAPHS_EXAMPLES, photographs

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Score every method on many subjects, beside floor and baselines, with intervals.",
)
mount(app, miniature, MINIATURE_EXAMPLES)
mount(app, photographs, PHOTOGRAPHS_EXAMPLES)
