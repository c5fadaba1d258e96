"""Images of jobs from an engine: each once, whatever happens to engines and dispatchers."""

import io
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from stub_engine import colour

from services.contracts.models import MINIATURE, ServedModel
from services.dispatch.dispatcher import max_images_in_flight
from services.errors import DeletedError
from services.ledger.deletion import delete_item, delete_job
from services.ledger.queries import list_attempts
from services.ledger.submissions import cancel

Wait = Callable[..., None]


def seeds(studio: Any) -> Counter[int]:
    """How often engines were asked for each."""
    return Counter(wanted.images[0].seed for _, wanted in studio.engine.asked)


def test_each_image_is_generated_once_and_kept(studio: Any) -> None:
    job = studio.order(40)
    with studio.at_work(studio.dispatcher()):
        view = studio.wait_until_ended(job)
    assert view.counts.succeeded == 40
    assert seeds(studio) == Counter(range(40))
    for index in (0, 39):
        image = Image.open(io.BytesIO(studio.png(job, index)))
        assert image.getpixel((0, 0)) == colour(index)
    item = studio.items(job)[7]
    assert item.report == {"seed": 7, "steps": 2, "bytes": item.report["bytes"], "warnings": []}
    model, wanted = studio.engine.asked[0]
    assert (model, wanted.tenant, wanted.background) == ("miniature", "acme", True)
    assert (wanted.images[0].prompt, wanted.images[0].steps) == ("a red dog", 2)


def test_no_more_than_so_many_are_asked_for_at_a_time(studio: Any, wait_for: Wait) -> None:
    job = studio.order(12)
    studio.engine.may_end.clear()
    with studio.at_work(studio.dispatcher(max_in_flight=5)):
        wait_for(lambda: studio.engine.at_work == 5)
        wait_for(lambda: studio.job(job).counts.running == 5)
        studio.engine.may_end.set()
        assert studio.wait_until_ended(job).counts.succeeded == 12


@pytest.mark.parametrize("status", [429, 503])
def test_where_there_is_no_room_images_wait_and_no_attempt_is_lost(
    studio: Any, wait_for: Wait, status: int
) -> None:
    name = {429: "QueueFullError", 503: "NoEngineError"}[status]
    studio.engine.refuse(status, name, "as told", 0.05)
    job = studio.order(6, max_attempts=1)
    with studio.at_work(studio.dispatcher()):
        wait_for(lambda: len(studio.engine.asked) > 8)
        assert studio.job(job).counts.running == 6
        studio.engine.answer = None
        assert studio.wait_until_ended(job).counts.succeeded == 6
    attempts = list_attempts(studio.ledger, "acme", job, 0)
    assert [one.cause for one in attempts] == ["succeeded"]


def test_where_nothing_listens_images_wait(studio: Any, wait_for: Wait) -> None:
    job = studio.order(2, max_attempts=1)
    with studio.at_work(studio.dispatcher(url="http://127.0.0.1:9/engines")):
        wait_for(lambda: studio.job(job).counts.running == 2)
    assert studio.job(job).counts.queued == 2
    with studio.at_work(studio.dispatcher()):
        assert studio.wait_until_ended(job).counts.succeeded == 2


@pytest.mark.parametrize("begun", [True, False])
def test_what_is_wrong_with_an_image_fails_it_at_once_with_the_engines_reason(
    studio: Any, begun: bool
) -> None:
    if begun:
        studio.engine.failing[0] = ("DeletedError", "token tok_1 was deleted")
    else:
        studio.engine.refuse(422, "DeletedError", "token tok_1 was deleted")
    job = studio.order(2)
    with studio.at_work(studio.dispatcher()):
        assert studio.wait_until_ended(job).counts.failed == 2
    assert [item.reason for item in studio.items(job)] == ["token tok_1 was deleted"] * 2
    assert [one.cause for one in list_attempts(studio.ledger, "acme", job, 0)] == ["failed"]


def test_an_engine_that_dies_at_an_image_costs_it_an_attempt_and_not_for_ever(
    studio: Any, wait_for: Wait
) -> None:
    studio.engine.dies = True
    job = studio.order(1, max_attempts=2)
    with studio.at_work(studio.dispatcher()):
        assert studio.wait_until_ended(job).counts.failed == 1
    assert "broke off" in studio.items(job)[0].reason
    assert len(list_attempts(studio.ledger, "acme", job, 0)) == 2


def test_what_an_engine_says_that_nobody_foresaw_is_told_to_no_tenant(studio: Any) -> None:
    studio.engine.failing[0] = ("KeyError", "s3://secret")
    job = studio.order(1, max_attempts=1)
    with studio.at_work(studio.dispatcher()):
        studio.wait_until_ended(job)
    assert studio.items(job)[0].reason == "the engine failed: tell the operator"


def test_a_job_that_is_cancelled_is_generated_no_further(studio: Any, wait_for: Wait) -> None:
    studio.engine.may_end.clear()
    job = studio.order(9)
    with studio.at_work(studio.dispatcher(max_in_flight=4)):
        wait_for(lambda: studio.engine.at_work == 4)
        cancel(studio.ledger, "acme", job)
        wait_for(lambda: studio.job(job).state.ended)
        wait_for(lambda: studio.engine.at_work == 0)
    assert studio.job(job).counts.cancelled == 9
    assert len(studio.engine.asked) == 4


def test_what_is_deleted_while_it_is_generated_leaves_nothing(studio: Any, wait_for: Wait) -> None:
    studio.engine.may_end.clear()
    job, other = studio.order(3), studio.order(2, "other")
    with studio.at_work(studio.dispatcher(max_in_flight=8)):
        wait_for(lambda: studio.engine.at_work == 5)
        delete_job(studio.ledger, "acme", job)
        delete_item(studio.ledger, "acme", other, 1)
        wait_for(lambda: studio.engine.at_work == 1)
        studio.engine.may_end.set()
        studio.wait_until_ended(other)
    with pytest.raises(DeletedError):
        studio.png(job, 0)
    with pytest.raises(DeletedError):
        studio.png(other, 1)
    assert b"PNG" in studio.png(other, 0)


def test_one_that_is_drained_gives_back_what_it_has_at_once(studio: Any, wait_for: Wait) -> None:
    studio.engine.may_end.clear()
    job = studio.order(6, max_attempts=1)
    with studio.at_work(studio.dispatcher()):
        wait_for(lambda: studio.engine.at_work == 6)
    assert studio.job(job).counts.queued == 6
    studio.engine.may_end.set()
    with studio.at_work(studio.dispatcher()):
        assert studio.wait_until_ended(job).counts.succeeded == 6
    attempts = list_attempts(studio.ledger, "acme", job, 0)
    assert [one.cause for one in attempts] == ["released", "succeeded"]


def test_several_share_a_job_and_each_image_ends_once(studio: Any) -> None:
    job = studio.order(60)
    with studio.at_work(*(studio.dispatcher(max_in_flight=6) for _ in range(3))):
        assert studio.wait_until_ended(job).counts.succeeded == 60
    assert set(seeds(studio)) == set(range(60))


def test_how_many_are_asked_for_follows_from_the_model() -> None:
    assert max_images_in_flight(MINIATURE["miniature"]) == 32
    large = ServedModel(weights="w", recipe="sd", generation={"batch_size": 8, "max_engines": 40})
    assert max_images_in_flight(large) == 256


def test_without_the_secret_of_engines_it_says_so() -> None:
    environment = {name: said for name, said in os.environ.items() if name != "DTI_ENGINE_SECRET"}
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


def test_it_loads_no_torch_and_no_ray() -> None:
    code = (
        "import services.dispatch.__main__, sys; "
        "sys.exit(', '.join({'torch', 'numpy', 'ray'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
