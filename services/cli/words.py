"""What jobs of each kind are about, in words."""

from typing import NamedTuple


class Words(NamedTuple):
    """Of one kind of job."""

    thing: str
    """What an item is."""
    made: str
    """What is made of one."""
    done: str
    """What has become of those that succeeded."""

    @property
    def folder(self) -> str:
        """Where what is made is put, unless something else is said."""
        return f"{self.made}s"


_TRAINING = Words("subject", "token", "learned")
_WORDS = {"training": _TRAINING, "generation": Words("image", "image", "generated")}


def words(kind: str) -> Words:
    return _WORDS.get(kind, _TRAINING)
