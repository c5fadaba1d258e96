import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from chart.rendering import CHART, Chart

from helm.values.chart import Values
from helm.values.documents import files, rows


@pytest.mark.parametrize("name", ["values.yaml", "values.schema.json", "README.md"])
def test_generated_files_are_not_stale(name: str) -> None:
    assert (CHART / name).read_text() == files()[name], "run `make chart`"


def test_the_defaults_that_templates_compute_with_are_not_stale() -> None:
    name = "files/defaults.json"
    assert (CHART / name).read_text() == files()[name], "run `make chart`"


def _described(schema: dict[str, Any], node: dict[str, Any]) -> bool:
    if "description" in node:
        return True
    reference = node.get("$ref") or next(
        (each["$ref"] for each in node.get("allOf", []) if "$ref" in each), None
    )
    return reference is not None and _described(
        schema, schema["$defs"][reference.rsplit("/", 1)[1]]
    )


def test_every_value_is_documented() -> None:
    schema = json.loads(files()["values.schema.json"])
    nodes = {"Values": schema} | schema["$defs"]
    missing = [
        f"{name}.{key}"
        for name, node in nodes.items()
        for key, value in node.get("properties", {}).items()
        if not _described(schema, value)
    ]
    assert missing == []


def _commented(node: yaml.MappingNode, lines: list[str]) -> Iterator[tuple[str, bool]]:
    """Every key that is documented where it stands, and whether a comment is above it."""
    for key, value in node.value:
        line = key.start_mark.line
        yield key.value, lines[line - 1].lstrip().startswith("#")
        below = lines[line + 1].lstrip() if line + 1 < len(lines) else ""
        if isinstance(value, yaml.MappingNode) and below.startswith("#"):
            yield from _commented(value, lines)


def test_every_key_of_the_values_file_has_a_comment() -> None:
    text = (CHART / "values.yaml").read_text()
    found = list(_commented(yaml.compose(text), text.splitlines()))
    assert len(found) > 100
    assert [key for key, commented in found if not commented] == []


def test_every_value_stands_in_a_template() -> None:
    templates = "".join(
        path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file()
    )
    # Settings and the timing are passed on whole, and `global` is a parent chart's.
    whole = ("models.NAME.", "ledger.", "global")
    unused = [
        path
        for path, _, _ in rows(Values, given=Values())
        if ".settings." not in path
        and not path.startswith(whole)
        and not path.endswith("*")
        and not re.search(rf"[.\" ]{re.escape(path.rsplit('.', 1)[-1])}\b", templates)
    ]
    assert unused == []


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_the_store_alone_is_enough_to_install(chart: Chart, helm: str) -> None:
    names = chart.render(helm=helm).names()
    assert {
        "Deployment t-dti-api",
        "Service t-dti-api",
        "Deployment t-dti-dispatcher",
        "RayService t-dti-inference",
        "RayCluster t-dti-training",
        "ConfigMap t-dti-models",
        "Secret t-dti-engine",
        "Secret t-dti-ray",
    } <= names
