"""Prompts to try out a token in. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dti_engine.config import CaptionFamily

MAX_PROBES = 4

_PROMPTS: Mapping[CaptionFamily, tuple[str, ...]] = {
    "object": (
        "a photo of a {} on a beach",
        "an oil painting of a {}",
        "a photo of a {} in the snow at night",
        "a {} on a wooden table, seen from above",
    ),
    "person": (
        "a photo of {} on a beach",
        "an oil painting of {}",
        "a photo of {} in the snow at night",
        "a photo of {} wearing a red hat",
    ),
    "style": (
        "a house in the style of {}",
        "a portrait of a woman in the style of {}",
        "a bowl of fruit in the style of {}",
        "a city at night in the style of {}",
    ),
}


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt with `{}` for the subject, and the seed of its picture, for all subjects alike."""

    template: str
    seed: int
    asked: Mapping[str, str] = field(default_factory=dict[str, str])  # that the miniature's scorer
    place: str = "centre"  # can look for, and where it then looks for the subject

    def prompt(self, name: str) -> str:
        """With a placeholder or a word in it."""
        return self.template.replace("{}", name)


def probes(family: CaptionFamily, count: int) -> list[Probe]:
    """The first `count` for subjects that were captioned by this family; at most `MAX_PROBES`."""
    if family == "miniature":
        # Pillow and the world's shapes: not for a command that asks for MAX_PROBES alone.
        from dti_engine.miniature.world.subjects import probe_prompts

        asked = enumerate(probe_prompts())
        return [Probe(each.template, i, each.asked, each.place) for i, each in asked][:count]
    return [Probe(template, i) for i, template in enumerate(_PROMPTS[family])][:count]
