"""`dti generate-bulk`: its requests, refusals and results."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosted import Hosted
from stub_engine import SECRET, StubEngine, stub_engine
from typer.testing import Result

from dti_engine.errors import ConfigurationError
from services.cli.generate_bulk import seeds_body, variants
from services.contracts.models import MINIATURE
from services.dispatch.dispatcher import Dispatcher
from services.engine_client import EngineClient
from services.ledger.jobs import read_spec
from services.ledger.keys import JobKeys

Dti = Callable[..., Result]
PROMPT = "a red dog"
FILES = ["0000-a-red-dog-0.png", "0001-a-red-dog-1.png", "0002-a-red-dog-2.png"]


@pytest.fixture
def generator(service: Hosted) -> Iterator[StubEngine]:
    """Run a dispatcher with a stub engine."""
    with stub_engine() as (engine, url):
        dispatcher = Dispatcher(service.ledger, MINIATURE, lambda: EngineClient(url, SECRET, 2.0))
        thread = threading.Thread(target=dispatcher.run)
        thread.start()
        try:
            yield engine
        finally:
            dispatcher.drain()
            thread.join(20)
            assert not thread.is_alive()


def spec_of(service: Hosted, result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    spec = read_spec(service.ledger, JobKeys("acme", result.stdout.strip()))
    return {**spec.shared, "count": spec.record.count, "tags": spec.record.tags}


def test_prompts_tokens_and_seeds_become_one_job(dti: Dti, service: Hosted, tmp_path: Path) -> None:
    subjects = [{"id": name, "bundle": "0" * 64} for name in ("rex", "tom", "kit")]
    with service.at_work(), service.client() as client:
        list(client.watch(client.submit({"subjects": subjects}, "k").job))
    file = tmp_path / "prompts.txt"
    file.write_text("a <dog> and a <cat>\n\na painting of a <dog>\n")
    tokens = [part for name in ("<dog>=rex", "<dog>=tom", "<cat>=kit") for part in ("-t", name)]
    options = ("--seeds", "5-7", "--steps", "9", "--size", "64x32", "--tag", "customer=7")
    order = spec_of(service, dti("generate-bulk", "--file", file, *tokens, *options))
    assert (order["count"], order["tags"]) == (12, {"customer": "7"})
    assert [one["prompt"] for one in order["prompts"]] == [
        "a <dog> and a <cat>",
        "a painting of a <dog>",
    ]
    assert [one["tokens"] for one in order["variants"]] == [
        {"<dog>": "rex", "<cat>": "kit"},
        {"<dog>": "tom", "<cat>": "kit"},
    ]
    common = order["common"]
    assert (common["steps"], common["width"], common["height"]) == (9, 64, 32)


def test_waiting_fetches_images_and_again_fetches_none(
    dti: Dti, generator: StubEngine, service: Hosted
) -> None:
    result = dti("generate-bulk", PROMPT, "--seeds", "0-2", "--steps", "2", "--wait")
    assert result.exit_code == 0, result.output
    assert [Path(line).name for line in result.stdout.splitlines()] == FILES
    folder = Path("images")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert "succeeded: 3 succeeded of 3" in result.stderr
    before = {name: (folder / name).stat().st_mtime_ns for name in FILES}
    (folder / FILES[1]).write_bytes(b"of something else")
    again = dti("generate-bulk", PROMPT, "--seeds", "0-2", "--steps", "2", "--wait", "--json")
    assert len(generator.requests) == 3
    assert [one["index"] for one in json.loads(again.stdout)["images"]] == [0, 1, 2]
    for name in (FILES[0], FILES[2]):
        assert (folder / name).stat().st_mtime_ns == before[name]
    assert (folder / FILES[1]).read_bytes().startswith(b"\x89PNG")
    [moved] = (folder / "earlier").iterdir()
    assert moved.read_bytes() == b"of something else"


def test_jobs_of_both_kinds_are_listed_shown_cancelled_tried_again_and_deleted(
    dti: Dti, service: Hosted, generator: StubEngine
) -> None:
    generator.failures[0] = ("TokenError", "no such word")
    result = dti("generate-bulk", PROMPT, "--wait")
    assert result.exit_code == 1
    job = json.loads(dti("jobs", "--json").stdout)["jobs"][0]
    assert (job["kind"], job["state"]) == ("generation", "failed")
    name = job["job"][-8:]
    assert "no such word" in dti("job", name, "--failed").stdout
    assert "images" in dti("job", job["job"]).stdout
    generator.failures.clear()
    result = dti("retry", name, "--wait", "-o", "out")
    assert "1 images are retried" in result.stderr
    assert result.exit_code == 0, result.output
    assert Path("out/0000-a-red-dog-0.png").exists()
    generator.may_finish.clear()
    other = dti("generate-bulk", PROMPT, "--seeds", "7").stdout.strip()
    with service.client() as client:
        subjects = client.submit({"subjects": [{"id": "rex", "bundle": "0" * 64}]}, "k")
    listed = json.loads(dti("jobs", "--json").stdout)["jobs"]
    assert [each["job"] for each in listed] == [subjects.job, other, job["job"]]
    assert dti("cancel", other[-8:]).exit_code == 0
    generator.may_finish.set()
    assert dti("delete", other, subjects.job, job["job"], "--yes").exit_code == 0
    assert json.loads(dti("jobs", "--json").stdout)["jobs"] == []


def test_a_dry_run_says_how_many_and_asks_for_none(dti: Dti, service: Hosted) -> None:
    result = dti("generate-bulk", "a <dog>", "-t", "<dog>=rex", "--seeds", "1,5", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "2: 1 prompts x 1 variants x 2 seeds" in result.stdout
    assert "rex" in result.stdout
    assert "nothing was submitted" in result.stderr
    with service.client() as client:
        assert list(client.jobs()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to generate"),
        ((PROMPT, "-t", "dog=rex"), "no token of a subject 'dog=rex'"),
        ((PROMPT, "--seeds", "3-1"), "--seeds takes"),
        ((PROMPT, "--output", "x"), "add --wait"),
        ((PROMPT, "--size", "1x1"), "8 to 4096"),
        (("a <dog>", "-t", "<dog>=nobody"), "there is no token 'nobody'"),
        ((PROMPT, "a cat", "--seeds", "0-9999"), "20000 images"),
    ],
)
def test_invalid_arguments_are_refused(dti: Dti, arguments: tuple[str, ...], message: str) -> None:
    result = dti("generate-bulk", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_variants_are_all_combinations_of_the_tokens() -> None:
    assert variants([]) is None
    assert variants([("<a>", "x=y")]) == [{"tokens": {"<a>": "x=y"}}]
    assert len(variants([(f"<{p}>", n) for p in "abc" for n in "xy"]) or ()) == 8


def test_seeds_are_a_range_or_a_list() -> None:
    assert seeds_body("3-7") == {"first": 3, "count": 5}
    assert seeds_body("4") == {"first": 4, "count": 1}
    assert seeds_body("1,5") == [1, 5]
    assert seeds_body("0-2,8") == [0, 1, 2, 8]
    with pytest.raises(ConfigurationError, match="twice"):
        seeds_body("0-2,1")
