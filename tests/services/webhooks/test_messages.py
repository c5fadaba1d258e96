"""Signatures are what any receiver that follows the specification computes."""

import base64
import secrets
from typing import Any

from services.webhooks.sender import signed_headers

# The example of the specification's own libraries.
_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_MESSAGE, _TIME, _BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_example_of_the_specification_has_its_signature() -> None:
    assert signed_headers([_SECRET], _MESSAGE, _TIME, _BODY) == {
        "webhook-id": _MESSAGE,
        "webhook-timestamp": str(_TIME),
        "webhook-signature": _SIGNATURE,
    }


def test_a_receiver_accepts_only_the_signed_message(receives: Any) -> None:
    for size in (24, 32, 64):
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(size)).decode()
        headers = signed_headers([secret], _MESSAGE, _TIME, _BODY)
        assert receives(secret, headers, _BODY)
        other = "whsec_" + base64.b64encode(secrets.token_bytes(size)).decode()
        assert not receives(other, headers, _BODY)
        assert not receives(secret, headers, _BODY + b" ")
        assert not receives(secret, headers | {"webhook-id": "msg_x"}, _BODY)
        assert not receives(secret, headers | {"webhook-timestamp": str(_TIME + 1)}, _BODY)
