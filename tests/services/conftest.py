"""Empty stores of every kind, and a stub engine."""

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
from moto_server import start_moto
from stub_engine import StubEngine, stub_engine

from services.storage.directory import DirectoryStore
from services.storage.instrumented import InstrumentedStore
from services.storage.interface import Store
from services.storage.memory import MemoryStore
from services.storage.s3 import S3Store
from services.storage.settings import S3Settings

_MOTO_BUCKET = "moto"


class Server(NamedTuple):
    """An S3 server with a bucket."""

    endpoint: str
    bucket: str
    environment: dict[str, str]


@pytest.fixture(scope="session")
def _moto() -> Iterator[Server]:
    server = start_moto()
    host, port = server.get_host_and_port()
    credentials = {"AWS_ACCESS_KEY_ID": "moto", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    endpoint = f"http://{host}:{port}"
    boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="moto",
        aws_secret_access_key="not-a-secret",
    ).create_bucket(Bucket=_MOTO_BUCKET)
    yield Server(endpoint, _MOTO_BUCKET, credentials | {"AWS_DEFAULT_REGION": "us-east-1"})
    server.stop()


def _real() -> Server:
    endpoint = os.environ.get("DTI_TEST_S3_ENDPOINT")
    if not endpoint:
        pytest.skip("DTI_TEST_S3_ENDPOINT is not set: no real S3 server to test against")
    return Server(
        endpoint,
        os.environ["DTI_TEST_S3_BUCKET"],
        {
            "AWS_ACCESS_KEY_ID": os.environ["DTI_TEST_S3_ACCESS_KEY_ID"],
            "AWS_SECRET_ACCESS_KEY": os.environ["DTI_TEST_S3_SECRET_ACCESS_KEY"],
            "AWS_DEFAULT_REGION": os.environ["DTI_TEST_S3_REGION"],
        },
    )


@pytest.fixture(
    params=["memory", "directory", "measured", "moto", pytest.param("s3", marks=pytest.mark.s3)]
)
def kind(request: pytest.FixtureRequest) -> str:
    """Kind of the store: in memory, in a directory, measured, on two S3 servers."""
    return request.param


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Server:
    """moto, or a real S3 server if `kind` is s3; boto3 finds the credentials."""
    server: Server = _real() if kind == "s3" else request.getfixturevalue("_moto")
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def make_s3(server: Server) -> Iterator[Callable[..., S3Store]]:
    """make_s3(endpoint=..., max_attempts=...) -> a store under a prefix of this test's own."""
    prefix = f"tests/{secrets.token_hex(8)}"

    def make(bucket: str = server.bucket, **settings: object) -> S3Store:
        options = {"endpoint": server.endpoint, "addressing_style": "path"} | settings
        return S3Store(
            S3Settings.model_validate({"bucket": bucket, "prefix": f"{prefix}/", **options})
        )

    # Made now, since tests change faults and credentials; moto's objects go with its process.
    cleaner = make() if server.bucket != _MOTO_BUCKET else None
    yield make
    after = "" if cleaner else None
    with ThreadPoolExecutor(8) as pool:
        while cleaner and after is not None:
            page = cleaner.list(after=after)
            list(pool.map(cleaner.delete, (head.key for head in page.objects)))
            after = page.next


@pytest.fixture
def store(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return an empty store of each kind."""
    if kind == "memory":
        return MemoryStore()
    if kind == "directory":
        return DirectoryStore(tmp_path / "store")
    if kind == "measured":
        return InstrumentedStore(MemoryStore())
    return request.getfixturevalue("make_s3")()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """eventually(lambda: ...) waits, in real time, until it holds."""

    def wait(holds: Callable[[], object]) -> None:
        end = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.005)

    return wait


@pytest.fixture
def at_once() -> Callable[[int, Callable[[], Any]], list[Any]]:
    """at_once(100, do) -> what each of so many threads got or was told."""

    def run(count: int, do: Callable[[], Any]) -> list[Any]:
        start, got = threading.Barrier(count), list[Any]()

        def one() -> None:
            start.wait()
            try:
                got.append(do())
            except Exception as error:
                got.append(error)

        threads = [threading.Thread(target=one) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(got) == count
        return got

    return run


@pytest.fixture
def engine_at() -> Iterator[tuple[StubEngine, str]]:
    """Yield a stub engine and its address."""
    with stub_engine() as stub:
        yield stub


@pytest.fixture
def engine(engine_at: tuple[StubEngine, str]) -> StubEngine:
    """Return the stub engine that generates for the API or `service`."""
    return engine_at[0]
