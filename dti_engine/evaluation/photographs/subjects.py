"""A subject of the evaluation: its bundle of photographs, its words, and what it is painted in."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from dti_engine.bundles.loading import load_bundle
from dti_engine.config import CaptionFamily
from dti_engine.images import Picture


@dataclass(frozen=True, slots=True)
class PhotographedSubject:
    """Its photographs stay in the bundle: those of all subjects need not fit into memory."""

    name: str
    path: Path
    placeholder: str
    initializer: str
    class_noun: str  # that stands for it where words are scored
    captions: CaptionFamily | None  # that the bundle asks for; None: the recipe's
    num_vectors: int | None
    prompts: tuple[str, ...]  # with {}
    photos: tuple[tuple[str, str], ...]  # file name, and sha256 of the file
    num_masks: int

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        name: str,
        placeholder: str,
        initializer: str,
        num_vectors: int | None,
        class_noun: str | None,
        captions: CaptionFamily | None,
        prompts: Sequence[str],
    ) -> Self:
        """class_noun None: the initializer. Raises: InvalidBundleError if the bundle is refused."""
        pictures = load_bundle(path).pictures
        return cls(
            name=name,
            path=path,
            placeholder=placeholder,
            initializer=initializer,
            class_noun=class_noun or initializer,
            captions=captions,
            num_vectors=num_vectors,
            prompts=tuple(prompts),
            photos=tuple((each.name, each.sha256) for each in pictures),
            num_masks=sum(each.mask is not None for each in pictures),
        )

    @property
    def is_masked(self) -> bool:
        """Whether every photograph has a mask."""
        return self.num_masks == len(self.photos)

    def pictures(self) -> Sequence[Picture]:
        """Raises: InvalidBundleError if the bundle is refused by now."""
        return load_bundle(self.path).pictures

    def document(self) -> dict[str, Any]:
        """All that scores depend on, so without the path."""
        facts = asdict(self)
        return {name: value for name, value in facts.items() if name not in ("path", "name")}
