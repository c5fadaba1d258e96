"""What becomes of a job's items: heard of as they end, each once."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from services.client.answers import Item, Job

if TYPE_CHECKING:
    from services.client.client import Client

_TOLD = ("succeeded", "failed")


class Endings:
    """Of the items of one job."""

    def __init__(self, client: "Client", job: str) -> None:
        self.items = dict[int, Item]()  # those that have ended, by index
        self._client, self._job = client, job
        self._low = 0  # all before it have ended

    def news(self, job: Job) -> Iterator[Item]:
        """Those that have succeeded or failed since the last call, as the job stands now."""
        if (job.counts.succeeded, job.counts.failed) == self._counts():
            return
        yield from self._look(self._low)
        # Whoever lets failed items be tried again changes what had ended.
        if job.ended and (job.counts.succeeded, job.counts.failed) != self._counts():
            yield from self._look(0)

    def _look(self, start: int) -> Iterator[Item]:
        for state in _TOLD:
            for item in self._client.items(self._job, state=state, start=start):
                known = self.items.get(item.index)
                self.items[item.index] = item
                if known is None or known.state != item.state:
                    yield item
        while self._low in self.items:
            self._low += 1

    def _counts(self) -> tuple[int, int]:
        states = [item.state for item in self.items.values()]
        return states.count("succeeded"), states.count("failed")
