"""What is told. Nothing of any item: whoever is told asks for that with a key."""

import json
from collections.abc import Mapping
from datetime import datetime

JOB_ENDED = "training_job.ended"


def job_ended(
    job: str, seen: datetime, state: str, counts: Mapping[str, int], tags: Mapping[str, str]
) -> bytes:
    """The message that a job has ended so, which was first `seen` then, as JSON."""
    data = {"job": job, "state": state, "counts": counts, "tags": tags}
    return json.dumps({"type": JOB_ENDED, "timestamp": seen.isoformat(), "data": data}).encode()
