"""The images: what is in them, how they run, and what a change of source rebuilds."""

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import pytest
from containers.podman import RAY_FOLDERS, READ_ONLY, Image, answers, build, podman, wait_for
from moto_server import start_moto

pytestmark = [pytest.mark.slow, pytest.mark.container]

READINESS_PROBE = (
    "wget --tries 1 -T 4 -q -O- http://localhost:52365/api/local_raylet_healthz | grep success"
)
"""KubeRay's own probe of a Ray container, without the part for Ray Serve's proxy."""


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """An S3 server on this host with a bucket, as variables of a container."""
    server = start_moto()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    credentials = {"AWS_ACCESS_KEY_ID": "moto", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="moto",
        aws_secret_access_key="not-a-secret",
    ).create_bucket(Bucket="images")
    yield credentials | {
        "AWS_DEFAULT_REGION": "us-east-1",
        "DTI_S3_ENDPOINT": endpoint,
        "DTI_STORE": "s3://images/test",
    }
    server.stop()


@pytest.mark.parametrize("package", ["torch", "ray", "numpy", "transformers", "scipy"])
def test_the_api_image_has_no_package_of_the_engine(api_image: Image, package: str) -> None:
    found = api_image.run(
        "python", "-c", f"from importlib.util import find_spec; print(find_spec({package!r}))"
    )
    assert found.strip() == "None"
    assert not api_image.run("find", "/opt", "/usr", "-type", "d", "-name", package).strip()


def test_the_api_image_is_at_most_120_mb_over_its_base(api_image: Image) -> None:
    assert api_image.megabytes_over_base <= 120


def test_the_ray_image_with_torch_for_cpus_is_at_most_2500_mb_over_its_base(
    ray_image: Image,
) -> None:
    version = ray_image.run("python", "-c", "import torch; print(torch.__version__)")
    if "+cpu" not in version:
        pytest.skip(f"torch {version.strip()} is not the build for CPUs")
    assert ray_image.megabytes_over_base <= 2500


def test_the_api_serves_with_nothing_writable_and_makes_keys_on_s3(
    api_image: Image, s3: dict[str, str], port: int
) -> None:
    variables = tuple(f"--env={name}={value}" for name, value in s3.items())
    options = (*READ_ONLY, "--network=host", *variables)
    arguments = ("--host", "127.0.0.1", "--port", str(port))
    with api_image.running("python", "-m", "services.api", *arguments, options=options) as api:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(f"{url}/healthz"), lambda: api.log)
        assert answers(f"{url}/readyz")
        key = api.execute("dti", "keys", "create", "acme").split()[-1]
        models = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})
        assert models.json()["data"][0]["id"] == "miniature"
        assert httpx.get(f"{url}/v1/models").status_code == 401
        for folder in ("/", "/tmp", "/opt/dti"):
            assert not api.succeeds("touch", f"{folder}/file")


def test_the_default_command_of_the_api_image_listens_on_all_addresses(api_image: Image) -> None:
    config = api_image.record["Config"]
    assert config["Cmd"] == ["python", "-m", "services.api", "--host", "0.0.0.0"]
    assert not config.get("Entrypoint")


@pytest.mark.parametrize("target", ["api_image", "ray_image"])
def test_no_image_runs_as_root_and_each_names_its_version(
    target: str, request: pytest.FixtureRequest
) -> None:
    image: Image = request.getfixturevalue(target)
    config = image.record
    assert config["Config"]["User"] == "10001:10001"
    assert config["Config"]["WorkingDir"] == "/opt/dti"
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == target.replace("_image", "").join(
        ["dti-", ""]
    )
    assert labels["org.opencontainers.image.version"] == "1.2.3"
    assert labels["org.opencontainers.image.revision"] == "abc"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert image.run("id", "-u", options=()).strip() == "10001"
    assert image.run("sh", "-c", "echo $HOME; dti --version").split()[:2] == ["/tmp", "dti"]


@pytest.mark.parametrize("target", ["api_image", "ray_image"])
def test_an_image_has_the_packages_and_no_other_file_of_the_checkout(
    target: str, request: pytest.FixtureRequest
) -> None:
    image: Image = request.getfixturevalue(target)
    names = ("test_house.py", "mkdocs.yml", ".git", "Dockerfile", "CONTRIBUTING.md", "CHANGELOG.md")
    tests = [word for name in names for word in ("-o", "-name", name)][1:]
    found = image.run("find", "/", "-xdev", "(", *tests, ")", options=("--user=0",))
    ours = [path for path in found.split() if "/site-packages/" not in path]
    assert ours == []
    assert "services" in image.run("ls", "/opt/dti/lib/python3.11/site-packages")


@pytest.mark.parametrize("target", ["api_image", "ray_image"])
def test_modules_of_an_image_are_compiled(target: str, request: pytest.FixtureRequest) -> None:
    image: Image = request.getfixturevalue(target)
    code = (
        "import services.api.app, importlib.util as u, os, sys;"
        "ours = [m.__file__ for n, m in sys.modules.items() if n.startswith('services')];"
        "print([f for f in ours if f and not os.path.exists(u.cache_from_source(f))])"
    )
    assert image.run("python", "-c", code).strip() == "[]"


def test_the_ray_image_imports_what_the_cluster_runs(ray_image: Image) -> None:
    modules = (
        "torch, ray.serve, ray.train, diffusers, transformers, sentencepiece, scipy, "
        "services.inference.ray_serve, services.training.worker, services.supervisor.supervisor, "
        "services.api.app, services.dispatch.dispatcher"
    )
    options = (*READ_ONLY, *RAY_FOLDERS)
    ray_image.run("python", "-c", f"import {modules}", options=options)


def test_the_ray_image_compiles_an_extension_in_c(ray_image: Image) -> None:
    command = (
        "echo '#include <Python.h>' > /tmp/a.c && "
        "gcc -shared -fPIC "
        "-I$(python -c 'import sysconfig; print(sysconfig.get_path(\"include\"))') "
        "-o /tmp/a.so /tmp/a.c && ls /tmp/a.so"
    )
    options = (*READ_ONLY, *RAY_FOLDERS)
    assert ray_image.run("bash", "-c", command, options=options).strip() == "/tmp/a.so"


def test_a_ray_head_becomes_healthy_with_a_read_only_root(ray_image: Image) -> None:
    options = (*READ_ONLY, *RAY_FOLDERS, "--network=none")
    start = (
        "ulimit -n 65536; ray start --head --block --dashboard-agent-listen-port=52365 "
        "--metrics-export-port=8080 --num-cpus=1 --object-store-memory=100000000"
    )
    with ray_image.running("/bin/bash", "-c", "--", start, options=options) as head:
        wait_for(lambda: head.succeeds("bash", "-c", READINESS_PROBE), lambda: head.log)
        assert "python" in head.execute("cat", "/proc/1/cmdline")


def test_the_nvidia_variables_are_set(ray_image: Image) -> None:
    environment = ray_image.record["Config"]["Env"]
    assert "NVIDIA_VISIBLE_DEVICES=all" in environment
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in environment


@pytest.mark.parametrize("target", ["api", "ray"])
def test_a_change_of_source_rebuilds_the_last_layer_alone(target: str, context: Path) -> None:
    before = build(target, context).layers
    module = context / "services" / "errors.py"
    module.write_text(module.read_text() + "\n# changed\n")
    after = build(target, context).layers
    assert len(after) == len(before)
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]


def test_a_change_of_tools_settings_rebuilds_no_dependencies(context: Path) -> None:
    before = build("api", context).layers
    project = context / "pyproject.toml"
    project.write_text(project.read_text().replace("line-length = 100", "line-length = 99"))
    assert build("api", context).layers[:-1] == before[:-1]


def test_no_layer_has_settings_or_secrets_of_the_build(api_image: Image) -> None:
    found = api_image.run("sh", "-c", "cat /etc/pip.conf /root/.netrc 2>/dev/null; env", options=())
    assert "index" not in found
    assert "TOKEN" not in found
    history = json.loads(podman("history", "--format=json", "--no-trunc", api_image.id))
    assert not any("token" in str(each).lower() for each in history)
