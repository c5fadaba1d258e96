"""For how long what the store said of a token holds.

By default, from when it was asked:

    up to 15 s   used at once
    up to 30 s   used at once, and the store is asked meanwhile
    up to 60 s   the store is asked first; if it does not answer soon, used all the same
    later        the store is asked first; no answer, no token
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Freshness:
    """For how long what the store said holds, in seconds."""

    good_for: float = 30
    """Then it is asked again before a token is used; from the half of it on, while it is used."""
    limit: float = 60
    """Then nothing is used that it does not confirm."""
    patience: float = 2
    """For how long it is waited for until it counts as silent, before the limit."""
    retry: float = 5
    """While it is silent, it is asked again that often."""
    unknown: float = 2
    """That there is no such token. What else is wrong with one stays so, and is good as long as a
    token."""
    unused: float = 3600
    """Tokens that nobody asked for in this time go, for some of them may have been deleted."""
