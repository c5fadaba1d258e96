"""What happens in a worker, for those who count and log it."""

from services.ledger.attempts import Attempt


class Events:
    """Does nothing by itself. Called from several threads; must not raise."""

    def seated(self, attempt: Attempt, resumed_at: int) -> None:
        """A subject has a slot, after so many steps of earlier attempts."""

    def set_aside(self, attempt: Attempt) -> None:
        """A subject has lost its slot to another tenant's, and goes on later."""

    def stepped(self, seconds: float, used: int, slots: int) -> None:
        """One step of so many subjects in so many slots."""

    def idle(self, slots: int) -> None:
        """There is nothing to do in so many slots."""

    def ended(self, attempt: Attempt, how: str, reason: str = "") -> None:
        """An attempt is over: succeeded, failed, released or stopped."""

    def refused(self, attempt: Attempt, error: Exception) -> None:
        """Nothing can be learned from what was given; it has failed."""

    def unwritten(self, attempt: Attempt, error: Exception) -> None:
        """Something of an attempt could not be written, in the end."""

    def trouble(self, error: Exception) -> None:
        """The store did not answer; it is tried again."""

    def broke(self, error: Exception) -> None:
        """Something broke that is no subject's fault; all is given back."""

    def lease_lost(self, worker: str) -> None:
        """Others hold this worker for dead."""

    def stuck(self, seconds: float) -> None:
        """The device has not come back for so long: the process ends."""

    def shrunk(self, slots: int) -> None:
        """Memory ran out: from now on there are so many slots."""
