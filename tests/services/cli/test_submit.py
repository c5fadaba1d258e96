"""`dti submit`: its requests, refusals and results."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hosted import Hosted, make_bundle, wait_until
from PIL import Image
from typer.testing import Result

from dti_engine.images.bundles.schema import Kind
from services.cli import requests as orders
from services.cli import submit as submission
from services.cli import wait as waiting
from services.contracts.jobs import MAX_ITEMS
from services.ledger.jobs import read_spec
from services.ledger.keys import JobKeys

Dti = Callable[..., Result]
NAMES = ["ann", "my-tom-2", "rex"]


def items_of(service: Hosted, job: str) -> dict[str, dict[str, Any]]:
    """Return the items of a job by name."""
    spec = read_spec(service.ledger, JobKeys("acme", job))
    items = (spec.item(index) for index in range(spec.record.count))
    return {item.name: dict(item.work) for item in items}


def test_bundles_become_one_job(dti: Dti, service: Hosted, photos: Path) -> None:
    result = dti("submit", photos, "--tag", "customer=7", "--set", "steps=30", "--set", "lr=0.1")
    assert result.exit_code == 0
    job = result.stdout.strip()
    assert f"dti job {job} --wait" in result.stderr
    items = items_of(service, job)
    assert sorted(items) == NAMES
    assert items["my-tom-2"]["placeholder"] == "<my-tom-2>"
    assert items["rex"]["initializer"] == "dog"
    spec = read_spec(service.ledger, JobKeys("acme", job))
    assert spec.record.tags == {"customer": "7"}
    assert spec.shared["config"]["steps"] == 30  # type: ignore[index]
    assert spec.shared["config"]["lr"] == 0.1  # type: ignore[index]


def test_the_same_submission_is_the_same_job_until_a_new_one_is_requested(
    dti: Dti, photos: Path
) -> None:
    first, second = dti("submit", photos), dti("submit", photos)
    assert first.stdout == second.stdout
    assert "--again" not in first.stderr
    assert "made this job before" in second.stderr
    third, fourth = dti("submit", photos, "--again"), dti("submit", photos, "--set", "steps=30")
    assert len({each.stdout for each in (first, third, fourth)}) == 3


def test_a_data_set_of_another_trainer_is_submitted_with_its_class_word(
    dti: Dti, service: Hosted, photos: Path
) -> None:
    data_set = photos.parent / "fido"
    (data_set / "10_sks dog").mkdir(parents=True)
    for file in (photos / "rex").glob("*.png"):
        file.rename(data_set / "10_sks dog" / file.name)
    (data_set / "10_sks dog" / "0.txt").write_text("sks dog at sea")
    (data_set / "log").mkdir()
    first = dti("submit", data_set)
    assert first.exit_code == 0, first.stderr
    (item,) = items_of(service, first.stdout.strip()).values()
    assert (item["placeholder"], item["initializer"]) == ("<fido>", "dog")
    (data_set / "tokens").mkdir()
    (data_set / "tokens" / "fido.safetensors").write_bytes(b"token")
    assert dti("submit", data_set).stdout == first.stdout


def test_an_idempotency_key_names_the_job(dti: Dti, photos: Path) -> None:
    first = dti("submit", photos, "--idempotency-key", "mine")
    assert dti("submit", photos, "--idempotency-key", "mine").stdout == first.stdout
    refused = dti("submit", photos / "rex", "--idempotency-key", "mine")
    assert refused.exit_code == 2
    assert first.stdout.strip() in refused.stderr


def test_waiting_fetches_tokens(dti: Dti, service: Hosted, photos: Path) -> None:
    with service.at_work():
        result = dti("submit", photos, "--wait", "--output", "out")
    assert result.exit_code == 0, result.output
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert sorted(path.name for path in paths) == [f"{name}.safetensors" for name in NAMES]
    assert Path("out/rex.safetensors").read_bytes() == b"token of rex"
    assert "succeeded: 3 succeeded of 3" in result.stderr
    assert sorted(each.name for each in Path("out").iterdir()) == sorted(p.name for p in paths)


def test_one_that_fails_is_named_and_the_others_are_fetched(
    dti: Dti, service: Hosted, photos: Path
) -> None:
    service.failing["ann"] = "'0.png': too small"
    with service.at_work():
        result = dti("submit", photos, "-w")
        assert result.exit_code == 1
        assert "failed: ann: '0.png': too small" in result.stderr
        assert sorted(each.name for each in Path("tokens").iterdir()) == [
            "my-tom-2.safetensors",
            "rex.safetensors",
        ]
        service.failing.clear()
        again = dti("retry", result.stderr.split("dti retry ")[1].split("`")[0], "-w", "--json")
    assert again.exit_code == 0
    assert sorted(each["id"] for each in json.loads(again.stdout)["tokens"]) == NAMES


def test_json_is_one_document_on_stdout(dti: Dti, service: Hosted, photos: Path) -> None:
    service.failing["ann"] = "no"
    with service.at_work():
        report = json.loads(dti("submit", photos, "--wait", "--json").stdout)
    assert report["job"]["state"] == "partially_succeeded"
    assert report["failed"] == [{"id": "ann", "index": 1, "reason": "no"}]
    assert [each["id"] for each in report["tokens"]] == ["my-tom-2", "rex"]
    assert Path(report["tokens"][1]["path"]).read_bytes() == b"token of rex"
    assert report["unfetched"] == []
    submitted = json.loads(dti("submit", photos, "--json").stdout)
    assert (submitted["job"], submitted["created"]) == (report["job"]["job"], False)


def test_bundles_that_fail_the_check_are_not_sent(dti: Dti, service: Hosted, photos: Path) -> None:
    (photos / "rex" / "9.png").write_bytes(b"no image")
    make_bundle(photos / "zoe", 9)  # says no word
    refused = dti("submit", photos)
    assert refused.exit_code == 2
    assert "refused: rex: " in refused.stderr
    assert "'9.png'" in refused.stderr
    assert "refused: zoe: " in refused.stderr
    assert "2 of 4 bundles are refused" in refused.stderr
    assert "--skip-refused" in refused.stderr
    assert dti("jobs", "--json").stdout == '{\n  "jobs": []\n}\n'
    sent = dti("submit", photos, "--skip-refused")
    assert sorted(items_of(service, sent.stdout.strip())) == ["ann", "my-tom-2"]


def test_if_all_are_refused_nothing_is_skipped(dti: Dti, photos: Path) -> None:
    (photos / "rex" / "9.png").write_bytes(b"no image")
    refused = dti("submit", photos / "rex", "--skip-refused")
    assert refused.exit_code == 2
    assert "nothing is left to submit" in refused.stderr


def test_a_dry_run_makes_nothing(dti: Dti, service: Hosted, photos: Path) -> None:
    shown = dti("submit", photos, "--dry-run", "--set", "steps=30")
    assert shown.exit_code == 0
    assert "3 bundles" in shown.stdout
    assert "steps 30" in shown.stdout
    assert "nothing was submitted" in shown.stderr
    report = json.loads(dti("submit", photos, "--dry-run", "--json").stdout)
    assert report["count"] == report["missing"] == 3
    assert report["upload_bytes"] > 1000
    assert json.loads(dti("jobs", "--json").stdout) == {"jobs": []}


def test_a_job_that_the_service_refuses_fails_before_the_uploads(
    dti: Dti, service: Hosted, photos: Path
) -> None:
    refused = dti("submit", photos, "--set", "steps=-1", "--model", "miniature")
    assert refused.exit_code == 2
    assert "steps" in refused.stderr
    assert json.loads(dti("submit", photos, "--dry-run", "--json").stdout)["missing"] == 3


def test_many_subjects_go_as_a_manifest(
    dti: Dti, service: Hosted, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = dti("submit", photos).stdout.strip()
    monkeypatch.setattr(orders, "_MAX_INLINE", 2)
    listed = dti("submit", photos).stdout.strip()
    assert inline != listed
    assert items_of(service, inline) == items_of(service, listed)
    assert dti("submit", photos).stdout.strip() == listed


def test_photographs_are_refused_for_the_miniature_unless_forced(
    dti: Dti, service: Hosted, tmp_path: Path
) -> None:
    (tmp_path / "max").mkdir()
    noise = Image.effect_noise((100, 100), 60).convert("RGB")
    noise.resize((300, 300), Image.Resampling.BICUBIC).save(tmp_path / "max" / "0.png")
    for more in ([], ["--dry-run"]):
        refused = dti("submit", tmp_path / "max", "-i", "dog", *more)
        assert refused.exit_code == 2
        assert "max: its images are photographs" in refused.stderr
    sent = dti("submit", tmp_path / "max", "-i", "dog", "--force")
    assert sent.exit_code == 0
    assert "forced: its images are photographs" in " ".join(sent.stderr.split())
    spec = read_spec(service.ledger, JobKeys("acme", sent.stdout.strip()))
    assert spec.shared["photographs"] == "forced"


def test_persons_need_consent(dti: Dti, service: Hosted, photos: Path) -> None:
    (photos / "ann" / "bundle.json").write_text('{"initializer": "robot", "kind": "person"}')
    refused = dti("submit", photos)
    assert refused.exit_code == 2
    assert "ann is a person" in refused.stderr
    half = dti("submit", photos, "--consent-by", "Studio Nine")
    assert "--consent-basis" in half.stderr
    consent = ["--consent-by", "Studio Nine", "--consent-basis", "form", "--consent-until"]
    sent = dti("submit", photos, *consent, "2999-05-02")
    items = items_of(service, sent.stdout.strip())
    assert items["ann"]["kind"] == "person"
    assert items["ann"]["consent"] == {
        "attested_by": "Studio Nine",
        "basis": "form",
        "expires_at": "2999-05-02T00:00:00Z",
    }
    assert "consent" not in items["rex"]
    assert "expired" in dti("submit", photos, *consent, "2001-05-02").stderr


def test_archives_and_words_are_taken_as_by_train(
    dti: Dti, service: Hosted, photos: Path, tmp_path: Path
) -> None:
    import shutil

    archive = shutil.make_archive(str(tmp_path / "Max"), "zip", photos / "rex")
    sent = dti("submit", archive, photos / "ann", "-i", "car", "-i", "bird", "--kind", "style")
    items = items_of(service, sent.stdout.strip())
    assert items["max"]["initializer"] == "car"
    assert items["ann"]["initializer"] == "bird"
    assert {item["kind"] for item in items.values()} == {"style"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--idempotency-key", "a", "--again"], "drop one"),
        (["--output", "out"], "--wait"),
        (["--dry-run", "--wait"], "drop one"),
        (["--set", "steps"], "--set takes NAME=VALUE"),
        (["--tag", "=7"], "--tag takes NAME=VALUE"),
        (["--tag", "a=7", "--tag", "a=8"], "given twice"),
        (["--set", "steps=NaN"], "steps"),
        (["--webhook", "ftp://a"], "webhook"),
        (["--model", "flux"], "there are miniature"),
        (["--recipe", "flux"], "known are"),
        (["-i", "a", "-i", "b"], "once for each"),
        (["--server", "nowhere"], "is not a server"),
        (["--api-key", "dti_1_no"], "key"),
    ],
)
def test_bad_input_is_one_message_on_stderr_and_exit_code_2(
    dti: Dti, photos: Path, options: list[str], message: str
) -> None:
    result = dti("submit", photos, *options)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_more_than_a_job_takes_is_refused(
    dti: Dti, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "MAX_ITEMS", 2)
    assert "at most 2" in dti("submit", photos).stderr
    assert MAX_ITEMS == 10_000


def test_without_a_service_the_error_says_what_to_do(
    dti: Dti, service: Hosted, photos: Path
) -> None:
    lost = dti("jobs", DTI_SERVER="", DTI_API_KEY="")
    assert lost.exit_code == 2
    assert "dti serve" in lost.stderr
    service.stop()
    away = dti("jobs")
    assert away.exit_code == 1
    assert "is it running" in away.stderr


def test_kinds_are_those_of_bundles() -> None:
    hint = get_type_hints(submission.submit)["kind"]
    assert set(get_args(get_args(hint)[0])) == set(get_args(Kind))


def test_a_restart_of_the_service_does_not_disturb_who_waits(
    dti: Dti, service: Hosted, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker stops it, as soon as somebody waits."""
    service.may_end.clear()
    hear = waiting._Waiting._say_connected
    restarts: list[str] = []

    def restart(self: Any) -> None:
        hear(self)
        if not restarts:
            restarts.append("stopped")
            service.stop(at_once=True)

    miss = waiting._Waiting._say_disconnected

    def missed(self: Any, why: str) -> None:
        miss(self, why)
        if restarts == ["stopped"]:
            restarts.append("started")
            service.start()
            service.may_end.set()

    monkeypatch.setattr(waiting._Waiting, "_say_connected", restart)
    monkeypatch.setattr(waiting._Waiting, "_say_disconnected", missed)
    with service.at_work():
        result = dti("submit", photos, "--wait")
    assert result.exit_code == 0, result.output
    assert restarts == ["stopped", "started"]
    assert "trying again until it answers" in result.stderr
    assert "the service answers again" in result.stderr
    assert len(result.stdout.splitlines()) == 3


def test_ctrl_c_leaves_the_job_running_and_the_same_command_comes_back(
    dti: Dti, service: Hosted, photos: Path
) -> None:
    service.may_end.clear()
    code = "from services.cli_app import main; main()"
    command = [sys.executable, "-c", code, "submit", str(photos), "--wait", "-o", "out"]
    with service.at_work():
        with subprocess.Popen(
            command,
            env={**os.environ, **service.environment},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Shells start what runs in the background with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:
            assert process.stderr
            while "waiting for job" not in process.stderr.readline():
                assert process.poll() is None
            wait_until(lambda: len(service.begun) == 3)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert out == ""
        job = json.loads(dti("jobs", "--json").stdout)["jobs"][0]
        assert job["state"] == "running"
        assert f"`dti job {job['job']} --wait -o out`" in err
        assert f"`dti cancel {job['job']}`" in err
        assert "Traceback" not in err
        service.may_end.set()
        back = dti("submit", photos, "--wait", "-o", "out")
    assert back.exit_code == 0
    assert len(json.loads(dti("jobs", "--json").stdout)["jobs"]) == 1
