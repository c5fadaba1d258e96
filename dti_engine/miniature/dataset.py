"""Drawn pictures on disk, in shards, so that every stage of the recipe reads the same world without redrawing it."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dti_engine.miniature.drawing import SIZE, draw
from dti_engine.miniature.world import example

SHARD = 4096
VALIDATION_SEED = 1_000_000_000  # training seeds stay below it


def pictures(
    work: Path, num_shards: int, on_shard: Callable[[int], None] = lambda _: None
) -> np.ndarray:
    """(num_shards * SHARD, SIZE, SIZE, 3) uint8; picture i shows `example(i)`. Draws what is missing."""
    folder = work / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [k for k in range(num_shards) if not (folder / f"{k:04d}.npy").exists()]
    if missing:
        with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
            for k in pool.map(_draw_shard, missing, [folder] * len(missing)):
                on_shard(k)
    return np.concatenate(
        [np.load(folder / f"{k:04d}.npy", mmap_mode="r") for k in range(num_shards)]
    )


def _draw_shard(k: int, folder: Path) -> int:
    drawn = np.stack([np.asarray(draw(example(k * SHARD + i).scene)) for i in range(SHARD)])
    temporary = folder / f"{k:04d}.part.npy"
    np.save(temporary, drawn)
    temporary.rename(folder / f"{k:04d}.npy")
    return k


def to_pixels(drawn: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float in [-1, 1]."""
    assert drawn.shape[1:] == (SIZE, SIZE, 3)
    return (
        torch.from_numpy(np.ascontiguousarray(drawn))
        .permute(0, 3, 1, 2)
        .float()
        .div(127.5)
        .sub(1.0)
    )


def batch_indices(step: int, batch_size: int, size: int, *, stream: int) -> np.ndarray:
    """(batch_size,) indices below `size`: a pure function of (stream, step), so that a resumed run draws the same."""
    return np.random.default_rng((stream, step)).integers(0, size, batch_size)
