"""Signatures as the Standard Webhooks specification has them: https://www.standardwebhooks.com.

What is told. Nothing of any item: whoever is told asks for that with a key.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import datetime

from services.ledger.queries import JobView


def job_ended(view: JobView, seen: datetime, state: str, counts: Mapping[str, int]) -> bytes:
    """The message that a job has ended so, which was first `seen` then, as JSON: of the type
    `training_job.ended` or `generation_job.ended`.
    """
    data = {"job": view.job, "state": state, "counts": counts, "tags": view.tags}
    said = {"type": f"{view.kind}_job.ended", "timestamp": seen.isoformat(), "data": data}
    return json.dumps(said).encode()


PREFIX = "whsec_"


def signed_headers(secret: str, message: str, timestamp: int, body: bytes) -> dict[str, str]:
    """What a message is sent with. `secret` is `whsec_` and base64; `timestamp` is of the attempt,
    in seconds since 1970, so that old messages can be refused.
    """
    key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    text = f"{message}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }
