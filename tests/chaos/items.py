"""The items of jobs. A request is derived from its key alone, so that its repetition is the same.

The script of an item decides what becomes of it:

    good      succeeds
    flaky     fails at its first attempt of a round, then succeeds
    bad       fails for good in round 0, and succeeds when it is retried
    hopeless  fails at every attempt
    poison    kills its worker at every attempt of round 0, and succeeds when it is retried
"""

import random
from typing import Literal

from services.contracts.jobs import JobItem, JobRequest

Script = Literal["good", "flaky", "bad", "hopeless", "poison"]
_WEIGHTS: dict[Script, float] = {"good": 0.8, "flaky": 0.08, "bad": 0.08, "hopeless": 0.04}

POISON_STEP = 3
"""The step at which a poison item kills its worker."""
POISON_PREFIX = "poison-"
"""Prefix of the keys of jobs with a poison item, which clients never cancel or delete."""


def request_of(seed: str, key: str, pool: str) -> JobRequest:
    """Return the request that belongs to an idempotency key."""
    rng = random.Random(f"{seed}/{key}")
    count = rng.choices([5, 8, 12, 20, 60], [4, 4, 3, 2, 1])[0]
    scripts: list[Script] = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=count)
    attempts = 4
    if key.startswith(POISON_PREFIX):
        scripts[rng.randrange(count)] = "poison"
        # With 2, an item that ran beside the poison once must already be isolated.
        attempts = rng.choice([2, 4])
    items = tuple(
        JobItem(
            name=f"{key}.{index}",
            work={"script": script, "steps": rng.randint(5, 25), "every": rng.randint(2, 6)},
        )
        for index, script in enumerate(scripts)
    )
    return JobRequest(
        pool=pool, items=items, shared={"pause": 0.006}, tags={"key": key}, max_attempts=attempts
    )


def other_request(seed: str, key: str, pool: str) -> JobRequest:
    """Return a request that conflicts with the one of this key."""
    return request_of(seed, key, pool).model_copy(update={"tags": {"key": "another"}})


def scripted_failure(script: str, round_: int, number: int) -> Literal["", "again", "for good"]:
    """Return whether attempt `number` fails by itself, and whether another may follow."""
    if script == "hopeless" or (script == "flaky" and number == 1):
        return "again"
    return "for good" if script == "bad" and round_ == 0 else ""


def may_fail(script: str, round_: int) -> bool:
    """Return whether the item may fail though no attempt was lost."""
    return script == "hopeless" or (script in ("bad", "poison") and round_ == 0)
