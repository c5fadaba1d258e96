"""The model card of a miniature, written from the recorded facts and scores alone."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from safetensors import safe_open

from dti_engine.files import atomic_write
from dti_engine.miniature.world.vocabulary import (
    ACCESSORIES,
    BACKGROUNDS,
    COLOURS,
    KINDS,
    PATTERNS,
    STYLES,
    breeds,
    held_out_looks,
)

FACTS = "recipe.json"  # how the weights were trained
RESULTS = "examination.json"  # how good they are
CARD = "README.md"
_STAGES = {
    "images": "drawing images",
    "autoencoder": "training the autoencoder",
    "reader": "training the text encoder",
    "scorer": "training the scorer",
    "latents": "encoding images",
    "hidden": "encoding captions",
    "denoiser": "training the denoiser",
}


_INTRODUCTION = """\
# The miniature

A text-to-image model of a small procedural world, 64 x 64 pixels: an ordinary Stable Diffusion in
its parts and its layout, trained from nothing on drawings of that world. It is for trying out and
testing what is made for larger models, and knows nothing else.

    from diffusers import StableDiffusionPipeline
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER, safety_checker=None)
    pipeline("a cartoon of a red dog wearing a hat on a beach", guidance_scale=4.0).images[0]

`scorer.safetensors` is no part of the pipeline: it reads what an image of the world shows."""


def write_card(weights: Path) -> None:
    """Write README.md into a folder of weights, from the facts and scores recorded there."""
    sections = [_INTRODUCTION, _vocabulary()]
    if (weights / FACTS).exists():
        sections.append(_making(json.loads((weights / FACTS).read_text(encoding="utf-8"))))
    sections.append(_parts(weights))
    if (weights / RESULTS).exists():
        sections.append(_scores(json.loads((weights / RESULTS).read_text(encoding="utf-8"))))
    else:
        sections.append("## Scores\n\nNot examined yet.")
    atomic_write(weights / CARD, ("\n\n".join(sections) + "\n").encode())


def _vocabulary() -> str:
    lists = {
        "things": KINDS,
        "colours": COLOURS,
        "patterns": PATTERNS,
        "accessories": ACCESSORIES[1:],
        "backgrounds": BACKGROUNDS,
        "styles": STYLES,
    }
    words = "\n".join(f"- {name}: {', '.join(each)}" for name, each in lists.items())
    return (
        f"## What it knows\n\n{words}\n\n{len(breeds())} made-up words name one particular look "
        f"each. {len(held_out_looks())} looks were held out: no image or caption of the training "
        "has them."
    )


def _making(facts: Mapping[str, Any]) -> str:
    source = [("commit", facts["commit"] or "unknown"), ("seed", facts["seed"])]
    stages = [
        (_STAGES[name], f"{stage['step']:,}", timedelta(seconds=round(stage["seconds"])))
        for name, stage in facts["stages"].items()
        if stage
    ]
    sections = (
        "## How it was made",
        f"    {facts['command']}",
        _table(("fact", "value"), [*source, *facts["environment"].items()]),
        "Versions and machine are those of the export. The time that each stage took, in all its "
        f"runs; `{FACTS}` has batches and rates too.",
        _table(("stage", "steps or examples", "h:mm:ss"), stages),
    )
    return "\n\n".join(sections)


def _parts(weights: Path) -> str:
    rows: list[tuple[object, ...]] = []
    for file in sorted(weights.rglob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            shapes = [opened.get_slice(key).get_shape() for key in opened.keys()]  # noqa: SIM118
        numbers = sum(math.prod(shape) for shape in shapes)
        rows.append((file.relative_to(weights), f"{numbers:,}", f"{file.stat().st_size / 1e6:.1f}"))
    return "## Its parts\n\n" + _table(("file", "numbers", "MB"), rows)


def _scores(results: Mapping[str, Any]) -> str:
    everything = results["groups"]["all"]
    attributes = [
        (
            name,
            generated["asked"],
            _percent(everything["drawn"][name]),
            _percent(everything["reconstructed"][name]),
            _percent(generated),
            *_verdict(results["generated"].get(name)),
        )
        for name, generated in everything["generated"].items()
    ]
    scorer = [
        (source, _percent(each), *_verdict(each)) for source, each in results["scorer"].items()
    ]
    groups = [
        (
            name,
            group["captions"],
            *(_percent(group["generated"].get(each)) for each, *_ in attributes),
        )
        for name, group in results["groups"].items()
    ]
    sections = (
        "## Scores",
        f"Of what {results['captions']} captions ask for, how much the scorer reads in the world's "
        "own drawings, in these through the autoencoder, and in what the model generates from the "
        f"words ({results['steps']} steps of DDIM, guidance {results['guidance']:g}). The captions "
        "come from seeds that training never drew.",
        _table(
            ("attribute", "asked for", "drawn", "reconstructed", "generated", "bar", ""), attributes
        ),
        "The scorer itself, as a mean over the attributes that have a bar:",
        _table(("images", "read right", "bar", ""), scorer),
        "What the model generates, by kind of caption:",
        _table(("captions", "number", *(name for name, *_ in attributes)), groups),
    )
    return "\n\n".join(sections)


def _percent(score: Mapping[str, Any] | None) -> str:
    return f"{100 * score['share']:.1f} %" if score else "-"


def _verdict(score: Mapping[str, Any] | None) -> tuple[str, str]:
    if score is None:
        return "-", ""
    return f"{100 * score['bar']:.0f} %", "met" if score["met"] else "missed"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
