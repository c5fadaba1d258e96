"""`dti store check`: its verdict, its exit code, and that it leaves nothing behind."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli_app import app
from services.storage.directory import DirectoryStore
from services.storage.memory import MemoryStore


def run(*arguments: str, **environment: str) -> Any:
    return CliRunner(env={"COLUMNS": "200", **environment}).invoke(app, ["store", *arguments])


def test_a_good_store_has_a_table_and_only_a_record_stays_in_it(tmp_path: Path) -> None:
    done = run("check", str(tmp_path / "store"))
    assert done.exit_code == 0, done.stderr
    first, *rows = done.stdout.splitlines()
    assert "can be used" in first
    facts = dict(re.split("  +", row.strip(), maxsplit=1) for row in rows)
    assert facts["create once, compare and swap"] == "atomic"
    assert (facts["versioning"], facts["deleted bytes"]) == ("off", "gone at once")
    store = DirectoryStore(tmp_path / "store")
    assert [head.key for head in store.list().objects] == ["service/probed"]


def test_the_store_may_be_a_variable_and_the_answer_json(tmp_path: Path) -> None:
    done = run("check", "--json", DTI_STORE=str(tmp_path / "store"))
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["usable"], answer["erases"]) == (0, True, True)


def test_a_store_that_breaks_a_promise_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Careless(MemoryStore):
        def create(self, key: str, body: bytes) -> str:
            return self.put(key, body)

    monkeypatch.setattr("services.storage.open.open_store", lambda url: Careless())
    done = run("check", "s3://bucket/x")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "ignores If-None-Match" in done.stderr
    done = run("check", "s3://bucket/x", "--json")
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["usable"]) == (2, False)
    assert "ignores If-None-Match" in answer["reason"]


@pytest.mark.parametrize("url", ["ftp://host", "s3://", "s3://bucket?x=1"])
def test_a_url_of_no_store_is_refused(url: str) -> None:
    assert run("check", url).exit_code == 2
