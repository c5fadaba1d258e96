"""Subject scores by DINOv2: how similar an image is to photos of the subject."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from PIL import Image, ImageChops
from torch import Tensor
from transformers import Dinov2Model

from dti_engine.images.decode import SubjectImage
from dti_engine.scorers import DINOV2
from dti_engine.scorers.vision_model import Preprocessing, find_weights, load_model


class Dinov2:
    """A DINOv2 encoder with its preprocessing."""

    def __init__(self, model: Dinov2Model, preprocessing: Preprocessing) -> None:
        self._model, self._preprocessing = model, preprocessing

    @classmethod
    def load(cls, weights: str | Path = DINOV2, *, device: torch.device | str = "cpu") -> Self:
        """Load a model by folder or hub id.

        Raises:
            ModelLoadError: It is not available, or is another model.
        """
        folder = find_weights(weights)
        model = load_model(Dinov2Model, folder, torch.device(device))
        return cls(model, Preprocessing.read(folder))

    @torch.inference_mode()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors (B, d) on the CPU: the class token of the last hidden state."""
        pixels = self._preprocessing(images).to(self._model.device)
        states = self._model(pixel_values=pixels).last_hidden_state  # (B, 1 + patches, d)
        return torch.nn.functional.normalize(states[:, 0], dim=-1).cpu()


def likeness(subject_images: Tensor, references: Tensor) -> list[float]:
    """Return the mean cosine of each image (B, d) with the references (R, d), all unit vectors."""
    return (subject_images @ references.T).mean(dim=-1).tolist()


def masked(subject_image: SubjectImage) -> Image.Image:
    """Return the subject on black; the image must have a mask."""
    assert subject_image.mask
    return ImageChops.multiply(subject_image.image, subject_image.mask.convert("RGB"))
