"""`dti store`: whether a store is one that the service can rely on, for operators."""

from typing import Annotated

import typer

from dti_engine.cli.console import Commands, busy, mount, print_json, results, say
from dti_engine.cli.options import JsonOption

CHECK_EXAMPLES = (
    "dti store check s3://bucket/dti",
    "dti store check s3://bucket/dti --json",
)


def check(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            envvar="DTI_STORE",
            help="Store: s3://BUCKET/PREFIX, file:///FOLDER or a path.",
            show_default=False,
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Check that a store keeps the promises that the service relies on.

    The check writes a few small objects below the prefix, and removes them. It exits with 0 if the
    store can be used, and with 2 if it cannot: another server, other credentials or another setting
    is needed, as the message says.
    """
    from services.storage.open import open_store
    from services.storage.probe import probe

    store = open_store(url)
    with busy("checking the store"):
        findings = probe(store)
    if as_json:
        document = {
            "store": store.url,
            "usable": True,
            "erases": findings.erases,
            "atomic_deletion": findings.atomic_deletion,
            "versioning": findings.retention.versioning,
            "object_lock": findings.retention.object_lock,
            "notes": findings.notes,
        }
        print_json(document)
        return
    results.print(f"{store.url} can be used", soft_wrap=True)
    for note in findings.notes:
        say(note, label="[yellow]note:[/] ")


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Check the object store of the service, as an operator.",
)
mount(app, check, CHECK_EXAMPLES)


@app.callback()
def _store() -> None:  # pyright: ignore[reportUnusedFunction]
    """Keep `check` a command of its own; Typer would merge a single one into the group."""
