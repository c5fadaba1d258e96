"""The variables `DTI_...` of the environment: which are known, and what is wrong with a value."""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError

from services.errors import SettingsError

PREFIX = "DTI_"
"""The first letters of every variable of ours."""

_OTHER_VARIABLES = re.compile(
    # Variables of the client, of the S3 store, and of the tests.
    r"DTI_(API_KEY|SERVER|SECRETS_DIR|S3_\w+|TEST_\w+)"
    # Kubernetes sets these in every pod beside a Service called dti or dti-...: not ours to refuse.
    r"|DTI_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)


def reject_unknown_variables(prefix: str, fields: Iterable[str]) -> None:
    """Raise SettingsError if a variable with the prefix names no field: a typo would go unnoticed.

    The variables of the other processes are known to each: they may share one environment.
    """
    known = {prefix + name.upper() for name in fields}
    for name in sorted(os.environ):
        if not name.startswith(prefix) or name in known:
            continue
        if prefix == PREFIX and _OTHER_VARIABLES.fullmatch(name):
            continue
        nearest = get_close_matches(name, known, n=1, cutoff=0)
        raise SettingsError(f"no setting is called {name}: did you mean {nearest[0]}? Unset it")


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
