"""Jobs by part of their ids: these are long, since nobody may guess them."""

from itertools import islice
from typing import TYPE_CHECKING

from dti_engine.errors import ConfigurationError
from services.client.answers import Job

if TYPE_CHECKING:
    from services.client.client import Client

_WHOLE = 26  # characters of a job's id
_LEAST = 3
_RECENT = 100  # jobs that are looked at


def find_job(client: "Client", text: str) -> Job:
    """The job of this id, or the one recent job whose id begins or ends so.

    Raises: ConfigurationError if there is none, or several are; ClientError.
    """
    text = text.lower()
    if len(text) == _WHOLE and text.isalnum() and text.isascii():
        return client.job(text)
    if not _LEAST <= len(text) < _WHOLE:
        raise ConfigurationError(
            f"{text!r:.80} is no job's id: they have {_WHOLE} digits and letters; {_LEAST} at the "
            "beginning or the end will do. `dti jobs` lists them"
        )
    recent = list(islice(client.jobs(), _RECENT))
    found = [job for job in recent if job.job.startswith(text) or job.job.endswith(text)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigurationError(
            f"none of the {len(recent)} newest jobs has an id that begins or ends with {text!r}; "
            "give it whole if it is older"
        )
    names = ", ".join(job.job for job in found[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    raise ConfigurationError(f"{text!r} may be {names}{more}: give more of it")
