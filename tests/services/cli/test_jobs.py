"""`dti jobs`, `dti job`, `dti cancel`, `dti retry`, `dti delete`, `dti tokens`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hosted import Hosted, wait_until
from typer.testing import Result

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.exporters import convert
from dti_engine.artifacts.manifest import ImportedOrigin
from dti_engine.text.tokens import LearnedToken
from services.client.client import Client

Dti = Callable[..., Result]


@pytest.fixture
def submitted(dti: Dti, photos: Path) -> str:
    """Return a job of my-tom-2, ann and rex that no worker has claimed."""
    return dti("submit", photos, "--tag", "customer=7").stdout.strip()


@pytest.fixture
def ended(dti: Dti, service: Hosted, submitted: str) -> str:
    """Return the same job after it has ended; ann has failed."""
    service.failing["ann"] = "refused:\n  '0.png': too small"
    with service.at_work():
        wait_until(lambda: shown(dti, submitted)["state"] == "partially_succeeded")
    return submitted


def shown(dti: Dti, job: str, *options: str) -> Any:
    return json.loads(dti("job", job, "--json", *options).stdout)


def test_jobs_are_listed_the_newest_first(dti: Dti, photos: Path, submitted: str) -> None:
    second = dti("submit", photos, "--again").stdout.strip()
    listed = dti("jobs")
    assert listed.exit_code == 0
    lines = listed.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [second, submitted]
    assert "0/3" in lines[2]
    limited = dti("jobs", "--limit", "1")
    assert submitted not in limited.stdout
    assert "there are older jobs" in limited.stderr
    report = json.loads(dti("jobs", "--limit", "1", "--json").stdout)
    assert [job["job"] for job in report["jobs"]] == [second]


def test_without_jobs_it_says_how_to_make_one(dti: Dti) -> None:
    assert "dti submit" in dti("jobs").stderr


def test_a_job_of_a_model_that_is_no_longer_served_says_so(
    dti: Dti, service: Hosted, submitted: str
) -> None:
    assert "warning" not in dti("job", submitted).stderr
    service.stop()
    service.models = {"other": service.models["miniature"]}
    service.start()
    for name in (submitted, submitted[-6:]):
        assert "miniature is no longer offered" in dti("job", name).stderr


@pytest.mark.parametrize("part", [slice(None), slice(-6, None), slice(0, 25)])
def test_a_job_is_found_by_part_of_its_id(dti: Dti, submitted: str, part: slice) -> None:
    result = dti("job", submitted[part].upper())
    assert result.exit_code == 0
    assert submitted in result.stdout
    assert "queued" in result.stdout
    assert "customer=7" in result.stdout
    assert f"dti job {submitted} --wait" in result.stderr


def test_a_part_that_several_or_none_have_is_refused(
    dti: Dti, photos: Path, submitted: str
) -> None:
    second = dti("submit", photos, "--again").stdout.strip()
    both = dti("job", submitted[:4])
    assert both.exit_code == 2
    assert submitted in both.stderr
    assert second in both.stderr
    assert "none of the 2 newest" in dti("job", "uuuuu").stderr
    assert "is not the id of a job" in dti("job", "ab").stderr
    assert "is not the id of a job" in dti("job", "a" * 27).stderr
    assert dti("job", "0" * 26).exit_code == 2


def test_failures_are_shown_with_all_their_reasons(dti: Dti, ended: str) -> None:
    result = dti("job", ended)
    assert "2 succeeded, 1 failed" in result.stdout
    assert f"dti job {ended} --failed" in result.stderr
    assert dti("job", ended, "--failed").stdout == "ann: refused:\n  '0.png': too small\n"
    items = dti("job", ended, "--items").stdout
    assert [line.split()[0] for line in items.splitlines()[2:] if not line.startswith(" ")] == [
        "my-tom-2",
        "ann",
        "rex",
    ]
    report = shown(dti, ended, "--failed")
    assert [item["id"] for item in report["items"]] == ["ann"]
    assert len(shown(dti, ended, "--items")["items"]) == 3


def test_waiting_for_an_ended_job_fetches_the_missing_files(
    dti: Dti, service: Hosted, ended: str
) -> None:
    first = dti("job", ended, "--wait", "-o", "out")
    assert first.exit_code == 1
    paths = sorted(first.stdout.splitlines())
    assert paths == ["out/my-tom-2.safetensors", "out/rex.safetensors"]
    assert "failed: ann: refused:" in first.stderr
    before = Path("out/rex.safetensors").stat()
    Path("out/my-tom-2.safetensors").write_bytes(b"another one")
    dti("job", ended, "--wait", "-o", "out")
    assert Path("out/rex.safetensors").stat().st_mtime_ns == before.st_mtime_ns
    assert Path("out/my-tom-2.safetensors").read_bytes() == b"token of my-tom-2"
    (moved,) = Path("out/earlier").iterdir()
    assert moved.read_bytes() == b"another one"


def test_a_token_that_cannot_be_fetched_is_reported(dti: Dti, ended: str) -> None:
    token = shown(dti, ended, "--items")["items"][2]["token"]
    dti("delete", token, "--yes")
    result = dti("job", ended, "--wait", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert [each["id"] for each in report["tokens"]] == ["my-tom-2"]
    assert report["job"]["counts"]["deleted"] == 1


def test_a_folder_that_cannot_be_written_is_refused_before_the_wait(dti: Dti, ended: str) -> None:
    Path("out").write_text("a file")
    refused = dti("job", ended, "--wait", "-o", "out")
    assert refused.exit_code == 2
    assert "cannot make the output folder" in refused.stderr


def test_a_cancelled_job_ends_the_wait(dti: Dti, service: Hosted, submitted: str) -> None:
    cancelled = dti("cancel", submitted[-6:])
    assert cancelled.exit_code == 0
    assert "cancel" in cancelled.stdout
    with service.at_work():
        result = dti("job", submitted, "--wait")
    assert result.exit_code == 1
    assert "3 cancelled of 3" in result.stderr
    refused = dti("retry", submitted)
    assert refused.exit_code == 2
    assert "was cancelled" in refused.stderr


def test_failed_ones_are_tried_again(dti: Dti, service: Hosted, ended: str) -> None:
    service.failing.clear()
    result = dti("retry", ended)
    assert "1 subjects are retried" in result.stderr
    assert "1 queued" in result.stdout
    with service.at_work():
        assert dti("job", ended, "--wait").exit_code == 0
    assert "no item had failed" in dti("retry", ended).stderr


def test_contradicting_options_are_refused(dti: Dti, submitted: str) -> None:
    for options in (["--wait", "--items"], ["--items", "--failed"], ["-o", "out"]):
        assert dti("job", submitted, *options).exit_code == 2
    assert dti("retry", submitted, "-o", "out").exit_code == 2


def test_nothing_is_deleted_without_confirmation(dti: Dti, ended: str) -> None:
    refused = dti("delete", ended)
    assert refused.exit_code == 2
    assert "1 jobs and 2 tokens would be deleted" in refused.stderr
    assert "--yes" in refused.stderr
    assert shown(dti, ended)["counts"]["succeeded"] == 2


def test_deleted_objects_are_gone(dti: Dti, ended: str) -> None:
    token = shown(dti, ended, "--items")["items"][2]["token"]
    assert json.loads(dti("delete", token, "-y", "--json").stdout) == {"deleted": [token]}
    assert [each["alias"] for each in tokens(dti)] == ["my-tom-2"]
    assert f"deleted: {ended}" in dti("delete", ended[-6:], "--yes").stderr
    assert tokens(dti) == []
    outcome = dti("job", ended)
    assert outcome.exit_code == 2
    assert "deleted" in outcome.stderr


def test_deleting_objects_of_other_tenants_is_refused(dti: Dti) -> None:
    refused = dti("delete", f"tok_{'0' * 33}", "--yes")
    assert refused.exit_code == 2


def tokens(dti: Dti, *options: object) -> Any:
    return json.loads(dti("tokens", "--json", *options).stdout)["tokens"]


def test_tokens_are_listed_by_subject_and_by_tag(dti: Dti, ended: str) -> None:
    listed = dti("tokens").stdout
    assert "my-tom-2" in listed
    assert "0.750" in listed
    assert [each["alias"] for each in tokens(dti)] == ["my-tom-2", "rex"]
    assert [each["alias"] for each in tokens(dti, "--alias", "rex")] == ["rex"]
    assert len(tokens(dti, "--tag", "customer=7")) == 2
    assert tokens(dti, "--tag", "customer=8") == []
    assert "no such tokens" in dti("tokens", "--alias", "max").stderr
    assert "--limit" in dti("tokens", "--limit", "1").stderr
    assert dti("tokens", "--tag", "customer").exit_code == 2


def test_tokens_are_fetched_the_newest_under_its_name(
    dti: Dti, service: Hosted, photos: Path, ended: str
) -> None:
    with service.at_work():
        dti("submit", photos / "rex", "--wait", "-o", "elsewhere")
    result = dti("tokens", "--download", "out")
    assert result.exit_code == 0
    names = sorted(path.name for path in Path("out").iterdir())
    older = next(each["token"] for each in tokens(dti, "--alias", "rex")[1:])
    assert names == sorted(
        ["my-tom-2.safetensors", "rex.safetensors", f"rex-{older[-15:]}.safetensors"]
    )
    assert sorted(result.stdout.splitlines()) == sorted(f"out/{name}" for name in names)
    report = tokens(dti, "--alias", "rex", "--download", "out")
    assert report[0]["path"] == "out/rex.safetensors"


def test_tokens_are_fetched_in_the_format_of_another_program(
    dti: Dti, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"text_encoder": torch.randn(1, 768), "text_encoder_2": torch.randn(1, 1280)}
    token = LearnedToken("<rex>", rows, "eos")
    origin = ImportedOrigin(format_name="test", pooling="eos", files={})
    artifact = Artifact.of(token, model="tiny", fingerprint="0" * 64, origin=origin)
    monkeypatch.setattr(Client, "token_file", lambda self, token: artifact.to_bytes())
    Path("out").mkdir()
    Path("out/rex.safetensors").write_bytes(b"mine")
    fetch = ("tokens", "--alias", "rex", "--download", "out")
    result = dti(*fetch, "--format", "diffusers")
    assert result.exit_code == 0, result.output
    expected = convert(artifact, Path("out/rex.safetensors"), "diffusers")
    assert result.stdout.splitlines() == ["out/rex.safetensors", "out/rex_2.safetensors"]
    assert {path: path.read_bytes() for path in expected.files} == expected.contents
    assert [path.read_bytes() for path in Path("out/earlier").iterdir()] == [b"mine"]
    notes = " ".join(result.stderr.split())
    assert "in a prompt of diffusers: <rex>" in notes
    assert "eos_token_id" in notes
    [listed] = json.loads(dti(*fetch, "--format", "comfyui", "--json").stdout)["tokens"]
    assert (listed["path"], listed["paths"]) == ("out/rex.safetensors", ["out/rex.safetensors"])
    refused = dti("tokens", "--format", "comfyui")
    assert (refused.exit_code, "add --download DIR" in refused.stderr) == (2, True)
