"""Settings from flags, variables `DTI_...` and secret files, and what is wrong with them."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Self

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from services.errors import SettingsError

PREFIX = "DTI_"
"""The first letters of every variable of ours."""

_OTHER_VARIABLES = re.compile(
    # Variables of the client, the logs, the S3 store, and the tests.
    r"DTI_(API_KEY|SERVER|SECRETS_DIR|LOG_TO_CONTAINER|S3_\w+|TEST_\w+)"
)

_SERVICE_LINK = re.compile(
    r"(?P<service>DTI_(\w+?_)?)"
    r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|(?P<port>PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?))"
)
_SERVICE_URLS = ("tcp://", "udp://", "sctp://")

_SECRETS_DIR = "DTI_SECRETS_DIR"


class EnvironmentSettings(BaseSettings):
    """Settings that a process reads from flags, the environment and secret files."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_show_env_vars=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of values, first come, first served; flags go before them."""
        folder = os.environ.get(_SECRETS_DIR) or None
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, folder)

    @classmethod
    def read(cls, arguments: Sequence[str] = ()) -> Self:
        """Return the settings by command line, environment and secret files.

        Raises: SettingsError. SystemExit for --help and for an unknown flag.
        """
        # Each process knows the settings of all others, because they may share one environment.
        known = (
            name for process in _subclasses(EnvironmentSettings) for name in process.model_fields
        )
        reject_unknown_variables(PREFIX, known)
        folder = os.environ.get(_SECRETS_DIR)
        if folder and Path(folder).exists() and not Path(folder).is_dir():
            raise SettingsError(
                f"{_SECRETS_DIR} is {folder!r}, a file: give its folder, or unset it"
            )
        try:
            return CliApp.run(cls, cli_args=[*arguments])
        except ValidationError as error:
            raise SettingsError(explain(error, PREFIX)) from error


def _subclasses(parent: type[BaseSettings]) -> Iterator[type[BaseSettings]]:
    for child in parent.__subclasses__():
        yield child
        yield from _subclasses(child)


def reject_unknown_variables(prefix: str, fields: Iterable[str]) -> None:
    """Raise SettingsError if a variable with the prefix names no field: a typo would go unnoticed.

    The variables of the other processes are known to each: they may share one environment.
    """
    known = {prefix + name.upper() for name in fields}
    for name in sorted(os.environ):
        if not name.startswith(prefix) or name in known or _is_service_link(name):
            continue
        if prefix == PREFIX and _OTHER_VARIABLES.fullmatch(name):
            continue
        nearest = get_close_matches(name, known, n=1, cutoff=0)
        raise SettingsError(f"no setting is called {name}: did you mean {nearest[0]}? Unset it")


def _is_service_link(name: str) -> bool:
    """Return whether Kubernetes sets a variable, in every pod beside a Service called `dti-...`.

    A name with PORT alone may also be a misspelled setting, so its value has to tell.
    """
    link = _SERVICE_LINK.fullmatch(name)
    if not link or not link["port"]:
        return link is not None
    is_beside_host = f"{link['service']}SERVICE_HOST" in os.environ
    return is_beside_host or os.environ[name].startswith(_SERVICE_URLS)


def explain(error: ValidationError, prefix: str) -> str:
    """Return what is wrong with which setting, without credentials, which end up in logs."""
    problems: list[str] = []
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else "settings"
        flag, variable = f"--{name.replace('_', '-')}", prefix + name.upper()
        either = f"{flag} or {variable}" if prefix == PREFIX else variable
        if item["type"] == "missing":
            problems.append(f"{either} is not given")
        else:
            shown = without_credentials(item["input"]) if "secret" not in name else "(withheld)"
            problems.append(f"{either} is {shown!r}: {item['msg']}; change or unset it")
    return "; ".join(problems)


def without_credentials(value: object) -> object:
    """Return a URL without its credentials, and any other value unchanged."""
    return re.sub(r"//.*@", "//...@", value) if isinstance(value, str) else value
