"""Memory of activations in a training step, with gradient checkpointing against without.

    python -m benchmarks.training.activations [--models sdxl sana-1.6b] [--batch 4] [--json FILE]

weights      all parts as the engine loads them on a GPU: bfloat16, words and autoencoder in float32
kept         activations that the denoiser keeps for one subject's batch until the backward pass
recomputed   the same with `--recompute`: only the inputs of blocks are kept
fits         weights and kept activations together: a lower bound, without the scratch memory of
             kernels
recomputing  the same with `--recompute`

The unit is gigabytes (10^9 bytes), for batches of 4 samples (--batch). The bytes are counted on
shapes of published models, exactly, so n = 1. No GPU is needed: tensors are on torch's meta device,
in bfloat16. Attention keeps what the flash kernel keeps; parameters are not counted as activations.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from benchmarks.command_line import BenchmarkParser, write_json
from benchmarks.training.operations import CLIP_LENGTH, SIDES, denoiser_call
from dti_engine.backbones.registry import ModelDescription, published

TRIMMED_LENGTH = 32  # positions of the captions that the engine has Gemma encode


@contextmanager
def flash_attention() -> Iterator[None]:
    """Replace attention by the flash kernel, whose shapes torch knows on the meta device.

    With a mask, CUDA uses another kernel, which keeps the same tensors and the mask.
    """

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]

    plain = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain


def kept_bytes(model: ModelDescription, side: int, batch: int, *, recompute: bool) -> int:
    """Return the bytes the denoiser keeps for the gradients of the text conditioning."""
    is_unet = model.denoiser.name == "unet"
    length = CLIP_LENGTH if is_unet else TRIMMED_LENGTH
    call = denoiser_call(model, side, length, batch=batch, dtype=torch.bfloat16)
    denoiser: Any = model.on_meta(model.denoiser.name).bfloat16()
    if recompute:
        denoiser.enable_gradient_checkpointing()
    parameters = {each.untyped_storage()._cdata for each in denoiser.parameters()}
    storages: dict[int, Any] = {}  # holds the storages, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            storages[storage._cdata] = storage
        return tensor

    with flash_attention(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        denoiser(*call.arguments, **call.options)
    return sum(storage.nbytes() for storage in storages.values())


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_models()
    parser.add_argument("--batch", type=int, default=4, help="samples of a step")
    options = parser.parse_args()

    table = Table("model", title=f"GB, for a batch of {options.batch}")
    for column in ("px", "weights", "kept", "recomputed", "fits", "recomputing"):
        table.add_column(column, justify="right")
    rows: list[dict[str, Any]] = []
    for model in map(published, options.models):
        for side in SIDES.get(model.name, (model.image_size,)):
            kept, recomputed = (
                kept_bytes(model, side, options.batch, recompute=each) for each in (False, True)
            )
            row = {
                "model": model.name,
                "side": side,
                "weights": model.device_bytes,
                "kept": kept,
                "recomputed": recomputed,
                "fits": model.device_bytes + kept,
                "recomputing": model.device_bytes + recomputed,
            }
            rows.append(row)
            sizes = [f"{each / 1e9:.1f}" for each in list(row.values())[2:]]
            table.add_row(model.name, str(side), *sizes)
    Console().print(table)
    report = {"torch": torch.__version__, "batch": options.batch, "bytes": rows}
    write_json(options.json, report)


if __name__ == "__main__":
    main()
