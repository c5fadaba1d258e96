"""Read tokens from a service of dti.

Address and API key come from the environment alone, DTI_SERVER and DTI_API_KEY. A workflow is saved
in every image, so a key in it would be published; and with an address in it, a workflow of a
stranger could send the key anywhere.
"""

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from .tokens import MAX_BYTES, Token, parse_token

_TIMEOUT_S = 30
_TOKEN_ID = re.compile(r"tok_[0-9a-z]+")


def find_token(name: str) -> str:
    """Return the id of a token: the name itself, or the newest token of the subject.

    Raises: ValueError if there is none; RuntimeError if the service does not answer.
    """
    if _TOKEN_ID.fullmatch(name):
        return name
    query = urllib.parse.urlencode({"alias": name, "limit": "1"})
    found = json.loads(_get(f"/v1/tokens?{query}"))["tokens"]
    if not found:
        raise ValueError(f"the service has no token of {name!r}; `dti tokens` lists them")
    return str(found[0]["token"])


def load_token(name: str) -> Token:
    """Return a token by the id of its subject, or its own id. Raises: as `find_token`."""
    token = find_token(name)
    return parse_token(_get(f"/v1/tokens/{token}/file?format=comfyui"), f"token {token}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, as the API key would go along."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _get(path: str) -> bytes:
    server, key = os.environ.get("DTI_SERVER", ""), os.environ.get("DTI_API_KEY", "")
    if not server.startswith(("http://", "https://")) or not key:
        raise RuntimeError(
            "set DTI_SERVER to the address of the service and DTI_API_KEY to a key of it, in the "
            "environment in which ComfyUI starts"
        )
    request = urllib.request.Request(
        server.rstrip("/") + path, headers={"Authorization": f"Bearer {key}"}
    )
    try:
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=_TIMEOUT_S) as response:
            return response.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise ValueError(f"the service refuses: {_detail(error)}") from error
    except OSError as error:
        raise RuntimeError(f"the service at {server} does not answer: {error}") from error


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read(100_000))["detail"])
    except (ValueError, KeyError, TypeError):
        return f"status {error.code}"
