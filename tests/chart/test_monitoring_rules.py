"""The alert rules of the chart: Prometheus accepts them, and each fires when it should."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm/dti/files/rules.yaml"
TESTS = Path(__file__).with_name("alerts_test.yaml")
RUNBOOK = (ROOT / "docs/how-to/runbook.md").read_text()

GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: list[dict[str, Any]] = [
    rule for group in GROUPS for rule in group["rules"] if "alert" in rule
]


@pytest.fixture
def promtool() -> str:
    found = os.environ.get("DTI_TEST_PROMTOOL") or shutil.which("promtool")
    if not found:
        pytest.skip("DTI_TEST_PROMTOOL is not set, and there is no promtool on the PATH")
    return found


@pytest.fixture(params=ALERTS, ids=lambda rule: rule["alert"])
def alert(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def test_prometheus_accepts_the_rules(promtool: str) -> None:
    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_for_the_bad_release_and_not_for_the_good_one(promtool: str) -> None:
    done = subprocess.run([promtool, "test", "rules", TESTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_alert_has_a_test_with_a_bad_and_a_good_release(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    (test,) = [
        each
        for each in yaml.safe_load(TESTS.read_text())["tests"]
        if each["name"].split()[0].rstrip(",") == name
    ]
    series = "".join(each["series"] for each in test["input_series"])
    assert 'release="bad"' in series
    assert 'release="good"' in series
    assert name in yaml.safe_dump([test.get("promql_expr_test"), test.get("alert_rule_test")])


def test_an_alert_says_how_bad_it_is_and_names_its_release(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert re.fullmatch(r"[A-Z].*\.", alert["annotations"]["summary"])
    description = alert["annotations"]["description"]
    assert "$labels.namespace" in description
    assert "$labels.release" in description


def test_an_alert_has_a_section_in_the_runbook(alert: dict[str, Any]) -> None:
    (section,) = re.findall(rf"^## {alert['alert']}\n(.*?)(?=^## |\Z)", RUNBOOK, re.M | re.S)
    assert [part for part in ("Means", "Look", "Do") if f"**{part}:**" not in section] == []


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.M) == [alert["alert"] for alert in ALERTS]
