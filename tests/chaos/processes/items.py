"""What is in jobs: a request is made of its key alone, so that whoever repeats it makes the same.

Every item has a script, which says what becomes of it:

    good      succeeds
    flaky     fails at its first attempt of a round, then succeeds
    bad       fails for good in round 0, and succeeds when it is retried
    hopeless  fails at every attempt
    poison    kills its worker at every attempt of round 0, and succeeds when it is retried
"""

import random
from typing import Literal

from services.contracts.jobs import Item, JobRequest

Script = Literal["good", "flaky", "bad", "hopeless", "poison"]
_OFTEN: dict[Script, float] = {"good": 0.8, "flaky": 0.08, "bad": 0.08, "hopeless": 0.04}

POISON_STEP = 3
"""At which it kills."""
POISONED = "poison-"
"""Keys of requests with a poison item begin so; the clients never cancel or delete their jobs."""


def request_of(seed: str, key: str, pool: str) -> JobRequest:
    """The request that belongs to a key."""
    chance = random.Random(f"{seed}/{key}")
    count = chance.choices([5, 8, 12, 20, 60], [4, 4, 3, 2, 1])[0]
    scripts: list[Script] = chance.choices(list(_OFTEN), list(_OFTEN.values()), k=count)
    attempts = 4
    if key.startswith(POISONED):
        scripts[chance.randrange(count)] = "poison"
        # With 2, whoever was in hand beside it once must be alone already.
        attempts = chance.choice([2, 4])
    items = tuple(
        Item(
            name=f"{key}.{index}",
            work={"script": script, "steps": chance.randint(5, 25), "every": chance.randint(2, 6)},
        )
        for index, script in enumerate(scripts)
    )
    return JobRequest(
        pool=pool, items=items, shared={"pause": 0.006}, tags={"key": key}, max_attempts=attempts
    )


def other_request(seed: str, key: str, pool: str) -> JobRequest:
    """Another than that."""
    return request_of(seed, key, pool).model_copy(update={"tags": {"key": "another"}})


def fails(script: str, round_: int, number: int) -> Literal["", "again", "for good"]:
    """Whether attempt `number` fails by itself, and whether another may follow."""
    if script == "hopeless" or (script == "flaky" and number == 1):
        return "again"
    return "for good" if script == "bad" and round_ == 0 else ""


def may_fail(script: str, round_: int) -> bool:
    """Whether the item may end as failed though no attempt was lost."""
    return script == "hopeless" or (script in ("bad", "poison") and round_ == 0)
