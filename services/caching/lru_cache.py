"""What was used last, up to so many bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Says how much memory it takes, always the same."""

    @property
    def num_bytes(self) -> int: ...


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Sized)


class ByteLRU(Generic[K, V]):
    """By key, the last used at the end. Who shares it between threads holds a lock."""

    def __init__(self, capacity: int) -> None:
        """In bytes."""
        self._capacity = capacity
        self._kept: OrderedDict[K, V] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: K) -> V | None:
        """This counts as use."""
        if (value := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> list[tuple[K, V]]:
        """Keep it in the place of what was there. Returns what had to go, at worst itself."""
        self.pop(key)
        self._kept[key] = value
        self.num_bytes += value.num_bytes
        gone: list[tuple[K, V]] = []
        while self.num_bytes > self._capacity and (oldest := self.oldest()):
            self.pop(oldest[0])
            gone.append(oldest)
        return gone

    def pop(self, key: K) -> V | None:
        if (value := self._kept.pop(key, None)) is not None:
            self.num_bytes -= value.num_bytes
        return value

    def oldest(self) -> tuple[K, V] | None:
        """The one that was not used for longest."""
        return next(iter(self._kept.items()), None)
