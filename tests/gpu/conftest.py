"""Models on a CUDA device, a small SDXL and a small SANA among them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.models.random_models import load_engine, open_model
from dti_engine.backbones.interface import Backbone


@pytest.fixture
def on_cuda(tmp_path: Path) -> Callable[..., Backbone]:
    """on_cuda(name, dtype) -> the miniature, or a small model of that name; loaded afresh."""

    def load(name: str, dtype: torch.dtype) -> Backbone:
        device = torch.device("cuda")
        checkpoint = open_model(name, tmp_path / name, device=device, small=True)
        return load_engine(checkpoint, device=device, dtype=dtype)

    return load
