"""Short rounds on a directory, and on a real S3 server where there is one."""

import os
import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.config import RoundConfig
from chaos.processes.rounds import run_round
from chaos.report import remove_store

pytestmark = pytest.mark.chaos


def _run(url: str, folder: Path, seed: int, **changes: float) -> None:
    config = RoundConfig(
        url, f"test-{seed}", fault_duration_s=6, lease_s=1.5, completion_timeout_s=60
    )
    result = run_round(replace(config, **changes), folder / "logs")
    assert result.violations == []
    assert result.statistics.jobs
    assert result.statistics.attempts


@pytest.mark.parametrize("seed", [1, 2])
def test_a_ledger_in_a_directory_keeps_its_invariants(tmp_path: Path, seed: int) -> None:
    _run(str(tmp_path / "store"), tmp_path, seed)


@pytest.mark.s3
def test_a_ledger_on_a_real_s3_server_keeps_its_invariants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = os.environ.get("DTI_TEST_S3_ENDPOINT")
    if not endpoint:
        pytest.skip("DTI_TEST_S3_ENDPOINT is not set: no real S3 server to test against")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", os.environ["DTI_TEST_S3_ACCESS_KEY_ID"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", os.environ["DTI_TEST_S3_SECRET_ACCESS_KEY"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", os.environ["DTI_TEST_S3_REGION"])
    monkeypatch.setenv("DTI_S3_ENDPOINT", endpoint)
    monkeypatch.setenv("DTI_S3_ADDRESSING_STYLE", "path")
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    url = f"s3://{os.environ['DTI_TEST_S3_BUCKET']}/tests/{secrets.token_hex(8)}"
    try:
        _run(url, tmp_path, 1, fault_duration_s=4, request_interval_s=1.5, poll_interval_s=0.4)
    finally:
        remove_store(url)
