"""`dti serve`: the whole service on this machine."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from dti_engine.cli.console import busy, results, say
from services.errors import SettingsError, UnknownKeyError
from services.storage.settings import DirectorySettings, MemorySettings, store_settings

if TYPE_CHECKING:
    from services.storage.interface import Store

EXAMPLES = (
    "dti serve",
    "dti serve --store s3://bucket/prefix --port 8080",
    "dti serve --store ./store --offers offers.json",
)

_TENANT = "default"


def serve(
    store: Annotated[
        str,
        typer.Option(
            envvar="DTI_STORE",
            metavar="URL",
            help="Where all of it lies: a folder, or s3://BUCKET/PREFIX (docs/storage.md).",
        ),
    ] = "dti-store",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of this host alone; 0: any that is free.")
    ] = 8000,
    served_models: Annotated[
        Path | None,
        typer.Option(
            envvar="DTI_MODELS",
            exists=True,
            dir_okay=False,
            help="JSON: the models that are offered (services/contracts/models.py).",
            show_default="the miniature",
        ),
    ] = None,
    endpoint: Annotated[
        bool, typer.Option(help="Generate images, too; without it, subjects are learned alone.")
    ] = True,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="DTI_API_KEY", help="One that is known already.", show_default="a new one"
        ),
    ] = None,
    logs: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="For logs, and what Ray writes; a short path.",
            show_default="a new folder",
        ),
    ] = None,
) -> None:
    """Run the whole service on this machine: API, supervisor, a Ray node with training workers and
    engines that generate.

    Prints the address and a key, and notes both where `dti submit` and the others look. Ctrl-C
    drains the workers and stops; a second start on the same store goes on with all open jobs, and
    so it does after a crash. The API listens on this host alone. Ray's ports do not, and let in
    only who has the token of this run.
    """
    # Loaded here, as they take a while, and --help needs none of them.
    from services.client.config import ServerConfig, write_access
    from services.contracts.models import read_models
    from services.local.service import LocalService, LocalServiceSettings, free_port
    from services.storage.open import open_store
    from services.storage.probe import probe

    if served_models:
        read_models(served_models)
    where = _absolute(store)
    opened = open_store(where)
    with busy("trying out the store"):
        probe(opened)
    settings = LocalServiceSettings(
        store=where, port=port or free_port(), models=served_models, engines=endpoint
    )
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, stop)
    with LocalService(settings, folder=_folder(logs)) as service:
        with busy("starting"):
            service.wait_until_ready(stopped=stopped.is_set)
        if not stopped.is_set():
            credential = _credential(opened, key)
            access = ServerConfig(service.url, credential)
            path = write_access(access)
            results.print(f"{service.url}\n{credential}")
            say(f"ready; address and key are noted in {str(path)!r}")
            say(f"logs: {str(service.folder)!r}")
            say(f"documentation: {service.url}/docs")
            say(f"metrics: {' and '.join(service.metrics_urls)}")
            say("Ctrl-C drains the workers and stops")
            stopped.wait()
        say("stopping: workers give back what they have learned so far")
    say("stopped; the same command goes on with what is open")


def _credential(store: "Store", given: str | None) -> str:
    """The key that was given or noted, if this store knows it; a new one otherwise."""
    from services.auth.authenticator import Authenticator
    from services.auth.keys import create_key
    from services.client.config import read_access

    authenticator = Authenticator(store)
    noted = read_access()
    for known in (given, noted.key if noted else None):
        if known is None:
            continue
        try:
            authenticator.authenticate(known)
        except UnknownKeyError as error:
            if known == given:
                raise SettingsError(
                    "this store does not know the key that was given: leave it out for a new one"
                ) from error
        else:
            return known
    return create_key(store, _TENANT, "dti serve").credential


def _absolute(store: str) -> str:
    """The same store for processes in other folders. Raises: SettingsError."""
    settings = store_settings(store)
    if isinstance(settings, MemorySettings):
        raise SettingsError(
            "memory: is of one process, and the service has several: give a folder, or s3://..."
        )
    return str(settings.root.absolute()) if isinstance(settings, DirectorySettings) else store


def _folder(logs: Path | None) -> Path | None:
    if logs is None:
        return None
    logs.mkdir(parents=True, exist_ok=True)
    return logs.absolute()
