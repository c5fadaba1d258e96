"""The real API over a store in a folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hosted import Hosted, hosted

from services.client.client import Client
from services.storage.directory import DirectoryStore


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Hosted]:
    with hosted(DirectoryStore(tmp_path / "store")) as service:
        yield service


@pytest.fixture
def client(service: Hosted) -> Iterator[Client]:
    with service.client() as client:
        yield client
