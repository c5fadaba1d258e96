"""deploy/kind.sh gives its tools what they accept: Helm renders the chart, and manifests are valid.

The script's tools are stand-ins that note their arguments, because a kind cluster needs registries.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from chart.rendering import ROOT, TOOLS

SCRIPT = ROOT / "deploy/kind.sh"
TOOL = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case "$(basename "$0") $*" in
  "kubectl "*"--filename -") cat >/dev/null ;;
  "kubectl "*"create namespace"*) echo "kind: Namespace" ;;
  "kind get clusters") echo "$CLUSTERS" ;;
  "docker image inspect"*) echo "sha256:1" ;;
esac
"""


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def environment(tmp_path: Path, calls: Path) -> dict[str, str]:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("docker", "kind", "kubectl", "helm"):
        (folder / name).write_text(TOOL)
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin", "CALLS": str(calls), "CLUSTERS": "other"}


def _run(
    environment: dict[str, str], *arguments: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


def _calls(calls: Path, tool: str) -> list[str]:
    return [line for line in calls.read_text().splitlines() if line.startswith(f"{tool} ")]


def test_its_help_says_what_it_does_and_needs(environment: dict[str, str]) -> None:
    for flag in ("-h", "--help"):
        text = _run(environment, flag).stdout
        assert "kind.sh up" in text
        assert "KUBERAY_VERSION" in text


def test_without_a_command_it_prints_its_help_and_fails(environment: dict[str, str]) -> None:
    done = _run(environment, check=False)
    assert done.returncode == 2
    assert "kind.sh up" in done.stderr


def test_a_missing_tool_is_named_before_anything_is_done(
    environment: dict[str, str], calls: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin/helm").unlink()
    done = _run(environment, "up", check=False)
    assert done.returncode == 2
    assert "helm is not installed" in done.stderr
    assert not calls.exists()


def test_up_makes_a_cluster_only_if_there_is_none(environment: dict[str, str], calls: Path) -> None:
    _run(environment, "up")
    assert any(call.startswith("kind create cluster --name dti") for call in _calls(calls, "kind"))
    calls.unlink()
    _run(environment | {"CLUSTERS": "dti"}, "up")
    assert not any("create" in call for call in _calls(calls, "kind"))


def test_no_other_cluster_is_touched(environment: dict[str, str], calls: Path) -> None:
    for command in ("up", "test", "down"):
        _run(environment | {"CLUSTER": "mine"}, command)
    for call in _calls(calls, "kubectl") + _calls(calls, "helm"):
        local = "create namespace" in call and "--dry-run=client" in call
        assert "context kind-mine" in call or local, call
    for call in _calls(calls, "kind"):
        assert "--name mine" in call or call == "kind get clusters"


def test_the_image_targets_exist(environment: dict[str, str], calls: Path) -> None:
    dockerfile = ROOT / "Dockerfile"
    if not dockerfile.exists():
        pytest.skip("there is no Dockerfile yet")
    _run(environment, "up")
    text = dockerfile.read_text()
    for call in _calls(calls, "docker"):
        words = call.split()
        if "build" in words:
            assert f" AS {words[words.index('--target') + 1]}\n" in text
            if "--build-arg" in words:
                name = words[words.index("--build-arg") + 1].split("=")[0]
                assert f"ARG {name}" in text


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_helm_renders_the_chart_with_the_options_of_the_script(
    environment: dict[str, str], calls: Path, helm_folder: Path, helm: str
) -> None:
    _run(environment, "up", "--set", "api.replicas=2")
    (call,) = [each for each in _calls(calls, "helm") if " helm/dti " in each]
    options = call.split(" upgrade --install ")[1].split()
    command = [helm_folder / helm, "template", *options, "--api-versions=ray.io/v1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    names = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in objects}
    waited = {
        word
        for each in _calls(calls, "kubectl")
        for word in each.split()
        if word.startswith(("deployment/dti", "rayservice/"))
    }
    assert waited <= names
    images = {
        container["image"]
        for each in objects
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    assert images == {"localhost/dti-api:dev"}


def test_a_strict_api_server_accepts_the_s3_server() -> None:
    if not (TOOLS / "kube-validate").exists():
        pytest.skip("the tools that validate manifests are not beside this checkout")
    command = [TOOLS / "kube-validate", ROOT / "deploy/kind-s3.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.defpath}")
    if not shellcheck:
        pytest.skip("shellcheck is not installed: run `make setup-dev`")
    done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
