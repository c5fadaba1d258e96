"""Webhook messages: the payload, and signatures as Standard Webhooks specifies them.

The payload has nothing of any item: a client fetches items with its API key. The specification is
at https://www.standardwebhooks.com.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import datetime

from services.ledger.queries import JobView

SECRET_PREFIX = "whsec_"


def job_ended_message(
    view: JobView, ended: datetime, state: str, counts: Mapping[str, int]
) -> bytes:
    """Return the JSON of a message of type `training_job.ended` or `generation_job.ended`."""
    data = {"job": view.job, "state": state, "counts": counts, "tags": view.tags}
    message = {"type": f"{view.kind}_job.ended", "timestamp": ended.isoformat(), "data": data}
    return json.dumps(message).encode()


def signed_headers(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message.

    Args:
        secret: The tenant's secret, `whsec_` and base64.
        message_id: The id, which is the same at each attempt.
        timestamp: The time of the attempt in seconds since 1970, so that receivers can refuse old
            messages.
        body: The message.
    """
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    text = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }
