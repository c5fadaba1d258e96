"""Bulk jobs over HTTP to tokens that generate, on a real Ray node."""

import os
import signal
from pathlib import Path

import pytest
from chaos.service.processes import worker_pids

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones import load_backbone
from dti_engine.generation.pipeline import ImageRequest, generate
from services.local.service import LocalService

from .conftest import SECONDS, Caller, caller_of, plan

pytestmark = pytest.mark.ray


def test_good_subjects_become_tokens_that_paint_and_bad_ones_say_why(caller: Caller) -> None:
    subjects = caller.subjects(3)
    subjects.append({"id": "poison", "bundle": caller.upload(b"PK no zip"), "initializer": "dog"})
    job = caller.submit(subjects, "first", validation_images=1)
    caller.wait_until_ended(job)
    view = caller.job(job)
    assert view["state"] == "partially_succeeded"
    assert view["counts"]["succeeded"] == 3
    items = caller.items(job)
    assert items["poison"]["state"] == "failed"
    assert "zip" in items["poison"]["reason"]
    name = subjects[0]["id"]
    assert 0 <= items[name]["report"]["subject_score"] <= 1
    file = caller.http.get(f"/v1/tokens/{items[name]['token']}/file").raise_for_status().content
    artifact = Artifact.from_bytes(file)
    backbone = load_backbone("miniature")
    prompt = f"a photo of a {artifact.token.placeholder} on a beach"
    token = {artifact.token.placeholder: artifact.token}
    with_it, without = generate(
        backbone,
        [ImageRequest(prompt, 1, token), ImageRequest("a photo of a dog on a beach", 1, {})],
        steps=4,
    )
    assert with_it.size == (64, 64)
    assert with_it.tobytes() != without.tobytes()
    (found,) = caller.get(f"/v1/tokens?alias={name}")["tokens"]
    assert found["token"] == items[name]["token"]

    # A failed one can be tried again, and fails again: nothing has changed.
    assert caller.http.post(f"/v1/training-jobs/{job}/retry").status_code in (200, 202)
    caller.wait_for(lambda: caller.job(job)["state"] == "partially_succeeded")
    # The same request is the same job.
    assert caller.submit(subjects, "first", validation_images=1) == job


def test_jobs_are_cancelled_and_tokens_deleted_for_good(caller: Caller) -> None:
    slow = caller.submit(caller.subjects(2), "slow", overrides={"steps": 5000})
    caller.wait_for(lambda: caller.job(slow)["counts"]["running"] == 2)
    caller.http.post(f"/v1/training-jobs/{slow}/cancel").raise_for_status()
    caller.wait_for(lambda: caller.job(slow)["state"] == "cancelled")
    quick = caller.submit(caller.subjects(1), "quick")
    caller.wait_until_ended(quick)
    (item,) = caller.items(quick).values()
    path = f"/v1/tokens/{item['token']}"
    caller.http.delete(path).raise_for_status()
    assert caller.http.get(path).status_code == 410
    assert caller.http.get(f"{path}/file").status_code == 410


@pytest.mark.parametrize("victim", ["worker", "supervisor and api", "node"])
def test_whoever_is_killed_nothing_is_lost_or_done_twice(caller: Caller, victim: str) -> None:
    subjects = caller.subjects(3)
    job = caller.submit(subjects, f"kill the {victim}", overrides={"steps": 60})
    caller.wait_for(lambda: caller.job(job)["progress"] > 0.1)
    service = caller.service
    if victim == "worker":
        for pid in worker_pids(service):
            os.kill(pid, signal.SIGKILL)
    else:
        processes = {"supervisor": service.supervisor, "api": service.api, "node": service.node}
        for name in victim.split(" and "):
            pid = processes[name].pid
            assert pid
            os.killpg(pid, signal.SIGKILL)
    caller.wait_until_ended(job)
    items = caller.items(job)
    assert {each["state"] for each in items.values()} == {"succeeded"}
    assert {each["report"]["steps"] for each in items.values()} == {60}


def test_a_service_that_is_stopped_goes_on_when_it_is_started_again(
    tmp_path: Path, bundles: dict[str, bytes]
) -> None:
    store = tmp_path / "store"
    with LocalService(plan(store)) as service:
        service.wait_until_ready(SECONDS)
        caller = caller_of(service, bundles)
        job = caller.submit(caller.subjects(1), "k", overrides={"steps": 40})
        caller.wait_for(lambda: caller.job(job)["progress"] > 0.2)
        caller.http.close()
    logs = [log.read_text() for log in (service.folder / "workers").iterdir()]
    assert any("subject started" in text for text in logs), "logs of workers went with Ray's"
    with LocalService(plan(store)) as service:
        service.wait_until_ready(SECONDS)
        again = caller_of(service, bundles)
        again.wait_until_ended(job)
        (item,) = again.items(job).values()
        again.http.close()
    assert item["state"] == "succeeded"
    assert item["report"]["resumed_at"] > 0, "it began from nothing"
