"""`dti erase` and `dti uploads`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hosted import Hosted, wait_until
from typer.testing import Result

Dti = Callable[..., Result]


def test_a_subject_is_erased(dti: Dti, service: Hosted, photos: Path) -> None:
    job = dti("submit", photos, "--tag", "customer=7").stdout.strip()
    with service.at_work():
        wait_until(lambda: "succeeded" in dti("job", job).stdout)
    assert len(json.loads(dti("uploads", "--json").stdout)["uploads"]) == 3
    assert "more uploads" in dti("uploads", "--limit", "1").stderr
    refused = dti("erase", "--subject", "rex")
    assert refused.exit_code == 2
    assert "add --yes" in refused.stderr
    erased = dti("erase", "--subject", "rex", "--yes")
    assert erased.exit_code == 0, erased.output
    assert "1 tokens" in erased.stderr
    assert "1 uploads" in erased.stderr
    assert len(json.loads(dti("uploads", "--json").stdout)["uploads"]) == 2
    report = json.loads(dti("erase", "--tag", "customer=7", "--yes", "--json").stdout)
    assert report["counts"]["jobs"] == 1
    assert dti("erase", "--job", job, "--yes").exit_code == 0
    assert "no uploads" in dti("uploads").stderr


@pytest.mark.parametrize("options", [[], ["--subject", "a", "--job", "b"]])
def test_one_thing_is_erased_at_a_time(dti: Dti, options: list[str]) -> None:
    result = dti("erase", *options)
    assert result.exit_code == 2
    assert "one of --subject, --tag and --job" in result.stderr
