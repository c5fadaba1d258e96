"""`dti serve`: the whole service on this machine."""

import atexit
import shutil
import signal
import tempfile
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from dti_engine.cli.console import busy, results, say, warn
from dti_engine.errors import DTIError, OutputError
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
    "dti serve --host 0.0.0.0 --port 8080",
)

_TENANT = "default"
_LOOK_INTERVAL_S = 2.0
_START_TIMEOUT_S = 300.0  # engines load their models meanwhile, and the machine may be busy

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
_HostOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="Address that the API listens on: 127.0.0.1 for this host alone, 0.0.0.0 for all "
        "networks of this host.",
    ),
]
_StartTimeoutOption: TypeAlias = Annotated[
    float,
    typer.Option(
        "--start-timeout",
        min=1,
        metavar="SECONDS",
        help="Time for all processes to start. Loading large weights from a slow disk takes long.",
    ),
]
_PrivateWebhooksOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--allow-private-webhooks",
        envvar="DTI_ALLOW_PRIVATE_WEBHOOKS",
        help="Also send webhooks to private addresses, such as those of this host, and by http.",
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
    host: _HostOption = "127.0.0.1",
    port: _PortOption = 8000,
    models: _ModelsOption = None,
    engines: _EnginesOption = True,
    api_key: _ApiKeyOption = None,
    logs: _LogsOption = None,
    start_timeout_s: _StartTimeoutOption = _START_TIMEOUT_S,
    allow_private_webhooks: _PrivateWebhooksOption = False,
) -> None:
    """Run the whole service on this machine: API, supervisor, training workers and engines.

    Prints the address and an API key, and notes both where `dti submit` and other commands find
    them. Ctrl-C drains the workers and stops. A second start on the same store continues all open
    jobs, also after a crash. The file of models is read at the start: after a change, stop the
    service and start it again. The API listens on this host alone unless --host says otherwise;
    Ray's ports accept only clients with the token of this run.
    """
    # The processes that start below need the extras; their errors would only stand in logs.
    for package in ("ray", "torch"):
        if find_spec(package) is None:
            raise ModuleNotFoundError(name=package)

    from services.auth.keys import create_key
    from services.contracts.models import ModelsFile, read_models
    from services.local.host import free_port
    from services.local.service import LocalService, LocalServiceSettings
    from services.storage.open import open_store
    from services.storage.probe_record import ensure_probed

    _check_form(api_key)
    models_file = ModelsFile(models)
    if models:
        read_models(models)  # errors in the file are reported before anything starts
    store_url = _absolute_store(store)
    opened = open_store(store_url)
    with busy("testing the store"):
        ensure_probed(opened)
    key = _known_key(opened, api_key)
    settings = LocalServiceSettings(
        store=store_url,
        host=host,
        port=port or free_port(),
        models=_kept_models(models),
        engines=engines,
        allow_private_webhooks=allow_private_webhooks,
    )
    stopped = _stop_on_signals()
    with LocalService(settings, folder=_log_folder(logs)) as service:
        _await_start(service, start_timeout_s, stopped)
        if not stopped.is_set():
            _announce(service, key or create_key(opened, _TENANT, "dti serve").credential)
            _wait(stopped, models_file)
        _say_if_possible("stopping: workers write checkpoints and return their subjects")
    _say_if_possible("stopped; the same command continues open jobs")


def _stop_on_signals() -> threading.Event:
    """Return an event that Ctrl-C, SIGTERM and the end of the terminal (SIGHUP) set."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    signals = [signal.SIGINT, signal.SIGTERM]
    # `nohup` ignores it, so that the service outlives the terminal.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    for number in signals:
        signal.signal(number, stop)
    return stopped


def _say_if_possible(text: str) -> None:
    """Say something, unless the terminal has gone."""
    with suppress(OSError):
        say(text)


def _await_start(service: "LocalService", timeout_s: float, stopped: threading.Event) -> None:
    """Wait until the service is ready or stopped, and say what it waits for."""
    with ExitStack() as shown:

        def show(awaited: str) -> None:
            shown.close()
            shown.enter_context(busy(f"waiting for {awaited}"))

        service.wait_until_ready(timeout_s, on_wait=show, stopped=stopped.is_set)


def _kept_models(models: Path | None) -> Path | None:
    """Copy the models file for as long as this process runs, and return the path of the copy.

    The supervisor follows a file that changes, and the other processes read it at their start: with
    the file itself, some would serve the new models and some the old ones.
    """
    if models is None:
        return None
    with _written():
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
    from services.local.host import is_loopback

    results.print(f"{service.url}\n{key}")
    try:
        path = write_config(ServerConfig(service.url, key))
    except DTIError as error:  # such as a home that is read-only: the service runs nonetheless
        warn(f"{error}; give other commands --server and --api-key")
    else:
        say(f"ready; address and API key are noted in {str(path)!r}")
    if not is_loopback(service.settings.host):
        warn(
            f"the API listens on {service.settings.host}, port {service.settings.port}, for "
            "everyone who reaches it there: all of /v1 requires an API key, but /healthz, /readyz, "
            "/metrics, /docs and signed links do not, and nothing is encrypted; put a proxy with "
            "TLS before it"
        )
    say(f"logs: {str(service.folder)!r}")
    say(f"documentation: {service.url}/docs")
    say(f"metrics: {' and '.join(service.metrics_urls)}")
    say("Ctrl-C drains the workers and stops")


def _check_form(api_key: str | None) -> None:
    """Raise SettingsError if a requested API key is not one. The message does not show it."""
    from services.auth.keys import Credential

    if api_key is not None and Credential.parse(api_key) is None:
        raise SettingsError(
            f"the API key that was given has {len(api_key)} characters and not the form of a key, "
            "dti_ID_SECRET: copy the whole key and no more, or leave out --api-key and DTI_API_KEY "
            "for a new one"
        )


def _known_key(store: "Store", requested: str | None) -> str | None:
    """Return the requested or noted API key if this store knows it; None if a new one is needed.

    Raises: SettingsError if the store does not know the requested key.
    """
    from services.auth.authenticator import Authenticator
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
                    "this store does not know the API key that was given, or it was revoked or has "
                    "expired: leave out --api-key and DTI_API_KEY for a new one"
                ) from error
        else:
            return key
    return None


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
    with _written():
        logs.mkdir(parents=True, exist_ok=True)
    return logs.absolute()


@contextmanager
def _written() -> Generator[None]:
    """Raise OutputError if a file or folder cannot be written, as on a full disk."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {str(error.filename2 or error.filename)!r}: {error.strerror}"
        ) from error
