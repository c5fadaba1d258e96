"""`dti serve`: the whole service on this machine."""

import atexit
import shutil
import signal
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from dti_engine.cli.console import busy, results, say, warn
from dti_engine.errors import DTIError
from services.errors import SettingsError, UnknownKeyError
from services.storage.settings import DirectorySettings, MemorySettings, store_settings

if TYPE_CHECKING:
    from services.contracts.models import ModelsFile
    from services.local.service import LocalService
    from services.storage.interface import Store

EXAMPLES = (
    "dti serve",
    "dti serve --store s3://bucket/prefix --port 8080",
    "dti serve --store ./store --models models.json",
)

_TENANT = "default"
_LOOK_INTERVAL_S = 2.0
_READY_TIMEOUT_S = 300.0  # engines load their models meanwhile, and the machine may be busy

_StoreOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="DTI_STORE",
        metavar="URL",
        help="Store of all data: a folder, or s3://BUCKET/PREFIX (docs/explanation/storage.md).",
    ),
]
_PortOption: TypeAlias = Annotated[
    int,
    typer.Option(
        "--port", min=0, max=65535, help="Port of the API on this host; 0 takes any free one."
    ),
]
_ModelsOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--models",
        envvar="DTI_MODELS",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="JSON file of the models that the service offers (services/contracts/models.py).",
        show_default="the miniature",
    ),
]
_EnginesOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--engines/--no-engines", help="Start engines that generate images, besides training."
    ),
]
_ApiKeyOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        envvar="DTI_API_KEY",
        help="An API key that the store knows already.",
        show_default="a new one",
    ),
]
_LogsOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--logs",
        file_okay=False,
        metavar="DIR",
        help="Folder for logs and for Ray's files; the path must be short.",
        show_default="a new folder",
    ),
]


def serve(
    store: _StoreOption = "dti-store",
    port: _PortOption = 8000,
    models: _ModelsOption = None,
    engines: _EnginesOption = True,
    api_key: _ApiKeyOption = None,
    logs: _LogsOption = None,
) -> None:
    """Run the whole service on this machine: API, supervisor, training workers and engines.

    Prints the address and an API key, and notes both where `dti submit` and other commands find
    them. Ctrl-C drains the workers and stops. A second start on the same store continues all open
    jobs, also after a crash. The file of models is read at the start: after a change, stop the
    service and start it again. The API listens on this host alone; Ray's ports accept only clients
    with the token of this run.
    """
    # The processes that start below need the extras; their errors would only stand in logs.
    for package in ("ray", "torch"):
        if find_spec(package) is None:
            raise ModuleNotFoundError(name=package)

    from services.contracts.models import ModelsFile, read_models
    from services.local.service import LocalService, LocalServiceSettings, free_port
    from services.storage.open import open_store
    from services.storage.probe_record import ensure_probed

    models_file = ModelsFile(models)
    if models:
        read_models(models)  # errors in the file are reported before anything starts
    store_url = _absolute_store(store)
    opened = open_store(store_url)
    with busy("testing the store"):
        ensure_probed(opened)
    settings = LocalServiceSettings(
        store=store_url, port=port or free_port(), models=_kept_models(models), engines=engines
    )
    stopped = _stop_on_signals()
    with LocalService(settings, folder=_log_folder(logs)) as service:
        with busy("starting"):
            service.wait_until_ready(_READY_TIMEOUT_S, stopped=stopped.is_set)
        if not stopped.is_set():
            _announce(service, _usable_key(opened, api_key))
            _wait(stopped, models_file)
        say("stopping: workers write checkpoints and return their subjects")
    say("stopped; the same command continues open jobs")


def _stop_on_signals() -> threading.Event:
    """Return an event that Ctrl-C and SIGTERM set."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return stopped


def _kept_models(models: Path | None) -> Path | None:
    """Copy the models file for as long as this process runs, and return the path of the copy.

    The supervisor follows a file that changes, and the other processes read it at their start: with
    the file itself, some would serve the new models and some the old ones.
    """
    if models is None:
        return None
    folder = tempfile.TemporaryDirectory(prefix="dti-models-")
    atexit.register(folder.cleanup)
    return Path(shutil.copyfile(models, Path(folder.name) / "models.json"))


def _wait(
    stopped: threading.Event, models_file: "ModelsFile", interval_s: float = _LOOK_INTERVAL_S
) -> None:
    """Wait until stopped; say once for each change of the models file that nothing follows it."""
    while not stopped.wait(interval_s):
        if models_file.has_changed():
            warn(
                "the models file has changed, and this service goes on with the models of its "
                "start: stop it and start it again to serve the new ones"
            )


def _announce(service: "LocalService", key: str) -> None:
    """Print the address and the API key, and note them for other commands."""
    from services.client.config import ServerConfig, write_config

    results.print(f"{service.url}\n{key}")
    try:
        path = write_config(ServerConfig(service.url, key))
    except DTIError as error:  # such as a home that is read-only: the service runs nonetheless
        warn(f"{error}; give other commands --server and --api-key")
    else:
        say(f"ready; address and API key are noted in {str(path)!r}")
    say(f"logs: {str(service.folder)!r}")
    say(f"documentation: {service.url}/docs")
    say(f"metrics: {' and '.join(service.metrics_urls)}")
    say("Ctrl-C drains the workers and stops")


def _usable_key(store: "Store", requested: str | None) -> str:
    """Return the requested or noted API key if this store knows it, else a new one.

    Raises: SettingsError if the store does not know the requested key.
    """
    from services.auth.authenticator import Authenticator
    from services.auth.keys import create_key
    from services.client.config import read_config

    authenticator = Authenticator(store)
    noted = read_config()
    for key in (requested, noted.key if noted else None):
        if key is None:
            continue
        try:
            authenticator.authenticate(key)
        except UnknownKeyError as error:
            if key == requested:
                raise SettingsError(
                    "this store does not know the API key that was given: leave it out for a new "
                    "one"
                ) from error
        else:
            return key
    return create_key(store, _TENANT, "dti serve").credential


def _absolute_store(store: str) -> str:
    """Return the store's URL for processes in other folders. Raises: SettingsError for memory:."""
    settings = store_settings(store)
    if isinstance(settings, MemorySettings):
        raise SettingsError(
            "the store memory: belongs to one process, and the service has several: give a folder, "
            "or s3://..."
        )
    return str(settings.root.absolute()) if isinstance(settings, DirectorySettings) else store


def _log_folder(logs: Path | None) -> Path | None:
    if logs is None:
        return None
    logs.mkdir(parents=True, exist_ok=True)
    return logs.absolute()
