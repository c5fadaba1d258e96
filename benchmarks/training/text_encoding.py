"""Encoding prompts with Gemma 2: trimmed batches and a cached instruction, against diffusers' way.

    python -m benchmarks.training.text_encoding [--full] [--layers N] [--dim 512] [--json FILE]

Measures a forward pass and a backward pass to the learned rows, of one batch of captions through a
random model:

trimmed   without an instruction, padded to the longest caption, rounded up to a multiple of 32
padded    without an instruction, padded to 300 positions as diffusers does
stored    after an instruction whose keys and values are cached
whole     with the instruction in every caption, padded no more than needed
diffusers with the instruction in every caption and 298 positions after it

The unit is time, as a ratio to `trimmed` and to `stored`: medians of n = 5 repeats (--repeats) in
which all ways take turns. Absolute times are shown on CUDA only. A caption without the instruction,
in a batch where others have it, costs as much as `stored`. `--full` has the sizes of Gemma-2-2b:
4 GB of layers in bfloat16.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

from benchmarks.command_line import BenchmarkParser, write_json
from dti_engine.backbones.gemma import GemmaTextEncoder
from dti_engine.devices import find_device, find_dtype
from dti_engine.files import environment
from dti_engine.text.inputs import EncoderInput
from dti_engine.training.autotune import measure_s

SPECIAL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
DIFFUSERS_LENGTH = 298  # positions after the instruction


def random_model(options: argparse.Namespace, device: torch.device) -> Gemma2Model:
    """Return a random model of 1000 words: a lookup costs the same in a larger vocabulary."""
    sizes = (
        {}
        if options.full
        else {
            "hidden_size": options.dim,
            "intermediate_size": 4 * options.dim,
            "num_hidden_layers": 6,
            "head_dim": options.dim // 8,
            "query_pre_attn_scalar": options.dim // 8,
        }
    )
    if options.layers:
        sizes["num_hidden_layers"] = options.layers
    config = Gemma2Config(vocab_size=1000, **sizes)
    config._attn_implementation = "eager"
    with device:
        model = Gemma2Model(config).eval().requires_grad_(False)
    for module in (model.layers, model.norm):
        module.to(find_dtype(options.dtype, device))
    return model


def random_tokenizer(size: int) -> GemmaTokenizer:
    """Return a tokenizer in which each "a" is one token."""
    names = [
        *SPECIAL_TOKENS,
        "a",
        *(f"<{number}>" for number in range(size - len(SPECIAL_TOKENS) - 1)),
    ]
    return GemmaTokenizer(vocab={name: number for number, name in enumerate(names)}, merges=[])


def captions(
    size: int, used: int, length: int, device: torch.device, *, has_instruction: bool = False
) -> EncoderInput:
    """Return captions of `used` positions, padded to `length`; each ends in a learned row."""
    row = torch.full((size, length), -1)
    row[:, used - 1] = torch.arange(size)
    return EncoderInput(
        ids=torch.full((size, length), 5),
        row=row,
        length=torch.full((size,), used),
        pooled_index=torch.full((size,), used - 1),
        has_instruction=torch.full((size,), has_instruction),
    ).to(device)


def encoding(encoder: GemmaTextEncoder, prompts: EncoderInput) -> Callable[[], None]:
    """Return a function that encodes the prompts and computes the gradients of their rows."""
    rows = torch.randn(len(prompts.ids), encoder.dim, device=prompts.ids.device)
    counted = torch.arange(prompts.ids.shape[1], device=rows.device) < prompts.length[:, None]

    def encode() -> None:
        table = rows.clone().requires_grad_()
        hidden = encoder.hidden_states(prompts, table)
        torch.autograd.grad((hidden * counted[..., None]).sum(), table)

    return encode


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_argument("--layers", type=int, help="default: 6, with --full 26")
    parser.add_argument("--dim", type=int, default=512, help="a multiple of 16")
    parser.add_argument("--full", action="store_true", help="the sizes of Gemma-2-2b, for a GPU")
    parser.add_argument("--dtype", default="auto", help="of the layers, as of `dti train`")
    parser.add_argument("--captions", type=int, default=8, help="in the batch")
    parser.add_argument("--length", type=int, default=12, help="positions of a caption, 2 to 300")
    parser.add_argument("--instruction", type=int, default=220, help="positions of the instruction")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = find_device("auto")
    model = random_model(options, device)
    tokenizer = random_tokenizer(model.config.vocab_size)
    plain = GemmaTextEncoder("plain", model, tokenizer)
    with_instruction = GemmaTextEncoder("stored", model, tokenizer, "a" * options.instruction + " ")

    size, used, before = options.captions, options.length, options.instruction
    trimmed = plain.padded_length(used)
    batches = {
        "trimmed": captions(size, used, trimmed, device),
        "padded": captions(size, used, plain.max_length, device),
        "stored": captions(size, used, trimmed, device, has_instruction=True),
        "whole": captions(size, before + used, before + trimmed, device),
        "diffusers": captions(size, before + used, 1 + before + DIFFUSERS_LENGTH, device),
    }
    ways = {
        name: encoding(with_instruction if name == "stored" else plain, batch)
        for name, batch in batches.items()
    }
    elapsed_s: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats + 1):  # the first repeat warms up
        for name, encode in ways.items():
            elapsed = measure_s(device, encode)
            if repeat:
                elapsed_s[name].append(elapsed)
    medians = {name: statistics.median(each) for name, each in elapsed_s.items()}

    layers, dim = model.config.num_hidden_layers, model.config.hidden_size
    dtype = str(model.norm.weight.dtype).removeprefix("torch.")
    table = Table("way", "positions", "time, trimmed = 1", "time, stored = 1",
                  title=f"{size} captions of {used} positions, {layers} layers, d {dim}, "
                  f"{device.type} in {dtype}")  # fmt: skip
    for name, each in medians.items():
        time_of = f"  ({each * 1000:.1f} ms)" if device.type == "cuda" else ""
        positions = batches[name].ids.shape[1]
        to_stored = f"{each / medians['stored']:.2f}"
        table.add_row(name, f"{positions}", f"{each / medians['trimmed']:.2f}{time_of}", to_stored)
    Console().print(table)
    settings = {name: getattr(options, name) for name in ("captions", "length", "instruction")}
    facts = {"environment": environment(device, dtype=dtype), "layers": layers, "dim": dim}
    report = {**facts, **settings, "seconds": medians}
    write_json(options.json, report)


if __name__ == "__main__":
    main()
