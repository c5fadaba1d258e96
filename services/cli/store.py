"""`dti store`: whether a store is one that the service can rely on, for operators."""

from typing import TYPE_CHECKING, Annotated

import typer

from dti_engine.cli.console import Commands, busy, mount, print_json, results, say
from dti_engine.cli.options import JsonOption
from services.cli.display import facts_table
from services.errors import StoreRefusedError

if TYPE_CHECKING:
    from services.storage.probe import Findings

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

    The check writes a few small objects below the prefix, and removes them. It leaves a record for
    the processes of the service, which check the store themselves if it is missing, a week old, or
    of another version. It exits with 0 if the store can be used, and with 2 if it cannot: another
    server, other credentials or another setting is needed, as the message says.
    """
    from services.storage.open import open_store
    from services.storage.probe_record import probe_and_record

    store = open_store(url)
    try:
        with busy("checking the store"):
            record = probe_and_record(store)
    except StoreRefusedError as error:
        if as_json:
            print_json({"store": store.url, "usable": False, "reason": str(error)})
        raise
    findings = record.findings
    if as_json:
        document = {
            "store": store.url,
            "usable": True,
            "erases": findings.erases,
            "atomic_deletion": findings.atomic_deletion,
            "versioning": findings.retention.versioning,
            "object_lock": findings.retention.object_lock,
            "notes": findings.notes,
            "version": record.version,
            "time": record.time.isoformat(),
        }
        print_json(document)
        return
    results.print(f"{store.url} can be used", soft_wrap=True)
    results.print(facts_table(_facts(findings)))
    for note in findings.notes:
        say(note, label="[yellow]note:[/] ")


def _facts(findings: "Findings") -> dict[str, str]:
    """Return the rows of the table."""
    lock = findings.retention.object_lock
    return {
        "create once, compare and swap": "atomic",
        "read, list and delete": "the latest write is seen",
        "clock": "agrees with the times of objects",
        "conditional deletion": "atomic" if findings.atomic_deletion else "not atomic",
        "versioning": findings.retention.versioning,
        "object lock": "unknown" if lock is None else "on" if lock else "off",
        "deleted bytes": "gone at once" if findings.erases else "may stay",
    }


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
