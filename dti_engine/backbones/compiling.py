"""Denoisers compiled for every shape that they meet."""

from typing import Any

from torch import nn

_MOST_SHAPES = 64  # of slots, pictures at once and lengths of prompts, in training and painting


def compile_in_place(denoiser: nn.Module) -> None:
    """Have it compiled when it is called with a shape for the first time: minutes, each time.

    torch gives up after 8 shapes, for the whole process, and goes on without any compiled code.
    """
    import torch._dynamo.config as dynamo  # takes a second

    limits: Any = dynamo
    limits.recompile_limit = max(limits.recompile_limit, _MOST_SHAPES)
    denoiser.compile(dynamic=False)
