"""Items of one job that a worker may try to claim next.

Each worker goes through a job from a block and a place of its own, so that many seldom reach for
the same item. What it saw is used for a few seconds; claims find out what has changed.
"""

import random
from collections import deque
from dataclasses import dataclass

from services.ledger.jobs import JobCommands, JobSpec, read_spec
from services.ledger.keys import ItemBlock, ItemRef, JobKeys
from services.ledger.ledger import Ledger
from services.ledger.rollups import FinalStates, ended_items, latest_attempts, read_final_states

_KEPT = 10
"""Times the usual pause that what was seen is used: claims find out what has changed since, and a
listing of many items costs far more than a claim in vain."""

_MISSES = 3
"""Claims in vain after which it is looked up anew."""

_MOST_RELUCTANT = 4
"""Times the usual pause before a job is looked through again that had nothing to do, again and
again: there may be many whose items are all being done."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item and the number that its next attempt would have."""

    place: ItemRef
    number: int


class Candidates:
    """Of one job, for one worker."""

    def __init__(self, ledger: Ledger, keys: JobKeys, rng: random.Random) -> None:
        self.keys = keys
        self._ledger = ledger
        self._chance = rng
        self._spec: JobSpec | None = None
        self._control: JobCommands | None = None
        self._outcomes: FinalStates | None = None
        self._here: ItemBlock | None = None
        self._blocks: deque[ItemBlock] = deque()
        self._waiting: deque[Candidate] = deque()
        self._looked = float("-inf")
        self._empty_until = float("-inf")
        self._reluctance = 1
        self._misses = 0

    @property
    def spec(self) -> JobSpec:
        """Raises: UnknownJobError, DeletedError."""
        if self._spec is None:
            self._spec = read_spec(self._ledger, self.keys)
        return self._spec

    def refresh(self) -> bool:
        """Whether there may be something. What was seen long ago is looked up anew.

        Not in `next`: on a slow store what was seen is old before it is gone through, and what was
        passed over would be found again and again.
        """
        now = self._ledger.clock()
        if now < self._empty_until:
            return False
        if (
            now - self._looked > _KEPT * self._ledger.settings.poll_interval_s
            or self._misses > _MISSES
        ):
            self._waiting.clear()
            self._look_for_blocks()
        return True

    def put_back(self, candidate: Candidate) -> None:
        """It was not tried, or nobody knows."""
        self._waiting.append(candidate)

    def missed(self) -> None:
        """Another worker was quicker: what was seen has grown old if that happens often."""
        self._misses += 1

    def next(self) -> Candidate | None:
        """One more of what was seen. None: that was all, or it is old: look elsewhere for now."""
        if self._misses > _MISSES:
            return None
        while not self._waiting and self._blocks:
            self._here = self._blocks[0]
            self._waiting.extend(self._find(self._here))
            self._blocks.popleft()
        if self._waiting:
            self._reluctance = 1
            return self._waiting.popleft()
        self._looked = float("-inf")
        pause = self._ledger.settings.poll_interval_s * self._reluctance
        self._empty_until = self._ledger.clock() + pause
        self._reluctance = min(2 * self._reluctance, _MOST_RELUCTANT)
        return None

    def _look_for_blocks(self) -> None:
        control, outcomes = read_final_states(self._ledger, self.keys, self.spec.record.count)
        self._control, self._outcomes = control, outcomes
        # The block that we are in comes first again.
        here = self._here
        blocks = [] if control.cancelled or control.deleted else outcomes.open_blocks()
        if here is not None and here in blocks:
            start = blocks.index(here)
        else:
            start = self._chance.randrange(len(blocks)) if blocks else 0
        self._blocks = deque(blocks[start:] + blocks[:start])
        self._looked = self._ledger.clock()
        self._misses = 0

    def _find(self, block: ItemBlock) -> list[Candidate]:
        """Those of a block: what was attempted before first, as it has waited longest; then the
        others, from a place on that is drawn.
        """
        assert self._control is not None
        assert self._outcomes is not None
        attempts = latest_attempts(self._ledger, self.keys, block)
        found: list[Candidate] = []
        for index in self._outcomes.open_items(block):
            before = attempts.get(index)
            if index in self._control.deleted_items or (before and not before.ended):
                continue
            found.append(Candidate(ItemRef(block.round, index), before.number + 1 if before else 1))
        if any(candidate.number > 1 for candidate in found):
            # Only what was attempted can have a result.
            results = ended_items(self._ledger, self.keys, block)
            found = [candidate for candidate in found if candidate.place.index not in results]
        again = [candidate for candidate in found if candidate.number > 1]
        fresh = [candidate for candidate in found if candidate.number == 1]
        self._chance.shuffle(again)
        start = self._chance.randrange(len(fresh)) if fresh else 0
        return again + fresh[start:] + fresh[:start]
