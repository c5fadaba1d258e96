"""The items of one job that a worker may try to claim next.

Each worker begins at a block and an item of its own, so that many workers seldom reach for the same
item. A listing is used for a few seconds; claims discover what has changed since.
"""

import random
from collections import deque
from dataclasses import dataclass

from services.ledger.jobs import JobCommands, JobSpec, read_spec
from services.ledger.keys import ItemBlock, ItemRef, JobKeys
from services.ledger.ledger import Ledger
from services.ledger.rollups import FinalStates, ended_items, latest_attempts, read_final_states

_LISTING_LIFETIME = 10
"""Poll intervals for which a listing is used. Listing many items costs far more than a claim that
finds an item taken.
"""

_MAX_CONFLICTS = 3
"""Claims that found the item taken, after which the items are listed again."""

_MAX_BACKOFF = 4
"""Poll intervals, at most, before a job without claimable items is listed again: there may be many
jobs whose items are all being attempted.
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item, and the fencing number of its next attempt."""

    item: ItemRef
    number: int


class Candidates:
    """The claimable items of one job, for one worker."""

    def __init__(self, ledger: Ledger, keys: JobKeys, rng: random.Random) -> None:
        self.keys = keys
        self._ledger = ledger
        self._rng = rng
        self._spec: JobSpec | None = None
        self._commands: JobCommands | None = None
        self._final: FinalStates | None = None
        self._block: ItemBlock | None = None
        """The block that the worker is in."""
        self._blocks: deque[ItemBlock] = deque()
        self._waiting: deque[Candidate] = deque()
        self._listed_at = float("-inf")
        self._empty_until = float("-inf")
        self._backoff = 1
        self._conflicts = 0

    @property
    def spec(self) -> JobSpec:
        """Return the job's spec, which is read once.

        Raises:
            UnknownJobError, DeletedError, DamagedRecordError: The spec cannot be read.
        """
        if self._spec is None:
            self._spec = read_spec(self._ledger, self.keys)
        return self._spec

    def refresh(self) -> bool:
        """List the blocks again if the listing is old; return whether there may be candidates.

        This is not part of `next`: on a slow store a listing is old before it is used up, and
        `next` would list again and again, and return the items that were deferred for ever.
        """
        now = self._ledger.clock()
        if now < self._empty_until:
            return False
        lifetime_s = _LISTING_LIFETIME * self._ledger.settings.poll_interval_s
        if now - self._listed_at > lifetime_s or self._conflicts > _MAX_CONFLICTS:
            self._waiting.clear()
            self._list_blocks()
        return True

    def put_back(self, candidate: Candidate) -> None:
        """Return a candidate that was not claimed, as far as is known."""
        self._waiting.append(candidate)

    def record_conflict(self) -> None:
        """Record that another worker was faster; many conflicts mean that the listing is old."""
        self._conflicts += 1

    def next(self) -> Candidate | None:
        """Return one more candidate, or None if there are no more for now."""
        if self._conflicts > _MAX_CONFLICTS:
            return None
        while not self._waiting and self._blocks:
            self._block = self._blocks[0]
            self._waiting.extend(self._list_candidates(self._block))
            # Only after the listing: if that fails, the block is listed again by the next call.
            self._blocks.popleft()
        if self._waiting:
            self._backoff = 1
            return self._waiting.popleft()
        self._listed_at = float("-inf")
        # The listing is used up, so that its age does not matter: after the pause there is a new
        # one.
        pause_s = self._ledger.settings.poll_interval_s * self._backoff
        self._empty_until = self._ledger.clock() + pause_s
        self._backoff = min(2 * self._backoff, _MAX_BACKOFF)
        return None

    def _list_blocks(self) -> None:
        commands, final = read_final_states(self._ledger, self.keys, self.spec.record.count)
        self._commands, self._final = commands, final
        blocks = [] if commands.cancelled or commands.deleted else final.open_blocks()
        # Stay in the same block: its items are next to those that this worker has claimed, and
        # other workers are in other blocks.
        if self._block is not None and self._block in blocks:
            start = blocks.index(self._block)
        else:
            start = self._rng.randrange(len(blocks)) if blocks else 0
        self._blocks = deque(blocks[start:] + blocks[:start])
        self._listed_at = self._ledger.clock()
        self._conflicts = 0

    def _list_candidates(self, block: ItemBlock) -> list[Candidate]:
        """Return the candidates of a block in the order in which to try them.

        Items that were attempted before come first, as they have waited longest; then the others,
        from a random one on.
        """
        assert self._commands is not None
        assert self._final is not None
        attempts = latest_attempts(self._ledger, self.keys, block)
        found: list[Candidate] = []
        for index in self._final.open_items(block):
            latest = attempts.get(index)
            # An item that is being attempted is left out. If its worker is dead, the supervisor
            # ends the attempt, and the item is a candidate in the next listing.
            if index in self._commands.deleted_items or (latest and not latest.ended):
                continue
            number = latest.number + 1 if latest else 1
            found.append(Candidate(ItemRef(block.round, index), number))
        if any(candidate.number > 1 for candidate in found):
            # Only an item that was attempted can have a result, so that most blocks need no
            # listing of their results.
            results = ended_items(self._ledger, self.keys, block)
            found = [candidate for candidate in found if candidate.item.index not in results]
        again = [candidate for candidate in found if candidate.number > 1]
        first = [candidate for candidate in found if candidate.number == 1]
        # In any order, as they are few: the workers of a pool would all try the first one.
        self._rng.shuffle(again)
        start = self._rng.randrange(len(first)) if first else 0
        return again + first[start:] + first[:start]
