"""Prompt scores by SigLIP: how well an image matches a text."""

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from transformers import SiglipModel

from dti_engine.errors import ModelLoadError
from dti_engine.scorers import SIGLIP
from dti_engine.scorers.vision_model import Preprocessing, find_weights, load_model

_CLASS_WORDS = """
    airplane apple backpack bag ball bear bicycle bird boat book boot bottle bowl box boy bracelet
    building bus cake camera can candle car cartoon castle cat chair clock coat cow cup dinosaur dog
    doll door dragon dress duck elephant figurine fish flower fox frog game garden girl glasses
    guitar hat headphones helmet horse house instrument jacket jar jewelry keyboard lamp laptop lion
    lizard logo man monkey monster motorcycle mouse mug necklace owl painting panda parrot pen
    penguin person phone pig pizza plant plate pot puppet purse rabbit radio ring robot rug sandwich
    sculpture sheep ship shirt shoe sneaker snake sofa spoon squirrel statue stool suitcase
    sunglasses sword table teapot tiger toy tractor train tree truck turtle umbrella vase violin
    wallet watch window wolf woman
"""
_MAX_IMAGES = 4  # of a subject, which is in each of them; one takes a second on a CPU
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_END = "</s>"  # the end of a text, and its padding

Encode: TypeAlias = Callable[[str], list[int]]


def canonical(text: str) -> str:
    """Return a text in lower case, without punctuation, with single spaces.

    Source: big_vision, `canonicalize_text`.
    """
    return re.sub(r"\s+", " ", text.lower().translate(_NO_PUNCTUATION)).strip()


class SiglipTokenizer:
    """The tokenizer of a SigLIP model: canonical text to ids of one length.

    transformers' class of that name is not used: it needs spiece.model even where there is a
    tokenizer.json, which is all that some copies of the model have.
    """

    def __init__(self, encode: Encode, end: int, length: int) -> None:
        """Wrap a function from text to ids.

        end: the id of `</s>`. length: positions of a text, end and padding included.
        """
        self._encode, self._end, self._length = encode, end, length

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return ids (B, length); a text that is too long is truncated before its end token."""
        return torch.tensor([self._ids(text) for text in texts])

    def _ids(self, text: str) -> list[int]:
        ids = self._encode(canonical(text))[: self._length - 1]
        return ids + [self._end] * (self._length - len(ids))


def load_tokenizer(folder: Path, length: int) -> SiglipTokenizer:
    """Load a model's tokenizer from its tokenizer.json, or else from its spiece.model.

    length: as in `SiglipTokenizer`.

    Raises:
        ModelLoadError: There is neither file, or it is damaged.
    """
    json_file, sentencepiece_file = folder / "tokenizer.json", folder / "spiece.model"
    if json_file.is_file():
        encode, end = _read_json(json_file)
    elif sentencepiece_file.is_file():
        encode, end = _read_sentencepiece(sentencepiece_file)
    else:
        raise ModelLoadError(
            f"{str(folder)!r} has neither tokenizer.json nor spiece.model; download it again, with "
            "one of them"
        )
    if end is None:
        raise ModelLoadError(
            f"the tokenizer in {str(folder)!r} has no {_END}, so it is not SigLIP's; download it "
            "again"
        )
    return SiglipTokenizer(encode, end, length)


def _read_json(path: Path) -> tuple[Encode, int | None]:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as cause:  # the Rust library raises no narrower class for a damaged file
        raise _damaged(path, cause) from cause
    # The file may ask for either; the length of a text is this class's to decide.
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    return encode, tokenizer.token_to_id(_END)


def _read_sentencepiece(path: Path) -> tuple[Encode, int | None]:
    from sentencepiece import SentencePieceProcessor

    processor: Any = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(path.read_bytes())
    except (OSError, RuntimeError) as cause:
        raise _damaged(path, cause) from cause
    end: int = processor.piece_to_id(_END)  # the id of the unknown piece if there is none
    return processor.encode, end if processor.id_to_piece(end) == _END else None


def _damaged(path: Path, cause: Exception) -> ModelLoadError:
    return ModelLoadError(f"the tokenizer {str(path)!r} cannot be read: {cause}. Download it again")


@dataclass(frozen=True, slots=True)
class PromptScore:
    """The score of one image: the model's probability that text and image match, and their cosine.

    The probability is a function of the cosine; it saturates, and the cosine does not.
    """

    probability: float
    cosine: float


class Siglip:
    """A SigLIP model with its preprocessing and tokenizer."""

    def __init__(
        self, model: SiglipModel, preprocessing: Preprocessing, tokenizer: SiglipTokenizer
    ) -> None:
        self._model, self._preprocessing, self._tokenizer = model, preprocessing, tokenizer
        self._text_features: dict[str, Tensor] = {}  # text -> (d,) unit vector

    @classmethod
    def load(cls, weights: str | Path = SIGLIP, *, device: torch.device | str = "cpu") -> Self:
        """Load a model by folder or hub id.

        Raises:
            ModelLoadError: It is not available, or is another model.
        """
        folder = find_weights(weights)
        model = load_model(SiglipModel, folder, torch.device(device))
        config: Any = model.config  # its parts are annotated as optional
        tokenizer = load_tokenizer(folder, config.text_config.max_position_embeddings)
        return cls(model, Preprocessing.read(folder), tokenizer)

    @torch.inference_mode()
    def scores(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[PromptScore]:
        """Return the score of each image with its own text: sigmoid(exp(t) cosine + b).

        t and b are parameters of the model.

        Source: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", section 3.2.
        """
        image_features = self._image_features(images)
        # Text by text, so that a text's features do not depend on the batch that it came in.
        text_features = torch.stack([self._features(text) for text in texts])
        cosines = (image_features * text_features).sum(dim=-1)
        # `logit_scale` is stored as its logarithm.
        logits = cosines * self._model.logit_scale.exp() + self._model.logit_bias
        pairs = zip(logits.sigmoid().tolist(), cosines.tolist(), strict=True)
        return [PromptScore(probability, cosine) for probability, cosine in pairs]

    @torch.inference_mode()
    def cosines(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """Return the cosine of every image with every text, (images, texts)."""
        text_features = torch.stack([self._features(text) for text in texts])
        return self._image_features(images) @ text_features.T

    def _image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Return (B, d) unit vectors."""
        pixels = self._preprocessing(images).to(self._model.device)
        return _unit(self._model.vision_model(pixel_values=pixels).pooler_output)

    def _features(self, text: str) -> Tensor:
        if text not in self._text_features:
            # No attention mask: the model attended to padding in training.
            ids = self._tokenizer([text]).to(self._model.device)
            self._text_features[text] = _unit(self._model.text_model(input_ids=ids).pooler_output)[
                0
            ]
        return self._text_features[text]


def scored_text(template: str, class_noun: str) -> str:
    """Return a prompt in plain words: `a {} here` becomes `a dog here.` for the class noun dog."""
    return template.replace("{}", class_noun) + "."


def likely_class_word(images: Sequence[Image.Image], weights: str | Path = SIGLIP) -> str | None:
    """Return the common noun that fits images of one subject best on average.

    It is a suggestion: a breed is seen as its species. Return None if the model is not on this
    machine, since nothing is downloaded.

    Raises:
        ModelLoadError: The model on this machine is damaged.
    """
    try:
        folder = find_weights(weights, download=False)
    except ModelLoadError:
        return None
    words = _CLASS_WORDS.split()
    texts = [scored_text("a photo of a {}", word) for word in words]
    cosines = Siglip.load(folder).cosines(images[:_MAX_IMAGES], texts)
    return words[int(cosines.mean(dim=0).argmax())]


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features, dim=-1)
