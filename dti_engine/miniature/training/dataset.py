"""Drawn images on disk, in shards, so that every stage reads the same images without redrawing."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from dti_engine.miniature.training.loop import atomic_write, note, noted
from dti_engine.miniature.world.drawing import draw
from dti_engine.miniature.world.scenes import example

SHARD = 4096


def images(
    work: Path, count: int, *, on_shard: Callable[[int, int], None] = lambda done, total: None
) -> np.ndarray:
    """Return (count, SIZE, SIZE, 3) uint8; image i shows `example(i)`. Draw what `work` lacks.

    on_shard gets the number of shards drawn and in total.
    """
    folder = work / "images"
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, count, SHARD)
    shards = {folder / f"{i:04d}.npy": (s, min(s + SHARD, count)) for i, s in enumerate(starts)}
    missing = {path: ends for path, ends in shards.items() if not _holds(path, *ends)}
    earlier = noted(work, "images") or {"seconds": 0.0}
    began = time.monotonic() - earlier["seconds"]
    with ProcessPoolExecutor() as pool:
        # One shard is drawn faster here than by a process that has to start first.
        draw_all = pool.map if len(missing) > 1 else map
        for done, _ in enumerate(draw_all(_draw_shard, missing, missing.values()), start=1):
            num_drawn = count - SHARD * (len(missing) - done)
            note(work, "images", step=num_drawn, seconds=time.monotonic() - began)
            on_shard(done, len(missing))
    loaded = [
        np.load(path, mmap_mode="r")[: stop - start] for path, (start, stop) in shards.items()
    ]
    return np.concatenate(loaded)


def _holds(path: Path, start: int, stop: int) -> bool:
    return path.exists() and len(np.load(path, mmap_mode="r")) >= stop - start


def _draw_shard(path: Path, ends: tuple[int, int]) -> None:
    drawn = np.stack([np.asarray(draw(example(seed).scene)) for seed in range(*ends)])
    atomic_write(path, lambda unfinished: np.save(unfinished, drawn))


def batch_indices(step: int, batch_size: int, size: int, *, stream: int) -> np.ndarray:
    """Return (batch_size,) indices below `size`, as a pure function of (stream, step).

    A resumed run therefore draws the same batches.
    """
    return np.random.default_rng((stream, step)).integers(0, size, batch_size)
