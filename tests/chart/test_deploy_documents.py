"""What the pages on deployment name exists: values, metrics, files and the options of Helm."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from chart.rendering import CHART, ROOT

from services.metrics import TABLE

PAGES = {name: (ROOT / f"docs/how-to/{name}.md").read_text() for name in ("deploy", "runbook")}
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest) -> str:
    return PAGES[request.param]


def _has(path: list[str], node: object) -> bool:
    """Whether the schema of the values has a path; `*` and maps of free keys match anything."""
    assert isinstance(node, dict)
    if "$ref" in node:
        return _has(path, SCHEMA["$defs"][node["$ref"].rpartition("/")[2]])
    if not path:
        return True
    inner = [*node.get("allOf", []), *node.get("anyOf", [])]
    if path[0] == "*":
        return bool(node.get("properties"))
    if path[0] in node.get("properties", {}):
        return _has(path[1:], node["properties"][path[0]])
    free = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
    return any(isinstance(each, dict) and _has(path[1:], each) for each in [*free, *inner])


def test_values_that_are_named_exist(page: str) -> None:
    paths = {
        path
        for code in re.findall(r"`([^`\n]+)`", page)
        for path in re.findall(r"^([a-zA-Z3]+(?:\.[\w*]+)+)(?:$|:)", code)
        if path.split(".")[0] in VALUES
    }
    assert len(paths) > 3
    assert [path for path in sorted(paths) if not _has(path.split("."), SCHEMA)] == []


def test_a_wrong_path_is_noticed() -> None:
    assert _has(["monitoring", "rules", "enabled"], SCHEMA)
    assert not _has(["monitoring", "rules", "enable"], SCHEMA)
    assert not _has(["models", "sdxl", "max_worker"], SCHEMA)


def test_metrics_that_are_named_exist(page: str) -> None:
    known = {metric.name for metric in TABLE}
    for metric in TABLE:
        if metric.kind == "histogram":
            known |= {f"{metric.name}_{suffix}" for suffix in ("bucket", "sum", "count")}
    assert set(re.findall(r"\bdti_[a-z]\w+", page)) - {"dti_engine"} <= known


def test_expressions_are_ones(page: str, tmp_path: Path) -> None:
    promtool = os.environ.get("DTI_TEST_PROMTOOL") or shutil.which("promtool")
    if not promtool:
        pytest.skip("DTI_TEST_PROMTOOL is not set, and there is no promtool on the PATH")
    found = re.findall(r"```promql\n(.*?)```", page, re.S)
    rules = [{"record": f"dti:{n}", "expr": expr} for n, expr in enumerate(found)]
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"groups": [{"name": "page", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_that_are_named_exist(page: str) -> None:
    named = re.findall(r"\b((?:deploy|helm|tests|benchmarks)/[\w./-]*\w)", page)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_helm_accepts_the_commands_of_the_page(helm_folder: Path, helm: str) -> None:
    (options,) = re.findall(r"^    helm install (dti .*)$", PAGES["deploy"], re.M)
    command = [helm_folder / helm, "template", *options.split(), "--api-versions=ray.io/v1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("install", "test", "upgrade", "rollback"):
        help_text = subprocess.run(
            [helm_folder / helm, command, "--help"], capture_output=True, text=True
        ).stdout
        for line in re.findall(rf"^    helm {command} (.*)$", PAGES["deploy"], re.M):
            for flag in re.findall(r"(?<= )--[a-z-]+", line):
                assert f"{flag} " in help_text or f"{flag}=" in help_text, (command, flag)


def test_ten_commands_lead_to_an_image() -> None:
    section = PAGES["deploy"].split("## From an empty cluster to a generated image\n")[1]
    (section,) = re.findall(r"\A(?:\S.*\n|\n)+((?:    .*\n)+)", section)
    commands = section.splitlines()
    assert len(commands) == 10
    assert commands[-1].startswith("    helm test")
