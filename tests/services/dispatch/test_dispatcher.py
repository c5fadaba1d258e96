"""The dispatcher: each image of a job is generated once, whatever engines and dispatchers do."""

import io
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from stub_engine import colour

from services.contracts.models import MINIATURE, ServedModel
from services.dispatch.dispatcher import max_images_in_flight
from services.errors import DeletedError
from services.health import Liveness
from services.ledger.deletion import delete_item, delete_job
from services.ledger.queries import list_attempts
from services.ledger.submissions import cancel
from services.ledger.worker import WorkerSession

pytestmark = pytest.mark.slow

Wait = Callable[..., None]


def seeds(harness: Any) -> Counter[int]:
    """Count the requests for each seed."""
    return Counter(request.images[0].seed for _, request in harness.engine.requests)


def test_each_image_is_generated_once_and_stored(harness: Any) -> None:
    job = harness.submit(40)
    with harness.running(harness.dispatcher()):
        view = harness.wait_until_ended(job)
    assert view.counts.succeeded == 40
    assert seeds(harness) == Counter(range(40))
    for index in (0, 39):
        image = Image.open(io.BytesIO(harness.png(job, index)))
        assert image.getpixel((0, 0)) == colour(index)
    item = harness.items(job)[7]
    assert item.report == {"seed": 7, "steps": 2, "bytes": item.report["bytes"], "warnings": []}
    model, request = harness.engine.requests[0]
    assert (model, request.tenant, request.background) == ("miniature", "acme", True)
    assert (request.images[0].prompt, request.images[0].steps) == ("a red dog", 2)


def test_the_number_of_images_in_flight_is_bounded(harness: Any, wait_for: Wait) -> None:
    job = harness.submit(12)
    harness.engine.may_finish.clear()
    with harness.running(harness.dispatcher(max_in_flight=5)):
        wait_for(lambda: harness.engine.active == 5)
        wait_for(lambda: harness.job(job).counts.running == 5)
        harness.engine.may_finish.set()
        assert harness.wait_until_ended(job).counts.succeeded == 12


def test_a_loop_that_hangs_is_told_by_its_liveness(
    harness: Any, wait_for: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, may_claim = 0.0, threading.Event()
    liveness = Liveness(10, lambda: now)
    claim = WorkerSession.claim

    def hanging(self: WorkerSession, limit: int) -> Any:
        may_claim.wait(20)
        return claim(self, limit)

    monkeypatch.setattr(WorkerSession, "claim", hanging)
    with harness.running(harness.dispatcher(liveness=liveness)):
        wait_for(lambda: b"miniature" in liveness.page().body)
        assert liveness.page().status == 200
        time.sleep(0.2)
        now = 11.0
        assert liveness.page().status == 503
        may_claim.set()
        wait_for(lambda: liveness.page().status == 200)


@pytest.mark.parametrize("status", [429, 503])
def test_images_wait_while_engines_have_no_room_at_no_cost_of_attempts(
    harness: Any, wait_for: Wait, status: int
) -> None:
    name = {429: "QueueFullError", 503: "NoEngineError"}[status]
    harness.engine.reject(status, name, "no room", 0.05)
    job = harness.submit(6, max_attempts=1)
    with harness.running(harness.dispatcher()):
        wait_for(lambda: len(harness.engine.requests) > 8)
        assert harness.job(job).counts.running == 6
        harness.engine.response = None
        assert harness.wait_until_ended(job).counts.succeeded == 6
    attempts = list_attempts(harness.ledger, "acme", job, 0)
    assert [one.cause for one in attempts] == ["succeeded"]


def test_images_wait_while_no_engine_listens(harness: Any, wait_for: Wait) -> None:
    job = harness.submit(2, max_attempts=1)
    with harness.running(harness.dispatcher(url="http://127.0.0.1:9/engines")):
        wait_for(lambda: harness.job(job).counts.running == 2)
    assert harness.job(job).counts.queued == 2
    with harness.running(harness.dispatcher()):
        assert harness.wait_until_ended(job).counts.succeeded == 2


@pytest.mark.parametrize("begun", [True, False])
def test_an_invalid_image_fails_at_once_with_the_engines_reason(harness: Any, begun: bool) -> None:
    if begun:
        harness.engine.failures[0] = ("DeletedError", "token tok_1 was deleted")
    else:
        harness.engine.reject(422, "DeletedError", "token tok_1 was deleted")
    job = harness.submit(2)
    with harness.running(harness.dispatcher()):
        assert harness.wait_until_ended(job).counts.failed == 2
    assert [item.reason for item in harness.items(job)] == ["token tok_1 was deleted"] * 2
    assert [one.cause for one in list_attempts(harness.ledger, "acme", job, 0)] == ["failed"]


def test_an_engine_that_dies_costs_the_image_an_attempt(harness: Any, wait_for: Wait) -> None:
    harness.engine.dies = True
    job = harness.submit(1, max_attempts=2)
    with harness.running(harness.dispatcher()):
        assert harness.wait_until_ended(job).counts.failed == 1
    assert "broke off" in harness.items(job)[0].reason
    assert len(list_attempts(harness.ledger, "acme", job, 0)) == 2


def test_an_unexpected_error_of_an_engine_is_not_shown_to_tenants(harness: Any) -> None:
    harness.engine.failures[0] = ("KeyError", "s3://secret")
    job = harness.submit(1, max_attempts=1)
    with harness.running(harness.dispatcher()):
        harness.wait_until_ended(job)
    assert harness.items(job)[0].reason == "the engine failed: tell the operator"


def test_a_cancelled_job_is_generated_no_further(harness: Any, wait_for: Wait) -> None:
    harness.engine.may_finish.clear()
    job = harness.submit(9)
    with harness.running(harness.dispatcher(max_in_flight=4)):
        wait_for(lambda: harness.engine.active == 4)
        cancel(harness.ledger, "acme", job)
        wait_for(lambda: harness.job(job).state.ended)
        wait_for(lambda: harness.engine.active == 0)
    assert harness.job(job).counts.cancelled == 9
    assert len(harness.engine.requests) == 4


def test_an_image_that_is_deleted_while_it_is_generated_leaves_nothing(
    harness: Any, wait_for: Wait
) -> None:
    harness.engine.may_finish.clear()
    job, other = harness.submit(3), harness.submit(2, "other")
    with harness.running(harness.dispatcher(max_in_flight=8)):
        wait_for(lambda: harness.engine.active == 5)
        delete_job(harness.ledger, "acme", job)
        delete_item(harness.ledger, "acme", other, 1)
        wait_for(lambda: harness.engine.active == 1)
        harness.engine.may_finish.set()
        harness.wait_until_ended(other)
    with pytest.raises(DeletedError):
        harness.png(job, 0)
    with pytest.raises(DeletedError):
        harness.png(other, 1)
    assert b"PNG" in harness.png(other, 0)


def test_a_drained_dispatcher_releases_its_images_at_once(harness: Any, wait_for: Wait) -> None:
    harness.engine.may_finish.clear()
    job = harness.submit(6, max_attempts=1)
    with harness.running(harness.dispatcher()):
        wait_for(lambda: harness.engine.active == 6)
    assert harness.job(job).counts.queued == 6
    harness.engine.may_finish.set()
    with harness.running(harness.dispatcher()):
        assert harness.wait_until_ended(job).counts.succeeded == 6
    attempts = list_attempts(harness.ledger, "acme", job, 0)
    assert [one.cause for one in attempts] == ["released", "succeeded"]


def test_several_dispatchers_share_a_job_and_each_image_ends_once(harness: Any) -> None:
    job = harness.submit(60)
    with harness.running(*(harness.dispatcher(max_in_flight=6) for _ in range(3))):
        assert harness.wait_until_ended(job).counts.succeeded == 60
    assert set(seeds(harness)) == set(range(60))


def test_the_default_number_of_images_in_flight_follows_from_the_model() -> None:
    assert max_images_in_flight(MINIATURE["miniature"]) == 32
    large = ServedModel(weights="w", recipe="sd", generation={"batch_size": 8, "max_engines": 40})
    assert max_images_in_flight(large) == 256


def test_a_missing_engine_secret_is_an_error() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DTI_ENGINE_SECRET"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "services.dispatch",
            "--store",
            "memory:",
            "--engines-url",
            "http://x",
        ],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 2
    assert "DTI_ENGINE_SECRET is not given" in done.stderr


def test_the_dispatcher_loads_no_torch_and_no_ray() -> None:
    code = (
        "import services.dispatch.__main__, sys; "
        "sys.exit(', '.join({'torch', 'numpy', 'ray'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
