"""What the file of a token says of it, read without torch: `dti_engine.artifact` writes them.

Layout of safetensors: the length of the header in 8 bytes, little-endian, then the header as JSON;
the manifest is one text in it, behind a digest and a space (`dti_engine.seals`).
"""

import json
from typing import Any

from pydantic import JsonValue

_KEY = "dti"


def read_manifest(payload: bytes) -> dict[str, JsonValue] | None:
    """The manifest; None if there is none, as of a file that another program wrote."""
    try:
        header: Any = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        text: str = header["__metadata__"][_KEY]
        manifest: Any = json.loads(text.partition(" ")[2])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if isinstance(manifest, dict) else None
