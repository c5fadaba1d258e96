"""Scores are those that transformers' own models give, image by image."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Model, SiglipModel
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from dti_engine.errors import ModelLoadError
from dti_engine.images.decode import SubjectImage
from dti_engine.scorers.dinov2 import Dinov2, likeness, masked
from dti_engine.scorers.siglip import Siglip, load_tokenizer, scored_text
from dti_engine.scorers.vision_model import find_weights

TEXTS = ["a red dog on the beach.", "a painting of a cat.", "a toy bear in the snow."]


@pytest.fixture
def images() -> list[Image.Image]:
    rng = np.random.default_rng(1)
    shapes = [(40, 60, 3), (33, 31, 3), (64, 64, 3)]
    return [Image.fromarray(rng.integers(256, size=s, dtype=np.uint8)) for s in shapes]


def test_likeness_is_the_mean_cosine_of_class_tokens(
    tiny_scorers: Path, images: list[Image.Image]
) -> None:
    folder = tiny_scorers / "dinov2-base"
    scorer = Dinov2.load(folder)
    found = likeness(scorer.features(images[:1]), scorer.features(images[1:]))
    model = Dinov2Model.from_pretrained(folder).eval()
    processor = BitImageProcessorPil.from_pretrained(folder)
    with torch.no_grad():
        states = model(**processor(images, return_tensors="pt")).last_hidden_state
    token = states[:, 0]
    cosines = torch.nn.functional.cosine_similarity(token[:1], token[1:])
    assert found == pytest.approx([cosines.mean().item()], abs=1e-5)


def test_prompt_scores_are_the_sigmoid_of_the_models_own_logits(
    tiny_scorers: Path, images: list[Image.Image]
) -> None:
    folder = tiny_scorers / "siglip-base-patch16-512"
    found = Siglip.load(folder).scores(images, TEXTS)
    model = SiglipModel.from_pretrained(folder).eval()
    pixels = SiglipImageProcessorPil.from_pretrained(folder)(images, return_tensors="pt")
    with torch.no_grad():
        reference = model(input_ids=load_tokenizer(folder, 64)(TEXTS), **pixels)
    expected = reference.logits_per_image.diagonal().sigmoid()
    assert [each.probability for each in found] == pytest.approx(expected.tolist(), abs=1e-5)
    cosines = (reference.image_embeds * reference.text_embeds).sum(dim=-1)
    assert [each.cosine for each in found] == pytest.approx(cosines.tolist(), abs=1e-5)
    assert len({round(each.cosine, 4) for each in found}) == 3
    every = Siglip.load(folder).cosines(images, TEXTS)
    assert every.diagonal().tolist() == pytest.approx(cosines.tolist(), abs=1e-5)


def test_a_score_does_not_depend_on_the_images_beside_it(
    tiny_scorers: Path, images: list[Image.Image]
) -> None:
    siglip = Siglip.load(tiny_scorers / "siglip-base-patch16-512")
    dinov2 = Dinov2.load(tiny_scorers / "dinov2-base")
    together = siglip.scores(images, TEXTS)
    alone = [siglip.scores([image], [text])[0] for image, text in zip(images, TEXTS, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert one.cosine == pytest.approx(other.cosine, abs=1e-5)
    singly = torch.cat([dinov2.features([image]) for image in images])
    torch.testing.assert_close(dinov2.features(images), singly, rtol=0, atol=1e-5)


def test_a_masked_photo_shows_the_subject_on_black(images: list[Image.Image]) -> None:
    image = images[0]
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (10, 10, 30, 20))
    shown = np.asarray(masked(SubjectImage("a.png", image, "0" * 64, image.size, mask=mask)))
    assert (shown[10:20, 10:30] == np.asarray(image)[10:20, 10:30]).all()
    assert not shown[:10].any()
    assert not shown[20:].any()


def test_the_scored_text_has_the_class_noun_and_a_full_stop() -> None:
    assert scored_text("a {} on the beach", "stuffed animal") == "a stuffed animal on the beach."


def test_missing_weights_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="give a folder"):
        find_weights(tmp_path / "none")
    with pytest.raises(ModelLoadError, match=r"hf download nobody/nothing --local-dir DIR"):
        find_weights("nobody/nothing@main", download=False)


def test_incomplete_and_other_models_are_refused(tiny_scorers: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_scorers / "dinov2-base", tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelLoadError, match="Download it again"):
        Dinov2.load(tmp_path / "broken")
    with pytest.raises(ModelLoadError):
        Siglip.load(tiny_scorers / "dinov2-base")
