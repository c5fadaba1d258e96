"""Operations of one training sample, model against model, counted without weights or a GPU.

    python -m benchmarks.training.operations [--models sdxl sana-1.6b] [--samples 1600] [--json \
        FILE]

denoiser   forward, and backward to the text conditioning
text       forward, and backward to the embeddings of the words, in all text encoders
image      encoding of one image; once per subject, so it is in no sum

The unit is TFLOP per sample, and PFLOP per subject of 1600 samples (--samples). Operations are
counted on the shapes of published models, exactly, so n = 1.

No weight gets a gradient, so the backward pass takes less than twice the forward pass. A
multiplication and an addition in matrix products and convolutions count as two operations; all else
is left out. Attention counts as 4 products backward, as it takes without recomputation; fused
kernels compute a fifth one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.command_line import BenchmarkParser, write_json
from dti_engine.backbones.registry import ModelDescription, published

CLIP_LENGTH, GEMMA_LENGTH = 77, 300
# The paper trains tokens of SDXL at 768 px; each model is also measured at its own size.
SIDES = {"sdxl": (768, 1024)}


@dataclass(frozen=True)
class Work:
    """Numbers of operations."""

    forward: int
    backward: int

    @property
    def total(self) -> int:
        return self.forward + self.backward


def count(forward: Callable[[], Iterable[Tensor]], inputs: list[Tensor]) -> Work:
    """Count a forward pass, and the gradients of all its outputs with respect to `inputs`."""
    # torch counts fused kernels by different formulas, and some not at all on the meta device.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as ahead:
            outputs = list(forward())
        with FlopCounterMode(display=False) as back:
            torch.autograd.grad(outputs, inputs, [torch.empty_like(each) for each in outputs])
    return Work(ahead.get_total_flops(), back.get_total_flops())


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def require_attention() -> None:
    """Fail if attention, which torch may compute in one of many ways, is not counted on meta."""
    query, key, value = (meta(1, 2, 50, 8).requires_grad_() for _ in range(3))
    work = count(
        lambda: [nn.functional.scaled_dot_product_attention(query, key, value)], [query, key, value]
    )
    product = 2 * 2 * 50 * 50 * 8
    if work != Work(2 * product, 4 * product):
        raise SystemExit(f"torch {torch.__version__} does not count attention: {work}")


def usual_length(model: ModelDescription) -> int:
    """Return the positions of a prompt in the pipeline of diffusers."""
    return GEMMA_LENGTH if model.denoiser.name == "transformer" else CLIP_LENGTH


@dataclass(frozen=True)
class DenoiserCall:
    """The arguments of a denoiser, on the meta device."""

    arguments: tuple[Tensor, ...]
    options: dict[str, Any]
    conditioning: list[Tensor]  # the tensors of the text among them, which need gradients


def denoiser_call(
    model: ModelDescription,
    side: int,
    length: int,
    *,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
) -> DenoiserCall:
    """Return a call for images of `side` pixels and prompts of `length` positions."""
    config = model.configuration(model.denoiser.name)
    latent = side * config["sample_size"] // model.image_size
    noisy = meta(batch, config["in_channels"], latent, latent, dtype=dtype)
    timesteps = meta(batch, dtype=torch.int64)
    if model.denoiser.name == "transformer":
        hidden = meta(batch, length, config["caption_channels"], dtype=dtype).requires_grad_()
        mask = {"encoder_attention_mask": meta(batch, length)}
        return DenoiserCall((noisy, hidden, timesteps), mask, [hidden])
    hidden = meta(batch, length, config["cross_attention_dim"], dtype=dtype).requires_grad_()
    call = DenoiserCall((noisy, timesteps, hidden), {}, [hidden])
    if config.get("addition_embed_type") == "text_time":
        summary = meta(batch, list(model.text_dims.values())[-1], dtype=dtype).requires_grad_()
        call.conditioning.append(summary)
        call.options["added_cond_kwargs"] = {"text_embeds": summary, "time_ids": meta(batch, 6)}
    return call


def denoiser_work(model: ModelDescription, side: int, length: int | None = None) -> Work:
    """Count one sample of `side` pixels with a prompt of `length` positions."""
    call = denoiser_call(model, side, usual_length(model) if length is None else length)
    denoiser: Any = model.on_meta(model.denoiser.name)
    return count(lambda: denoiser(*call.arguments, **call.options).to_tuple(), call.conditioning)


def image_work(model: ModelDescription, side: int) -> int:
    """Count the operations that encode an image of `side` pixels."""
    autoencoder: Any = model.on_meta(model.autoencoder.name)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted, torch.no_grad():
        autoencoder.encode(meta(1, 3, side, side))
    return counted.get_total_flops()


def text_work(model: ModelDescription, length: int | None = None) -> Work:
    """Count one prompt in all text encoders, up to the layer that the denoiser reads."""
    length = usual_length(model) if length is None else length
    works = [encoder_work(model, part.name, length) for part in model.text_encoders]
    return Work(sum(each.forward for each in works), sum(each.backward for each in works))


def encoder_work(model: ModelDescription, part: str, length: int) -> Work:
    encoder: Any = model.on_meta(part)
    words = meta(1, length, model.text_dims[part]).requires_grad_()
    table: nn.Module = encoder.get_input_embeddings()
    table.register_forward_hook(lambda *_: words)
    is_pair = len(model.text_encoders) > 1

    def forward() -> Iterable[Tensor]:
        ids = meta(1, length, dtype=torch.int64)
        result = encoder(input_ids=ids, output_hidden_states=is_pair)
        if not is_pair:
            return [result.last_hidden_state]
        pooled = [result.text_embeds] if "text_embeds" in result else []
        return [result.hidden_states[-2], *pooled]  # the layer that SDXL reads

    return count(forward, [words])


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_models()
    parser.add_argument("--samples", type=int, default=1600, help="of a subject: steps x batch")
    options = parser.parse_args()

    table = Table(
        "model", title=f"TFLOP per sample; PFLOP per subject of {options.samples} samples"
    )
    for column in ("px", "denoiser", "forward", "backward", "text", "sample", "subject", "image"):
        table.add_column(column, justify="right")
    rows: list[dict[str, Any]] = []
    for model in map(published, options.models):
        text = text_work(model)
        for side in SIDES.get(model.name, (model.image_size,)):
            denoiser = denoiser_work(model, side)
            total = denoiser.total + text.total
            image = image_work(model, side)
            rows.append(
                {
                    "model": model.name,
                    "side": side,
                    "denoiser_forward": denoiser.forward,
                    "denoiser_backward": denoiser.backward,
                    "text_forward": text.forward,
                    "text_backward": text.backward,
                    "sample": total,
                    "subject": total * options.samples,
                    "image": image,
                }
            )
            shown = (denoiser.total, denoiser.forward, denoiser.backward, text.total, total)
            tera = (f"{each / 1e12:.3g}" for each in shown)
            subject = f"{total * options.samples / 1e15:.3g}"
            table.add_row(model.name, str(side), *tera, subject, f"{image / 1e12:.3g}")
    Console().print(table)
    report = {"torch": torch.__version__, "samples": options.samples, "operations": rows}
    write_json(options.json, report)


if __name__ == "__main__":
    main()
