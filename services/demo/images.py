"""Everything that the demo has generated: each token in each prompt, and the ways between pairs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from dti_engine.demo.images import DemoScorer
from dti_engine.demo.results import Generation, Strip, StripImage
from dti_engine.miniature.world.subjects import HeldOutSubject, demo_prompts
from services.cli.generate import PromptImages

NUM_STEPS = 7  # from one subject to another
_PROMPT = "a photo of a {} on a meadow"  # a named place, so that only the subject changes
_BLEND = "<blend>"


def prompts(look: HeldOutSubject, output: Path, *, seed: int, steps: int) -> list[PromptImages]:
    """The subject in every prompt; one prompt has one seed, whatever the subject."""
    return [
        PromptImages(
            {
                "prompt": prompt.template.replace("{}", look.placeholder),
                "tokens": {look.placeholder: look.name},
                "steps": steps,
            },
            {seed + i: output / f"generated_images/{look.name}-{i}.png"},
        )
        for i, prompt in enumerate(demo_prompts())
    ]


def pairs(looks: Sequence[HeldOutSubject]) -> list[tuple[HeldOutSubject, HeldOutSubject]]:
    """Each subject once, with the one behind it."""
    return list(zip(looks[::2], looks[1::2], strict=False))


def strip(
    first: HeldOutSubject, second: HeldOutSubject, output: Path, *, seed: int, steps: int
) -> list[PromptImages]:
    """Equal steps on the sphere from one to the other, which the endpoint blends."""
    return [
        PromptImages(
            {
                "prompt": _PROMPT.replace("{}", _BLEND),
                "blends": {_BLEND: {"a": first.name, "b": second.name, "t": i / (NUM_STEPS - 1)}},
                "steps": steps,
            },
            {seed: output / f"blends/{first.name}-to-{second.name}-{i}.png"},
        )
        for i in range(NUM_STEPS)
    ]


def files(wanted: PromptImages, output: Path) -> Mapping[int, str]:
    """Seed -> file, relative to the output folder."""
    return {seed: path.relative_to(output).as_posix() for seed, path in wanted.paths.items()}


def generated_images(files: Sequence[str], output: Path) -> dict[str, Image.Image]:
    """What is in files of the output folder."""
    return {file: Image.open(output / file).convert("RGB") for file in files}


def judged_generated_images(
    judge: DemoScorer, look: HeldOutSubject, wanted: Sequence[PromptImages], output: Path
) -> list[Generation]:
    """wanted: as `prompts` gave it."""
    return [
        Generation(
            file=file,
            prompt=str(each.order["prompt"]),
            seed=seed,
            asked=prompt.asked,
            subject_score=judge.subject_score(file, look.name, place=prompt.place),
            prompt_score=judge.prompt_score(file, prompt.asked),
        )
        for each, prompt in zip(wanted, demo_prompts(), strict=True)
        for seed, file in files(each, output).items()
    ]


def judged_strip(
    judge: DemoScorer,
    first: HeldOutSubject,
    second: HeldOutSubject,
    wanted: Sequence[PromptImages],
    output: Path,
) -> Strip:
    """wanted: as `strip` gave it."""
    generated_images = [
        StripImage(
            file,
            i / (NUM_STEPS - 1),
            judge.subject_score(file, first.name),
            judge.subject_score(file, second.name),
        )
        for i, each in enumerate(wanted)
        for file in files(each, output).values()
    ]
    (seed,) = wanted[0].paths
    return Strip(first.name, second.name, str(wanted[0].order["prompt"]), seed, generated_images)
