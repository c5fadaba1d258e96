"""Prompt scores by SigLIP: how well a picture shows what a text says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor
from transformers import SiglipModel

from dti_engine.scorers import SIGLIP
from dti_engine.scorers.checkpoint import find_weights, load_model
from dti_engine.scorers.preprocessing import Preprocessing
from dti_engine.scorers.texts import SiglipTexts, read_texts


@dataclass(frozen=True, slots=True)
class PromptScore:
    """Of one picture: the model's probability that text and picture belong together, and the
    cosine that it is a function of. The probability saturates, the cosine does not.
    """

    probability: float
    cosine: float


class Siglip:
    """The model, and what it makes of pictures and texts."""

    def __init__(
        self, model: SiglipModel, preprocessing: Preprocessing, texts: SiglipTexts
    ) -> None:
        self._model, self._preprocessing, self._texts = model, preprocessing, texts
        self._known: dict[str, Tensor] = {}  # text -> (d,) unit vector

    @classmethod
    def load(cls, weights: str | Path = SIGLIP, *, device: torch.device | str = "cpu") -> Self:
        """By folder or hub id. Raises: BackboneLoadError if it is not to be had, or is another."""
        folder = find_weights(weights)
        model = load_model(SiglipModel, folder, torch.device(device))
        config: Any = model.config  # whose parts are annotated as if they could be missing
        texts = read_texts(folder, config.text_config.max_position_embeddings)
        return cls(model, Preprocessing.read(folder), texts)

    @torch.inference_mode()
    def scores(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[PromptScore]:
        """Of each picture with its own text: sigmoid(exp(t) cosine + b), t and b the model's.

        Source: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", section 3.2.
        """
        pixels = self._preprocessing(images).to(self._model.device)
        shown = _unit(self._model.vision_model(pixel_values=pixels).pooler_output)
        said = torch.stack([self._read(text) for text in texts])
        cosines = (shown * said).sum(dim=-1)
        # The checkpoint has the logarithm of the scale.
        logits = cosines * self._model.logit_scale.exp() + self._model.logit_bias
        pairs = zip(logits.sigmoid().tolist(), cosines.tolist(), strict=True)
        return [PromptScore(probability, cosine) for probability, cosine in pairs]

    def _read(self, text: str) -> Tensor:
        if text not in self._known:
            # No mask: in training, padding was looked at like words.
            ids = self._texts([text]).to(self._model.device)
            self._known[text] = _unit(self._model.text_model(input_ids=ids).pooler_output)[0]
        return self._known[text]


def scored_text(template: str, class_noun: str) -> str:
    """What a prompt asks for in plain words: `a {} on the beach` -> `a dog on the beach.`"""
    return template.replace("{}", class_noun) + "."


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features, dim=-1)
