"""Processes that write a few keys at random, and are restarted when they crash."""

import random

from chaos.simulation.bucket import Bucket
from chaos.simulation.nemesis import Faults
from chaos.simulation.network import Network
from chaos.simulation.process import Process
from chaos.simulation.recorder import StoreRecorder
from chaos.simulation.store_client import simulated_store
from chaos.simulation.world import World
from services.errors import StorageError
from services.storage.interface import Store
from services.storage.s3 import S3Store

_PROCESSES = 3
_WRITES = 25
_KEYS = 3


def race(
    world: World, faults: Faults, kind: type[S3Store] = S3Store, *, conditional: bool = False
) -> tuple[list[StoreRecorder], Bucket]:
    """Run until all writers are done. Deletions are conditional if `conditional`."""
    bucket = Bucket(world)
    network = Network(bucket, faults)
    recorders: list[StoreRecorder] = []

    def start(number: int) -> None:
        process = world.process(f"writer {number}")
        recorder = StoreRecorder(simulated_store(process, network, kind), process)
        recorders.append(recorder)
        for store in (recorder, recorder.for_leases()):
            process.spawn(lambda store=store: _write(store, process, conditional))
        process.on_crash.append(lambda: world.after(5.0, start, len(world.processes)))

    for number in range(_PROCESSES):
        start(number)
    world.run()
    return recorders, bucket


def _write(store: Store, process: Process, conditional: bool) -> None:
    rng = process.world.random
    for _ in range(_WRITES):
        try:
            _write_once(store, rng, conditional)
        except StorageError:
            process.sleep(rng.uniform(0, 0.1))


def _write_once(store: Store, rng: random.Random, conditional: bool) -> None:
    key = f"key/{rng.randrange(_KEYS)}"
    body = b"%x" % rng.getrandbits(64)
    choice = rng.random()
    if choice < 0.35:
        store.create(key, body)
    elif choice < 0.4:
        store.list("key/")
    elif choice < 0.45:
        store.put(key, body)
    elif choice < 0.85:
        store.replace(key, body, expected=store.read(key).head.etag)
    elif conditional:
        store.delete_if(key, expected=store.read(key).head.etag)
    else:
        store.delete(key)
