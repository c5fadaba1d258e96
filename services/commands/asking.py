"""Whether what cannot be undone is meant."""

import sys

import typer

from dti_engine.errors import ConfigurationError


def ask(what: str, *, yes: bool) -> None:
    """Whether to delete it. yes: it was said already.

    Raises: ConfigurationError if nobody can be asked; Exit if the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{what} would be deleted for good, and nobody is here to ask: add --yes if so"
        )
    if not typer.confirm(f"Delete {what} for good?", err=True):
        raise typer.Exit(1)
