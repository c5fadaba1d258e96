"""Which items have ended, and how: a letter an item and round, as the rollup keeps them.

Results never change but to be deleted, so what is once known of an item stays known; two rollups of
a job differ only in how much they know yet.
"""

from collections.abc import Iterable, Iterator

from services.jobs import ItemState
from services.ledger.layout import BLOCK, Block, Place

OPEN, ABSENT = ord("."), ord(" ")
_LETTERS = {
    ItemState.SUCCEEDED: ord("s"),
    ItemState.FAILED: ord("f"),
    ItemState.CANCELLED: ord("c"),
    ItemState.DELETED: ord("d"),
}
_ALL = bytes([OPEN, ABSENT, *_LETTERS.values()])
_STATES = {letter: state for state, letter in _LETTERS.items()}


class Outcomes:
    """How the `count` items of a job have ended, in each round they are in."""

    def __init__(self, count: int, rounds: Iterable[bytes] = ()) -> None:
        self.count = count
        self.rounds = [bytearray(letters) for letters in rounds] or [bytearray(b"." * count)]

    def add_round(self, members: Iterable[int]) -> None:
        """Another round, of these items."""
        letters = bytearray([ABSENT]) * self.count
        for index in members:
            letters[index] = OPEN
        self.rounds.append(letters)

    def note(self, place: Place, state: ItemState) -> None:
        self.rounds[place.round][place.index] = _LETTERS[state]

    def open_items(self, block: Block) -> Iterator[int]:
        """Items of a block that are not known to have ended."""
        letters, end = self.rounds[block.round], (block.number + 1) * BLOCK
        index = letters.find(OPEN, block.number * BLOCK, end)
        while index >= 0:
            yield index
            index = letters.find(OPEN, index + 1, end)

    def open_blocks(self) -> list[Block]:
        """Those with any such item."""
        return [
            Block(round_, number)
            for round_, letters in enumerate(self.rounds)
            for number in range(-(-self.count // BLOCK))
            if letters.find(OPEN, number * BLOCK, (number + 1) * BLOCK) >= 0
        ]

    def last_round(self, index: int) -> int:
        """The latest round that an item is in: the one that counts."""
        return next(
            round_
            for round_ in reversed(range(len(self.rounds)))
            if self.rounds[round_][index] != ABSENT
        )

    def state(self, index: int) -> ItemState | None:
        """How an item has ended in its latest round; None: it has not, as far as is known."""
        return _STATES.get(self.rounds[self.last_round(index)][index])

    def pack(self) -> bytes:
        return b"\n".join(self.rounds)

    @classmethod
    def unpack(cls, payload: bytes, count: int) -> "Outcomes":
        """Raises: ValueError unless it has `count` letters a round."""
        rounds = payload.split(b"\n")
        if any(len(letters) != count or letters.strip(_ALL) for letters in rounds):
            raise ValueError(f"these are no letters of {count} items")
        return cls(count, rounds)
