"""The operators' manual has every metric of the table, and no other."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from services.metrics import MAX_SERIES, TABLE, FirstValues, Metric

MANUAL = (Path(__file__).parents[2] / "docs/how-to/operations.md").read_text()
_LISTED = 8
"""Values of a label that are listed; of more, how many there are."""


def _labels(metric: Metric) -> str:
    labels: list[str] = []
    for group in metric.label_groups:
        names = ", ".join(f"`{name}`" for name in group.labels)
        if isinstance(group, FirstValues):
            labels.append(f"{names}: the first {group.max_values}")
        elif len(group.values) > _LISTED:
            labels.append(f"{names}: {len(group.values)}")
        else:
            labels.append(f"{names}: {', '.join(' '.join(values) for values in group.values)}")
    return "; ".join(labels)


def _row(metric: Metric) -> str:
    processes = ", ".join(metric.processes)
    cells = (f"`{metric.name}`", metric.kind, _labels(metric), processes, metric.help)
    return f"| {' | '.join(cells)} |"


def _section(title: str) -> str:
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", MANUAL, re.M | re.S)
    return text


def _rows(text: str) -> list[str]:
    """Return the cells of each row of the only table in a text, without its header."""
    return [line for line in text.splitlines() if line.startswith("|")][2:]


def test_the_manual_has_the_table_of_metrics() -> None:
    expected = [_row(metric) for metric in TABLE]
    assert _rows(_section("Metrics")) == expected, "the table should be:\n" + "\n".join(expected)


def test_for_every_metric_it_says_what_to_do() -> None:
    rows = [re.split(r" *(?<!\\)\| *", row)[1:-1] for row in _rows(_section("What to do"))]
    assert all(len(cells) == 3 and all(cells) for cells in rows), rows
    labels = [name for cells in rows for name in re.findall(r"`(dti_\w+)`", cells[0])]
    assert sorted(labels) == sorted(metric.name for metric in TABLE)


def test_every_metric_is_counted_somewhere() -> None:
    services = Path(__file__).parents[2] / "services"
    code = "".join(
        path.read_text()
        for path in services.rglob("*.py")
        if "metrics" not in path.relative_to(services).parts
    )
    assert [metric.name for metric in TABLE if f'"{metric.name}"' not in code] == []


def test_it_names_no_metric_that_there_is_not() -> None:
    known = {metric.name for metric in TABLE}
    for metric in TABLE:
        if metric.kind == "histogram":
            known |= {f"{metric.name}_{suffix}" for suffix in ("bucket", "sum", "count")}
    assert set(re.findall(r"\bdti_[a-z]\w+", MANUAL)) <= known


def test_it_gives_the_bound_that_holds() -> None:
    assert f"at most {MAX_SERIES} series" in MANUAL


def test_its_expressions_are_ones(tmp_path: Path) -> None:
    promtool = os.environ.get("DTI_TEST_PROMTOOL") or shutil.which("promtool")
    if not promtool:
        pytest.skip("DTI_TEST_PROMTOOL is not set, and there is no promtool on the PATH")
    blocks = re.findall(r"```promql\n(.*?)```", MANUAL, re.S)
    lines = [line for block in blocks for line in block.splitlines() if not line.startswith("#")]
    assert len(lines) > 5
    rules = [{"record": f"dti:{n}", "expr": expr} for n, expr in enumerate(filter(None, lines))]
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"groups": [{"name": "manual", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
