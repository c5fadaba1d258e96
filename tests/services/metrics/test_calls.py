"""All metrics that the code counts are in the table.

Names are also checked when they are counted, but some are counted only when something fails.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from services.metrics import TABLE

ROOT = Path(__file__).parents[3]
_METHODS = {"count": "counter", "observe": "histogram", "set": "gauge"}
_VALUES = {"n", "value"}


def _calls(source: str) -> Iterator[ast.Call]:
    """Return calls of `count`, `observe` and `set` that name a metric."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _METHODS
            and node.args
            and isinstance(name := node.args[0], ast.Constant)
            and str(name.value).startswith("dti_")
        ):
            yield node


def _refusal(call: ast.Call) -> str | None:
    assert isinstance(call.func, ast.Attribute)
    assert isinstance(call.args[0], ast.Constant)
    name = str(call.args[0].value)
    metric = {metric.name: metric for metric in TABLE}.get(name)
    if metric is None:
        return f"{name} is not in the table"
    if metric.kind != _METHODS[call.func.attr]:
        return f"{name} is a {metric.kind}"
    labels = {keyword.arg for keyword in call.keywords} - _VALUES
    if labels != set(metric.labels):
        return f"{name} has the labels {metric.labels}, not {labels}"
    return None


def test_every_call_names_a_metric_of_the_table_with_its_labels() -> None:
    wrong: list[str] = []
    count = 0
    for path in sorted((ROOT / "services").rglob("*.py")):
        for call in _calls(path.read_text()):
            count += 1
            if refusal := _refusal(call):
                wrong.append(f"{path.relative_to(ROOT)}:{call.lineno}: {refusal}")
    assert wrong == []
    assert count > 1


def test_wrong_calls_are_found() -> None:
    source = """
metrics.current().count("dti_subject_total", outcome="failed")
metrics.current().count("dti_subjects_total", tenant="a")
metrics.current().count("dti_subjects_total", **labels)
metrics.current().set("dti_training_step_seconds", 1)
metrics.current().count("dti_subjects_total", n=2, outcome="failed")
text.count("dti")
"""
    assert [bool(_refusal(call)) for call in _calls(source)] == [True, True, True, True, False]
