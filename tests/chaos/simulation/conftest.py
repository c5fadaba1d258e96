"""Fixtures: a world that ends with its test, and stores in it."""

from collections.abc import Callable, Iterator

import pytest

from chaos.simulation.bucket import Bucket
from chaos.simulation.nemesis import Faults
from chaos.simulation.network import Network
from chaos.simulation.process import Process
from chaos.simulation.store_client import simulated_store
from chaos.simulation.world import World
from services.storage.s3 import S3Store


@pytest.fixture
def world() -> Iterator[World]:
    with World(0) as world:
        yield world


@pytest.fixture
def bucket(world: World) -> Bucket:
    return Bucket(world)


@pytest.fixture
def open_store(world: World, bucket: Bucket) -> Callable[..., tuple[Process, S3Store]]:
    """Return a function that opens a store in a new process, with rates of faults."""

    def open_store(attempts: int = 6, **rates: float) -> tuple[Process, S3Store]:
        process = world.process(f"process {len(world.processes)}")
        return process, simulated_store(
            process, Network(bucket, Faults(**rates)), max_attempts=attempts
        )

    return open_store
