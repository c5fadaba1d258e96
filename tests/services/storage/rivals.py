"""One of many processes that write to a directory store at once, to be killed at any moment.

    python rivals.py FOLDER SEED    write until killed; one line of JSON a write on standard output

Objects say who wrote them, and end with the digest of all before it.
"""

import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

from services.errors import AlreadyExistsError, NotFoundError, PreconditionFailedError
from services.storage.directory import DirectoryStore


def sealed(content: dict[str, Any]) -> bytes:
    body = json.dumps(content).encode()
    return body + hashlib.sha256(body).hexdigest().encode()


def unsealed(body: bytes) -> dict[str, Any]:
    """Check that the body is whole.

    Raises:
        ValueError: The body is not whole.
    """
    if hashlib.sha256(body[:-64]).hexdigest().encode() != body[-64:]:
        raise ValueError(f"half an object: {body[:80]!r}... of {len(body)} bytes")
    return json.loads(body[:-64])


def main(folder: Path, seed: int) -> None:
    store = DirectoryStore(folder)
    rng = random.Random(seed)
    seen = 0
    for number in range(10**9):
        nonce = f"{seed}-{number}"

        def say(done: str, key: str, etag: str = "", nonce: str = nonce) -> None:
            line = {"done": done, "key": key, "nonce": nonce, "etag": etag}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()

        padding = "x" * rng.choice([0, 10, 200_000])
        choice = rng.random()
        try:
            if choice < 0.3:
                key = f"once/{rng.randrange(10**3)}"
                say("begun", key)
                say("won", key, store.create(key, sealed({"nonce": nonce, "padding": padding})))
            elif choice < 0.7:
                found = store.read("chain")
                content = unsealed(found.body)
                if len(content["nonces"]) < seen:
                    raise ValueError(f"the chain went back from {seen}")
                seen = len(content["nonces"])
                content = {"nonces": [*content["nonces"], nonce], "padding": padding}
                say("begun", "chain")
                say(
                    "won",
                    "chain",
                    store.replace("chain", sealed(content), expected=found.head.etag),
                )
            elif choice < 0.85:
                say("begun", "phoenix")
                say("won", "phoenix", store.create("phoenix", sealed({"nonce": nonce})))
            else:
                found = store.read("phoenix")
                unsealed(found.body)
                store.delete_if("phoenix", expected=found.head.etag)
        except (AlreadyExistsError, PreconditionFailedError, NotFoundError):
            continue


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
