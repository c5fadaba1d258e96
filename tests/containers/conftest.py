import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from chart.rendering import Chart
from containers.kubelet import Node
from containers.podman import ROOT, TOOLS, Image, build
from containers.release import image_values
from moto_server import start_moto

from services.local.service import free_port


@pytest.fixture(scope="session")
def _tools() -> None:
    if not (TOOLS / "podman-build").exists():
        pytest.skip("the tools that build images are not beside this checkout")


@pytest.fixture(scope="session")
def api_image(_tools: None) -> Image:
    return build("api")


@pytest.fixture(scope="session")
def ray_image(_tools: None) -> Image:
    return build("ray")


@pytest.fixture(scope="session")
def chart(_tools: None) -> Chart:
    done = subprocess.run([TOOLS / "install-helm"], capture_output=True, text=True, check=True)
    return Chart(Path(done.stdout.split()[-1]))


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def context(tmp_path: Path, _tools: None) -> Path:
    """A copy of what the images are built from."""
    folder = tmp_path / "context"
    for name in ("dti_engine", "services", "deploy/image"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    files = ("Dockerfile", ".dockerignore", "pyproject.toml", "constraints.txt")
    for name in (*files, "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, api_image: Image, ray_image: Image
) -> Iterator[Node]:
    images = {api_image.name: api_image.id, ray_image.name: ray_image.id}
    with Node(tmp_path_factory.mktemp("node"), images) as node:
        yield node


@pytest.fixture(scope="module")
def values(node: Node, api_image: Image, ray_image: Image) -> Iterator[dict[str, object]]:
    """Values of the chart: the images, and an S3 server on the host with a bucket."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request
    server = start_moto(node.network.gateway)
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    key = {"aws_access_key_id": "moto", "aws_secret_access_key": "not-a-secret"}
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **key)
    client.create_bucket(Bucket="dti")
    node.secrets["dti-store"] = {name.upper(): value for name, value in key.items()}
    images = {"api": api_image.name, "ray": ray_image.name}
    settings = {"endpoint": endpoint, "addressing_style": "path", "region": "us-east-1"}
    yield {"s3": {"settings": settings}, "image": image_values(images)}
    server.stop()
