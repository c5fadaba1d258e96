"""Tokens by a client's own names of subjects: the newest that there is."""

import time
from collections.abc import Callable
from itertools import islice

from dti_engine.errors import ArtifactMismatchError
from services import aliases
from services.errors import DeletedError, UnavailableError, UnknownJobError
from services.ledger.ids import check_tenant, is_token
from services.ledger.ledger import Ledger
from services.tenancy.remembered import Memory

GOOD_FOR = 5.0
"""Seconds that a name stands for the same token, so that a newly learned one is seen soon."""

_PATIENCE = 100
"""Hints of one name that are looked at: most lead to a token, others to one that was deleted."""

_ENTRIES = 100_000


class Names:
    """What they stand for, remembered for seconds. Safe to use from many threads."""

    def __init__(
        self,
        ledger: Ledger,
        look: Callable[[str, str], object],
        *,
        in_trouble: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`look` raises what is wrong with a tenant's token, by its id. While the store does not
        answer, what it said `in_trouble` seconds ago still holds.
        """
        self._store, self._look = ledger.store, look
        self._known: Memory[str] = Memory(
            self._read, seconds=GOOD_FOR, in_trouble=in_trouble, entries=_ENTRIES, clock=clock
        )

    def newest(self, tenant: str, alias: str, *, anew: bool = False) -> str:
        """The id of the newest token of a subject that this model can paint; `anew`: whatever was
        known of it.

        Raises: UnknownJobError if there is none; ArtifactMismatchError if all are of other models;
            what is wrong with the newest, if it is damaged; UnavailableError, InvalidIdError.
        """
        name = f"{check_tenant(tenant)}/{alias}"
        found = self._read(name) if anew else self._known.get(name).value
        if found is None:
            raise UnknownJobError(
                f"{tenant} has no token of a subject {alias!r}: give the id of a token, or the "
                "name of a subject that was learned"
            )
        return found

    def _read(self, name: str) -> str | None:
        tenant, _, alias = name.partition("/")
        foreign: ArtifactMismatchError | None = None
        try:
            for hint in islice(aliases.tokens(self._store, tenant, alias), _PATIENCE):
                if not is_token(hint):
                    continue
                try:
                    self._look(tenant, hint)
                    return hint
                except (DeletedError, UnknownJobError):
                    continue
                except ArtifactMismatchError as error:
                    foreign = foreign or error
        except UnavailableError as error:
            raise UnavailableError(
                f"tokens of {alias!r} cannot be looked up, because the store does not answer: ask "
                "again later"
            ) from error
        if foreign:
            raise foreign
        return None
