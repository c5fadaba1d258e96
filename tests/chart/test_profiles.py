"""Every example of values renders to objects that an API server accepts."""

import subprocess
from pathlib import Path

import pytest
from chart.rendering import CHART, ROOT, TOOLS, Chart, containers, environment

DEPLOY = ROOT / "deploy/values"
FILES = sorted([*CHART.glob("ci/*-values.yaml"), *DEPLOY.glob("*.yaml")])
# Spot pools stand beside other pools.
BASES = {"spot": (DEPLOY / "pools-eks.yaml",)}
PROFILES = [(*BASES.get(file.stem, ()), file) for file in FILES]
Profile = tuple[Path, ...]
MINORS = ("1.31", "1.33", "1.35")

profiles = pytest.mark.parametrize("profile", PROFILES, ids=lambda files: files[-1].stem)


@pytest.mark.parametrize("minor", MINORS)
def test_an_api_server_accepts_every_object_of_every_profile(
    chart: Chart, minor: str, tmp_path: Path
) -> None:
    files: list[str] = []
    for profile in PROFILES:
        name = profile[-1].stem
        file = tmp_path / f"{name}.yaml"
        file.write_text(chart.render(None, *profile, release=name[:20]).text)
        files.append(str(file))
    done = subprocess.run(
        [TOOLS / "kube-validate", "--fail-on-skip", "--kube-version", minor, *files],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert " 0 invalid, 0 skipped" in done.stdout


@profiles
def test_both_helms_render_the_same(chart: Chart, profile: Profile) -> None:
    new = chart.render(None, *profile)
    old = chart.render(None, *profile, helm="helm3")
    for rendered in (new, old):
        for each in rendered.objects:
            if each["kind"] == "Secret":
                each["data"] = dict.fromkeys(each["data"], "random")
    assert new.objects == old.objects


@pytest.mark.parametrize("helm", ["helm", "helm3"])
@profiles
def test_lint_finds_nothing(helm_folder: Path, helm: str, profile: Profile) -> None:
    done = subprocess.run(
        [helm_folder / helm, "lint", "--strict", CHART, *(f"--values={file}" for file in profile)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@profiles
def test_no_pod_runs_as_root_or_may_write_to_its_image(chart: Chart, profile: Profile) -> None:
    for name, pod in chart.render(None, *profile).pods().items():
        rights = pod["spec"]["securityContext"]
        assert rights["runAsNonRoot"] is True, name
        assert rights["runAsUser"] > 0, name
        assert rights["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, (name, container["name"])


@profiles
def test_volumes_are_those_that_pod_security_restricted_allows(
    chart: Chart, profile: Profile
) -> None:
    for name, pod in chart.render(None, *profile).pods().items():
        for volume in pod["spec"].get("volumes", []):
            (kind,) = set(volume) - {"name"}
            # A folder of the nodes is what that profile is for, and its value says the price.
            if kind != "hostPath" or "nodePath" not in profile[-1].read_text():
                assert kind in ("configMap", "emptyDir", "persistentVolumeClaim"), name


@profiles
def test_only_heads_that_scale_get_a_service_account_token(chart: Chart, profile: Profile) -> None:
    rendered = chart.render(None, *profile)
    scaling = {
        f"{component} head"
        for component, spec in rendered.clusters().items()
        if spec.get("enableInTreeAutoscaling")
    }
    with_token = {
        name
        for name, pod in rendered.pods().items()
        if pod["spec"]["automountServiceAccountToken"] is not False
    }
    assert with_token == scaling


@profiles
def test_no_pod_gets_variables_of_services(chart: Chart, profile: Profile) -> None:
    for name, pod in chart.render(None, *profile).pods().items():
        assert pod["spec"]["enableServiceLinks"] is False, name


@profiles
def test_every_container_says_what_memory_it_needs(chart: Chart, profile: Profile) -> None:
    for name, pod in chart.render(None, *profile).pods().items():
        for container in containers(pod):
            assert "memory" in container["resources"]["limits"], (name, container["name"])


@profiles
def test_secrets_reach_containers_by_reference_alone(chart: Chart, profile: Profile) -> None:
    for name, pod in chart.render(None, *profile).pods().items():
        for container in containers(pod):
            for variable, value in environment(container).items():
                secret = variable.endswith(("_SECRET", "_TOKEN", "_KEY", "_KEY_ID", "_PASSWORD"))
                assert not secret or "secretKeyRef" in value, (name, variable)


@profiles
def test_every_secret_that_pods_read_is_rendered_or_brought(chart: Chart, profile: Profile) -> None:
    rendered = chart.render(None, *profile)
    made = {each["metadata"]["name"] for each in rendered.objects if each["kind"] == "Secret"}
    brought = "".join(file.read_text() for file in profile)
    for pod in rendered.pods().values():
        for container in containers(pod):
            for value in environment(container).values():
                if isinstance(value, dict) and "secretKeyRef" in value:
                    name = value["secretKeyRef"]["name"]
                    assert name in made or name in brought


@profiles
def test_every_pod_ends_later_than_its_drain(chart: Chart, profile: Profile) -> None:
    rendered = chart.render(None, *profile)
    for name, pod in rendered.pods().items():
        for container in containers(pod):
            drain = environment(container).get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")
            if drain:
                assert pod["spec"]["terminationGracePeriodSeconds"] >= int(drain) + 5, name


@profiles
def test_shared_memory_is_bounded(chart: Chart, profile: Profile) -> None:
    for spec in chart.render(None, *profile).clusters().values():
        for group in (spec["headGroupSpec"], *spec.get("workerGroupSpecs", [])):
            pod = group["template"]["spec"]
            (volume,) = (
                mount["name"]
                for mount in pod["containers"][0]["volumeMounts"]
                if mount["mountPath"] == "/dev/shm"
            )
            volumes = {each["name"]: each for each in pod["volumes"]}
            assert volumes[volume]["emptyDir"]["sizeLimit"]


def test_all_pods_of_one_gpu_run_where_its_claim_can_be_mounted(chart: Chart) -> None:
    rendered = chart.render(None, DEPLOY / "one-gpu.yaml")
    (claim,) = [each for each in rendered.objects if each["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    places = [
        (pod["spec"]["nodeSelector"], pod["spec"]["tolerations"])
        for pod in rendered.pods().values()
    ]
    assert all(place == places[0] for place in places)
