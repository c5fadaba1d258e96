"""Job requests and their digests, counts, and the states that follow from them."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from services.contracts.jobs import MAX_ITEMS, Counts, ItemState, JobItem, JobRequest, JobState


def _items(count: int) -> tuple[JobItem, ...]:
    return tuple(JobItem(name=str(number)) for number in range(count))


def test_a_job_has_1_to_10000_items() -> None:
    assert len(JobRequest(items=_items(MAX_ITEMS)).items) == MAX_ITEMS == 10_000
    for count in (0, MAX_ITEMS + 1):
        with pytest.raises(ValidationError, match=rf"items[\s\S]*not {count} "):
            JobRequest(items=_items(count))


def test_two_items_of_one_name_are_named() -> None:
    with pytest.raises(ValidationError, match="2 items are called 'b': give each a name"):
        JobRequest(items=tuple(JobItem(name=name) for name in "abcb"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, r"colour\s+Extra inputs are not permitted"),
        ({"items": [{"name": "a", "wrok": {}}]}, r"items.0.wrok\s+Extra inputs are not permitted"),
        ({"items": [{"name": ""}]}, r"items.0.name\s+String should have at least 1 character"),
        ({"items": [{"name": "a" * 201}]}, r"items.0.name\s+String should have at most 200"),
        ({"items": [{"name": "a", "work": {"x": float("nan")}}]}, "finite number"),
        ({"pool": "Default"}, r"pool\s+String should match"),
        ({"pool": "a/b"}, r"pool\s+String should match"),
        ({"pool": "a\n"}, r"pool\s+String should match"),
        ({"kind": "other"}, r"kind\s+Input should be 'training' or 'generation'"),
        ({"max_attempts": 0}, r"max_attempts\s+Input should be greater than or equal to 1"),
        ({"max_attempts": 21}, r"max_attempts\s+Input should be less than or equal to 20"),
        ({"tags": {str(number): "" for number in range(21)}}, r"tags\s+.*at most 20"),
    ],
)
def test_an_invalid_job_is_refused_with_the_place_of_the_error(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        JobRequest.model_validate({"items": [{"name": "a"}]} | change)


def test_text_that_no_store_can_keep_is_refused_at_once() -> None:
    with pytest.raises(ValidationError):
        JobRequest(items=(JobItem(name="a", work={"prompt": "\ud800"}),))


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    one = {
        "items": [{"name": "a", "work": {"x": 1, "y": {"p": [1, 2], "q": None}}}],
        "shared": {"s": 1, "t": 2},
        "tags": {"u": "1", "v": "2"},
    }
    other = {
        "tags": {"v": "2", "u": "1"},
        "shared": {"t": 2, "s": 1},
        "items": [{"work": {"y": {"q": None, "p": [1, 2]}, "x": 1}, "name": "a"}],
    }
    first, second = (JobRequest.model_validate_json(json.dumps(text)) for text in (one, other))
    assert first.digest() == second.digest()
    assert len(first.digest()) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"items": [{"name": "b"}, {"name": "a"}]},
        {"items": [{"name": "a"}, {"name": "b", "work": {"x": 1}}]},
        {"pool": "other"},
        {"kind": "generation"},
        {"shared": {"x": 1}},
        {"tags": {"x": "1"}},
        {"max_attempts": 5},
    ],
)
def test_the_digest_depends_on_everything_else(change: dict[str, Any]) -> None:
    base = {"items": [{"name": "a"}, {"name": "b"}]}
    assert (
        JobRequest.model_validate(base).digest()
        != JobRequest.model_validate(base | change).digest()
    )


@pytest.mark.parametrize(
    ("counts", "cancelled", "state"),
    [
        ({"queued": 3}, False, JobState.QUEUED),
        ({"queued": 2, "succeeded": 1}, False, JobState.RUNNING),
        ({"running": 3}, False, JobState.RUNNING),
        ({"running": 1, "cancelled": 2}, True, JobState.CANCELLING),
        ({"queued": 1, "cancelled": 2}, True, JobState.CANCELLING),
        ({"cancelled": 1, "succeeded": 2}, True, JobState.CANCELLED),
        ({"succeeded": 3}, True, JobState.SUCCEEDED),
        ({"succeeded": 3}, False, JobState.SUCCEEDED),
        ({"succeeded": 2, "deleted": 1}, False, JobState.SUCCEEDED),
        ({"succeeded": 2, "failed": 1}, False, JobState.PARTIALLY_SUCCEEDED),
        ({"failed": 2, "deleted": 1}, False, JobState.FAILED),
    ],
)
def test_a_job_is_called_by_its_counts(
    counts: dict[str, int], cancelled: bool, state: JobState
) -> None:
    counted = Counts.model_validate(counts)
    assert counted.state(cancelled=cancelled) is state
    assert counted.total == 3
    assert state.ended == (counted.ended == 3)


def test_states_are_counted() -> None:
    states = [ItemState.QUEUED, ItemState.RUNNING, ItemState.FAILED, ItemState.FAILED]
    counts = Counts.of(states)
    assert (counts.queued, counts.running, counts.failed, counts.ended) == (1, 1, 2, 2)
    assert [state.ended for state in states] == [False, False, True, True]
