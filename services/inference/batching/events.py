"""What happens in a batcher, for those who count and log it."""

from dti_engine.errors import DTIError
from services.inference.batching.tickets import Ticket


class Events:
    """Does nothing by itself. Called from the device's thread; must not raise."""

    def joined(self, tickets: int, beside: int, seconds: float) -> None:
        """So many pictures join so many others; the first had waited so long."""

    def stepped(self, seconds: float, pictures: int, cap: int) -> None:
        """One step of so many pictures, where there is room for `cap`."""

    def decoded(self, seconds: float, pictures: int) -> None:
        """Pictures were made of so many latents."""

    def ended(self, ticket: Ticket, error: DTIError | None) -> None:
        """A picture is done, or is not to be had."""

    def dropped(self, ticket: Ticket) -> None:
        """Nobody waits for a picture any more."""

    def waiting(self, pictures: int) -> None:
        """So many are in the queue."""

    def shrunk(self, cap: int) -> None:
        """Memory ran out."""

    def broke(self, error: Exception) -> None:
        """The device can be used no more."""
