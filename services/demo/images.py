"""The requests of the demo's images: every subject in every prompt, and blends of pairs."""

from collections.abc import Sequence
from pathlib import Path

from dti_engine.demo.images import (
    BLEND,
    STRIP_TEMPLATE,
    prompt_files,
    strip_files,
    strip_fractions,
)
from dti_engine.miniature.world.subjects import HeldOutSubject, demo_prompts
from services.cli.generate import PromptImages


def prompt_requests(
    subject: HeldOutSubject, output: Path, *, seed: int, steps: int
) -> list[PromptImages]:
    """Return the subject in every prompt; each prompt has one seed for all subjects."""
    return [
        PromptImages(
            {
                "prompt": prompt.template.replace("{}", subject.placeholder),
                "tokens": {subject.placeholder: subject.name},
                "steps": steps,
            },
            {seed + i: output / file},
        )
        for i, (file, prompt) in enumerate(
            zip(prompt_files(subject.name), demo_prompts(), strict=True)
        )
    ]


def pairs(subjects: Sequence[HeldOutSubject]) -> list[tuple[HeldOutSubject, HeldOutSubject]]:
    """Return each subject once, paired with its neighbour."""
    return list(zip(subjects[::2], subjects[1::2], strict=False))


def strip_requests(
    first: HeldOutSubject, second: HeldOutSubject, output: Path, *, seed: int, steps: int
) -> list[PromptImages]:
    """Return equal steps on the sphere between two subjects, which the endpoint blends."""
    return [
        PromptImages(
            {
                "prompt": STRIP_TEMPLATE.replace("{}", BLEND),
                "blends": {BLEND: {"a": first.name, "b": second.name, "t": t}},
                "steps": steps,
            },
            {seed: output / file},
        )
        for file, t in zip(strip_files(first.name, second.name), strip_fractions(), strict=True)
    ]
