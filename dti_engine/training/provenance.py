"""Provenance: everything that decides what a subject learns, to refuse a resume after a change."""

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


class ImageProvenance(BaseModel):
    """Digests of a training image, its caption and its mask."""

    model_config = _STRICT

    name: str
    sha256: Sha256  # of the file
    caption_sha256: Sha256 | None
    mask_sha256: Sha256 | None  # of size and pixels

    @classmethod
    def of(cls, image: SubjectImage) -> Self:
        return cls(
            name=image.name,
            sha256=image.sha256,
            caption_sha256=None if image.caption is None else _sha256(image.caption.encode()),
            mask_sha256=None if image.mask is None else _mask_sha256(image.mask),
        )


class Provenance(BaseModel):
    """Everything a token depends on: the same provenance at the same step is the same token."""

    model_config = _STRICT

    # Slot and shape of the batch are left out on purpose. They change rounding alone, and a run
    # must be able to resume on a machine that has room for other numbers.
    subject: str
    placeholder: str
    initializer: str
    seed: int
    num_vectors: Mapping[str, int]  # encoder -> vectors
    config: TrainConfig
    model_fingerprint: Sha256
    dtype: str  # of the denoiser's computation
    images: tuple[ImageProvenance, ...]  # in order: draws refer to images by index

    @classmethod
    def of(
        cls,
        subject: Subject,
        num_vectors: Mapping[str, int],
        backbone: Backbone,
        config: TrainConfig,
    ) -> Self:
        """Return the provenance of a subject's token.

        num_vectors: encoder -> vectors of the token. config: the run's; the subject's own has
        priority.
        """
        return cls(
            subject=subject.id,
            placeholder=subject.placeholder,
            initializer=subject.initializer,
            seed=subject.seed,
            num_vectors=dict(num_vectors),
            config=subject.config or config,
            model_fingerprint=backbone.fingerprint,
            dtype=str(backbone.dtype).removeprefix("torch."),
            images=tuple(map(ImageProvenance.of, subject.images)),
        )

    def changes(self, now: "Provenance") -> list[str]:
        """Return what differs in `now`, in words, sorted."""
        found: list[str] = []
        for name in set(Provenance.model_fields) - {"config", "images"}:
            found += _change(name, getattr(self, name), getattr(now, name))
        found += _config_changes(self.config, now.config)
        if self.images != now.images:
            found.append(_image_change([each.name for each in self.images]))
        return sorted(found)

    def changes_since(self, manifest: Manifest) -> list[str]:
        """Return what differs from the provenance of a finished token, in words, sorted.

        The manifest has no dtype, so a token matches whatever dtype it was trained in.
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
        images = {each.name: each.sha256 for each in self.images}
        if (then.images, then.notes_sha256) != (images, notes_sha256(self.images)):
            found.append(_image_change(list(then.images)))
        return sorted(found)


def notes_sha256(images: Sequence[ImageProvenance]) -> str | None:
    """Return the digest of the captions and masks of images, or None if there are none."""
    if not any(each.caption_sha256 or each.mask_sha256 for each in images):
        return None
    # Names are hashed along with the notes, so that a caption that moves to another image is a
    # change.
    return _sha256("".join(f"{each.model_dump_json()}\n" for each in images).encode())


def _change(name: str, then: object, now: object) -> Iterator[str]:
    if then != now:
        yield f"{name} was {then!r:.80}, is now {now!r:.80}"


def _config_changes(then: TrainConfig, now: TrainConfig) -> Iterator[str]:
    for name in TrainConfig.model_fields:
        yield from _change(name, getattr(then, name), getattr(now, name))


def _image_change(names: Sequence[str]) -> str:
    return f"images, captions or masks have changed; they were those of {', '.join(names):.200}"


def _mask_sha256(mask: Image.Image) -> str:
    # The pixels, as they are what training uses; the size first, since pixels alone do not tell 2 x
    # 8 from 4 x 4.
    return _sha256(f"{mask.size} ".encode() + mask.tobytes())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
