"""The scripts start, and those for models of full size run through, on small ones."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = [path.name for path in sorted(FOLDER.glob("*.py")) if "__main__" in path.read_text()]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """run(script, *arguments), as from a shell."""

    def run(script: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
        runpy.run_path(str(FOLDER / script), run_name="__main__")

    return run


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_answer_help(script: str, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(script, "--help")
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_what_runs_on_a_gpu_is_there() -> None:
    text = (FOLDER / "on_gpu.sh").read_text()
    named = {word for word in text.replace('"', " ").split() if word.startswith("benchmarks/")}
    assert {f"benchmarks/{name}" for name in ("subjects.py", "pictures.py")} <= named
    assert [name for name in named if not (FOLDER.parent / name).is_file()] == []


def test_subjects_compares_small_models(run: Any, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    sizes = ["--slots", "2", "--steps", "1", "--repeats", "1", "--dtype", "float32"]
    run("subjects.py", "--small", "--models", "sdxl", "sana-1.6b", *sizes, "--json", str(found))
    rows = json.loads(found.read_text())["rows"]
    raced = [(row["model"], row["contender"], row["slots"]) for row in rows]
    assert raced == [
        ("sdxl", "plain", 1),
        ("sdxl", "one slot", 1),
        ("sdxl", "packed", 2),
        ("sana-1.6b", "one slot", 1),
        ("sana-1.6b", "packed", 2),
    ]
    assert rows[0]["faster"] == 1
    assert all(row["faster"] is None for row in rows[3:])
    assert all(0 < row["share"] < 1 for row in rows)


def test_pictures_compares_small_models(run: Any, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    sizes = ["--batches", "1", "3", "--tokens", "4", "--steps", "2", "--repeats", "1"]
    sizes += ["--dtype", "float32", "--json", str(found)]
    run("pictures.py", "--small", "--models", "sdxl", "sana-1.6b", *sizes)
    rows = json.loads(found.read_text())["rows"]
    assert [row["batch"] for row in rows] == [1, 3, 1, 3]
    assert list(rows[0]["pictures per second"]) == ["plain", "1 token", "4 tokens"]
    assert list(rows[-1]["pictures per second"]) == ["1 token", "4 tokens"]


def test_ledger_finds_every_item_and_counts_requests(run: Any, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    sizes = ["--items", "40", "--workers", "2", "--slots", "2", "--rival-claims", "5"]
    run("ledger.py", str(tmp_path / "store"), *sizes, "--json", str(found))
    figures = json.loads(found.read_text())
    assert figures["submit"]["found"] == 40
    assert figures["work"]["requests a subject"] < 8
    assert figures["counts"]["at the end"]["requests"] == 3
    assert figures["counts"]["reading all results"]["requests"] > 40
