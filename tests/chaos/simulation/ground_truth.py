"""The ground truth: what the bucket holds, read without the ledger's own code."""

import json
from collections.abc import Iterator
from typing import Any

from chaos.simulation.bucket import Bucket
from chaos.simulation.history import History
from services.contracts.jobs import ItemState


def parse_record(body: bytes) -> dict[str, Any]:
    """Return a record without its payload."""
    return json.loads(body.partition(b"\n")[0])


class GroundTruth:
    """The objects of one job."""

    def __init__(self, bucket: Bucket, tenant: str, job: str) -> None:
        self.tenant = tenant
        self.job = job
        self._bucket = bucket
        self._folder = f"t/{tenant}/jobs/{job}/"

    @property
    def deleted(self) -> bool:
        spec = self.body("spec")
        return spec is not None and parse_record(spec)["type"] == "deleted"

    @property
    def count(self) -> int:
        spec = self.body("spec")
        return parse_record(spec)["count"] if spec else 0

    @property
    def max_attempts(self) -> int:
        spec = self.body("spec")
        return parse_record(spec)["max_attempts"] if spec else 0

    @property
    def cancelled(self) -> bool:
        return self.body("control/cancel") is not None

    def item_deleted(self, index: int) -> bool:
        return self.body(f"control/item.{index:05d}") is not None

    def item(self, index: int) -> dict[str, Any]:
        spec = self.body("spec")
        assert spec is not None
        return json.loads(spec.partition(b"\n")[2])["items"][index]

    def work(self, index: int) -> dict[str, Any]:
        return self.item(index)["work"]

    def rounds(self, index: int) -> list[int]:
        """Return the rounds that an item is in."""
        rounds = [0]
        for name, body in self.objects("control/retry."):
            if index in json.loads(body.partition(b"\n")[2]):
                rounds.append(int(name[-2:]))
        return rounds

    def result(self, round_: int, index: int) -> dict[str, Any] | None:
        body = self.body(f"results/{round_:02d}.{index:05d}")
        return parse_record(body) if body else None

    def ends(self, round_: int, index: int) -> list[dict[str, Any]]:
        """Return the records of the attempts of a round that ended without a result."""
        return [
            parse_record(body)
            for name, body in self.objects(f"attempts/{round_:02d}.{index:05d}.")
            if name.endswith(".ended")
        ]

    def causes(self, round_: int, index: int, number: int) -> list[str]:
        """Return why the attempts before this one ended."""
        ends = (
            self.body(f"attempts/{round_:02d}.{index:05d}.{n:02d}.ended") for n in range(1, number)
        )
        return [parse_record(body)["cause"] for body in ends if body]

    def claimed_before_cancel(self, round_: int, index: int) -> bool:
        """Return whether an attempt was claimed before a cancellation; later ones never start."""
        claims, cancel = f"{self._folder}attempts/{round_:02d}.{index:05d}.", "control/cancel"
        for change in self._bucket.journal:
            if change.key == self._folder + cancel:
                return False
            if change.key.startswith(claims):
                return True
        return False

    def state(self, index: int) -> ItemState | None:
        """Return the final state of an item, or None if it has not ended."""
        last = self.rounds(index)[-1]
        result = self.result(last, index)
        if self.deleted or self.item_deleted(index) or (result and result["type"] == "deleted"):
            return ItemState.DELETED if self.deleted or result else None
        if result:
            return ItemState(result["status"])
        if self.cancelled and not self.claimed_before_cancel(last, index):
            return ItemState.CANCELLED
        return None

    def objects(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Yield names below the job's folder, and their bodies."""
        for key in self._bucket.keys(self._folder + prefix):
            version = self._bucket.get(key)
            assert version
            yield key[len(self._folder) :], version.body

    def body(self, name: str) -> bytes | None:
        version = self._bucket.get(self._folder + name)
        return version.body if version else None


def deleted_tenants(bucket: Bucket) -> set[str]:
    """Return the tenants that were deleted."""
    return {
        key.split("/")[1]
        for key in bucket.keys("t/")
        if key.count("/") == 2 and key.endswith("/deleted")
    }


def accepted_jobs(bucket: Bucket, history: History) -> list[GroundTruth]:
    """Return the jobs whose submission was acknowledged, without those of deleted tenants."""
    deleted = deleted_tenants(bucket)
    jobs = {
        (completion.tenant, completion.job): None
        for completion in history.completions
        if completion.operation == "submit" and completion.tenant not in deleted
    }
    return [GroundTruth(bucket, tenant, job) for tenant, job in jobs]
