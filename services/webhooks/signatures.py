"""Signatures as the Standard Webhooks specification has them: https://www.standardwebhooks.com."""

import base64
import hashlib
import hmac

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
