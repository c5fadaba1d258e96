"""What is told. Nothing of any item: whoever is told asks for that with a key."""

import json
from collections.abc import Mapping
from datetime import datetime

from services.ledger.views import JobView


def job_ended(view: JobView, seen: datetime, state: str, counts: Mapping[str, int]) -> bytes:
    """The message that a job has ended so, which was first `seen` then, as JSON: of the type
    `training_job.ended` or `generation_job.ended`.
    """
    data = {"job": view.job, "state": state, "counts": counts, "tags": view.tags}
    said = {"type": f"{view.kind}_job.ended", "timestamp": seen.isoformat(), "data": data}
    return json.dumps(said).encode()
