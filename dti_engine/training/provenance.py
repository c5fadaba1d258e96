"""All that decides what a subject learns: work goes on only where none of it has changed."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from PIL import Image
from pydantic import BaseModel, ConfigDict

from dti_engine.artifacts.manifest import Manifest, Sha256
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.images.decode import SubjectImage
from dti_engine.subject import Subject

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SeenImage(BaseModel):
    """An image as it is trained on."""

    model_config = _STRICT

    name: str
    sha256: Sha256  # of the file
    caption_sha256: Sha256 | None
    mask_sha256: Sha256 | None  # of size and pixels

    @classmethod
    def of(cls, subject_image: SubjectImage) -> Self:
        return cls(
            name=subject_image.name,
            sha256=subject_image.sha256,
            caption_sha256=None
            if subject_image.caption is None
            else _sha256(subject_image.caption.encode()),
            mask_sha256=None if subject_image.mask is None else _mask_sha256(subject_image.mask),
        )


class Provenance(BaseModel):
    """Where a token comes from. One of the same provenance, at the same step, is the same token."""

    model_config = _STRICT

    subject: str
    placeholder: str
    initializer: str
    seed: int
    num_vectors: Mapping[str, int]  # encoder -> vectors
    config: TrainConfig
    model_fingerprint: Sha256
    dtype: str  # that the denoiser computes in
    images: tuple[SeenImage, ...]  # in order: draws are numbers of images

    @classmethod
    def of(
        cls,
        subject: Subject,
        num_vectors: Mapping[str, int],
        backbone: Backbone,
        config: TrainConfig,
    ) -> Self:
        """That of a subject's token; num_vectors: encoder -> vectors of it; config: of the run."""
        return cls(
            subject=subject.id,
            placeholder=subject.placeholder,
            initializer=subject.initializer,
            seed=subject.seed,
            num_vectors=dict(num_vectors),
            config=subject.config or config,
            model_fingerprint=backbone.fingerprint,
            dtype=str(backbone.dtype).removeprefix("torch."),
            images=tuple(map(SeenImage.of, subject.images)),
        )

    def changes(self, now: "Provenance") -> list[str]:
        """What is not the same any more, in words."""
        found: list[str] = []
        for name in set(Provenance.model_fields) - {"config", "images"}:
            found += _change(name, getattr(self, name), getattr(now, name))
        found += _config_changes(self.config, now.config)
        if self.images != now.images:
            found.append(_of_images([each.name for each in self.images]))
        return sorted(found)

    def changes_since(self, manifest: Manifest) -> list[str]:
        """What is not the same as it was for a finished token, in words.

        Its manifest does not tell the dtype: a token fits whatever it was trained in.
        """
        then = manifest.training
        if then is None:
            return ["it was not trained, but blended or imported"]
        found = [
            *_change("placeholder", manifest.placeholder, self.placeholder),
            *_change("initializer", then.initializer, self.initializer),
            *_change("seed", then.seed, self.seed),
            *_change("num_vectors", manifest.num_vectors, self.num_vectors),
            *_change("model_fingerprint", manifest.model_fingerprint, self.model_fingerprint),
            *_config_changes(then.config, self.config),
        ]
        subject_images = {each.name: each.sha256 for each in self.images}
        if (then.images, then.notes_sha256) != (subject_images, notes_sha256(self.images)):
            found.append(_of_images(list(then.images)))
        return sorted(found)


def notes_sha256(subject_images: Sequence[SeenImage]) -> str | None:
    """Of the captions and masks of images, in order; None if no image has either."""
    if not any(each.caption_sha256 or each.mask_sha256 for each in subject_images):
        return None
    return _sha256("".join(f"{each.model_dump_json()}\n" for each in subject_images).encode())


def _change(name: str, then: object, now: object) -> Iterator[str]:
    if then != now:
        yield f"{name} was {then!r:.80}, is now {now!r:.80}"


def _config_changes(then: TrainConfig, now: TrainConfig) -> Iterator[str]:
    for name in TrainConfig.model_fields:
        yield from _change(name, getattr(then, name), getattr(now, name))


def _of_images(names: Sequence[str]) -> str:
    return f"images, captions or masks were others, of {', '.join(names):.200}"


def _mask_sha256(mask: Image.Image) -> str:
    return _sha256(f"{mask.size} ".encode() + mask.tobytes())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
