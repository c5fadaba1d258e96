"""Every benchmark answers --help, and the larger ones run through on small models."""

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = [
    ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts).removesuffix(".__main__")
    for path in sorted(FOLDER.rglob("*.py"))
    if "\nif __name__" in path.read_text()
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a script with arguments, as a shell does."""

    def run(script: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        # runpy warns about a module that another benchmark has already imported.
        monkeypatch.delitem(sys.modules, script, raising=False)
        runpy.run_module(script, run_name="__main__", alter_sys=True)

    return run


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_answer_help(script: str, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(script, "--help")
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_the_gpu_script_runs_benchmarks_that_exist() -> None:
    text = (FOLDER / "on_gpu.sh").read_text()
    named = set(re.findall(r"-m (benchmarks\.[\w.]+)", text))
    required = ("training.subjects", "generation.images", "generation.continuous_batching")
    assert {f"benchmarks.{name}" for name in required} <= named
    assert sorted(named - set(SCRIPTS)) == []


def test_subjects_compares_small_models(run: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = ["--slots", "2", "--steps", "1", "--repeats", "1", "--dtype", "float32"]
    run(
        "benchmarks.training.subjects",
        "--small",
        "--models",
        "sdxl",
        "sana-1.6b",
        *sizes,
        "--json",
        str(report),
    )
    rows = json.loads(report.read_text())["rows"]
    contenders = [(row["model"], row["contender"], row["slots"]) for row in rows]
    assert contenders == [
        ("sdxl", "plain", 1),
        ("sdxl", "one slot", 1),
        ("sdxl", "packed", 2),
        ("sana-1.6b", "one slot", 1),
        ("sana-1.6b", "packed", 2),
    ]
    assert rows[0]["faster"] == 1
    assert all(row["faster"] is None for row in rows[3:])
    assert all(0 < row["share"] < 1 for row in rows)


def test_images_compares_small_models(run: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = ["--batches", "1", "3", "--tokens", "4", "--steps", "2", "--repeats", "1"]
    sizes += ["--dtype", "float32", "--json", str(report)]
    run("benchmarks.generation.images", "--small", "--models", "sdxl", "sana-1.6b", *sizes)
    rows = json.loads(report.read_text())["rows"]
    assert [row["batch"] for row in rows] == [1, 3, 1, 3]
    assert list(rows[0]["images per second"]) == ["plain", "1 token", "4 tokens"]
    assert list(rows[-1]["images per second"]) == ["1 token", "4 tokens"]


def test_generation_measures_all_of_its_parts(run: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = [
        "--batch-size",
        "2",
        "--tokens",
        "4",
        "--steps",
        "2",
        "--images",
        "4",
        "--batches",
        "1",
    ]
    sizes += ["--loads", "0.8", "--rounds", "1", "--dtype", "float32", "--json", str(report)]
    models = ["--small", "--models", "sd15", "--side", "64"]
    run(
        "benchmarks.generation.continuous_batching", "joining", "overload", "mixes", *models, *sizes
    )
    parts = json.loads(report.read_text())["sd15"]
    policies = parts["joining"]["loads"]["0.8"]
    assert policies.keys() == {"continuous", "static"}
    assert all(figure > 0 for each in policies.values() for figure in each.values())
    overload = parts["overload"]["three times"]
    assert overload["generated"] + overload["refused"] == 12
    assert overload["failed"] == 0
    mixes = ["one token", "many tokens, warm", "many tokens, cold", "same token only"]
    assert list(parts["mixes"]) == [*mixes, "diffusers, a token at a time"]


def test_generation_neighbours_compares_numbers_and_dtypes(run: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = ["--images", "2", "3", "--seeds", "1", "--steps", "2", "--json", str(report)]
    run("benchmarks.generation.neighbours", *sizes)
    figures = json.loads(report.read_text())["miniature"]
    assert list(figures) == ["float32", "bfloat16"]
    for rows in figures.values():
        assert [row["images"] for row in rows] == [2, 3]
        assert all(row["same"] and 0 <= row["mean"] <= row["max"] for row in rows)


def served(run: Any, report: Path, *options: str) -> dict[str, Any]:
    sizes = ["--batch-size", "2", "--steps", "1", "--images", "4", "--rounds", "1"]
    run(
        "benchmarks.generation.continuous_batching",
        "service",
        *sizes,
        *options,
        "--json",
        str(report),
    )
    return json.loads(report.read_text())["service"]["ways"]


def test_generation_is_measured_through_the_service(run: Any, tmp_path: Path) -> None:
    ((way, figures),) = served(run, tmp_path / "report.json").items()
    assert way == "API and engine"
    assert list(figures["CPU ms a request"]) == ["API", "engine, beyond generating"]
    assert figures["CPU ms a request"]["API"] > 0
    assert figures["images a second / the scheduler"] > 0


@pytest.mark.ray
def test_generation_is_measured_through_ray(run: Any, tmp_path: Path) -> None:
    _, figures = served(run, tmp_path / "report.json", "--through-ray").values()
    spent = figures["CPU ms a request"]
    assert list(spent) == ["API", "Serve's proxy", "engine, beyond generating"]
    assert spent["API"] > 0
    assert spent["Serve's proxy"] > 0


def test_ledger_finds_every_item_and_counts_requests(run: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = ["--items", "40", "--workers", "2", "--slots", "2", "--rival-claims", "5"]
    run("benchmarks.storage.ledger", str(tmp_path / "store"), *sizes, "--json", str(report))
    figures = json.loads(report.read_text())
    assert figures["submit"]["found"] == 40
    assert figures["work"]["requests a subject"] < 8
    assert figures["counts"]["at the end"]["requests"] == 3
    assert figures["counts"]["reading all results"]["requests"] > 40


def test_token_cache_compares_sizes_and_reads(run: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = ["--entries", "30", "5", "--requests", "50", "--repeats", "2"]
    run("benchmarks.generation.token_cache", *sizes, "--json", str(report))
    figures = json.loads(report.read_text())
    assert [each["entries"] for each in figures["hits"]] == [5, 30]
    assert all(0 < each["p50"] <= each["p99"] for each in figures["hits"])
    seconds = figures["seconds"]
    assert 0 < seconds["bare read"] < seconds["reading a token"]
    assert 0 < seconds["bare head"] < seconds["revalidating a token"]


def test_service_trains_all_subjects_and_reports_where_time_is_lost(
    run: Any, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    sizes = ["--subjects", "3", "--slots", "2", "--steps", "2", "--repeats", "1"]
    run("benchmarks.service", "throughput", *sizes, "--checkpoint", "0.01", "--json", str(report))
    figures = json.loads(report.read_text())["throughput"]
    (courses,) = figures["rounds"]
    assert list(courses) == ["the engine", "a worker"]
    assert all(each["slots_used"] == 6 and each["seconds"] > 0 for each in courses.values())
    assert figures["requests a subject"] > figures["checkpoints a subject"] > 0
    lost = courses["a worker"]["seconds"] - courses["the engine"]["seconds"]
    assert sum(figures["seconds lost"].values()) == pytest.approx(lost)


def test_service_does_not_delay_a_small_job(run: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = ["--small", "1", "--slots", "2", "--steps", "8", "--repeats", "1"]
    run("benchmarks.service", "fairness", *sizes, "--json", str(report))
    figures = json.loads(report.read_text())["fairness"]
    assert figures["subjects"] == {"small": 1, "large": 10}
    (seconds,) = figures["rounds"]
    assert figures["times as long"]["median"] == seconds["beside"] / seconds["alone"] > 0


def test_service_creates_large_jobs_on_each_store(run: Any, tmp_path: Path) -> None:
    report, other = tmp_path / "report.json", str(tmp_path / "other")
    sizes = ["--jobs", "2", "--job-subjects", "3", "--store", other, "--json", str(report)]
    run("benchmarks.service", "submission", *sizes)
    stores = json.loads(report.read_text())["submission"]["stores"]
    assert list(stores) == ["a folder", other]
    assert all(0 < each["p50"] <= each["p99"] <= each["max"] for each in stores.values())
    assert all(each["a job a subject, seconds"] > 0 for each in stores.values())


def test_service_measures_the_parts_of_a_workers_start(run: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    run("benchmarks.service", "start", "--starts", "1", "--json", str(report))
    ((start,),) = json.loads(report.read_text())["start"]["ways"].values()
    assert list(start)[:2] == ["process and imports", "model"]
    assert len(start) == 5
    assert all(seconds > 0 for seconds in start.values())


@pytest.mark.ray
def test_service_is_measured_as_a_whole(run: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = ["--subjects", "2", "--slots", "2", "--steps", "2", "--repeats", "1", "--starts", "1"]
    ways = ["--through-http", "--through-ray", "--json", str(report)]
    run("benchmarks.service", "throughput", "start", *sizes, *ways)
    figures = json.loads(report.read_text())
    assert figures["throughput"]["subjects an hour"]["`dti serve`"] > 0
    _, (start,) = figures["start"]["ways"].values()
    assert len(start) == 4
    assert all(seconds > 0 for seconds in start.values())


def test_attacks_measures_others_and_memory_while_each_goes_on(run: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = ["--repeats", "1", "--seconds", "1", "--requests", "1", "--settle", "0.5"]
    run("benchmarks.service.attacks", *sizes, "--json", str(report))
    attacks = json.loads(report.read_text())["attacks"]
    assert len(attacks) == 10
    for name, figures in attacks.items():
        assert figures["healthz"]["n"] > 5, name
        assert figures["answers to the attacker"] or name == "stalled readers", name
        assert list(figures["first requests"]) == ["upload", "list", "submit", "generate"]
        assert figures["peak MB"] > 0, name
