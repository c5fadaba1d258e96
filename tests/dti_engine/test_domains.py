"""Each model states what it knows, and photographs are told from drawings."""

import io

import pytest
from PIL import Image, ImageDraw

from dti_engine.backbones import load_backbone
from dti_engine.backbones.registry import catalogue
from dti_engine.domains import DOMAINS, domain_of, near_words
from dti_engine.images.photographs import is_photograph


def _drawing(side: int) -> Image.Image:
    image = Image.new("RGB", (side, side), (40, 160, 220))
    pen = ImageDraw.Draw(image)
    for index in range(8):
        start = side * index // 10
        pen.ellipse((start, side // 3, start + side // 5, side // 2), fill=(30 * index, 90, 60))
    return image


def _textured(side: int) -> Image.Image:
    """Return what is textured like a photograph: noise, blurred by enlarging it."""
    noise = Image.effect_noise((side // 3, side // 3), 60).convert("RGB")
    return noise.resize((side, side), Image.Resampling.BICUBIC)


def test_photographs_are_told_from_drawings() -> None:
    assert is_photograph(_textured(512), (512, 512))
    assert not is_photograph(_textured(128), (128, 128))
    assert not is_photograph(_drawing(512), (512, 512))
    compressed = io.BytesIO()
    _drawing(512).save(compressed, "JPEG", quality=80)
    assert not is_photograph(Image.open(compressed), (512, 512))


def test_every_model_with_a_short_name_has_a_domain() -> None:
    published = catalogue()
    assert list(DOMAINS) == ["miniature", *published]
    for name, model in published.items():
        domain = DOMAINS[name]
        assert model.hub_id is not None
        assert domain.hub_ids == (model.hub_id, *model.former_ids)
        assert domain.image_size == model.image_size
        assert domain.training_bytes is not None
        assert domain.recompute_bytes is not None
        # The weights are among what training needs; a step without --recompute keeps more.
        assert model.device_bytes < domain.recompute_bytes < domain.training_bytes
        assert domain_of(f"{model.hub_id}@main") is domain
    assert domain_of("./a/folder") is None


def test_the_miniature_states_exactly_the_words_that_it_was_trained_with() -> None:
    encoder = load_backbone("miniature").text_encoders["text_encoder"]
    trained = encoder.vocabulary().any(dim=-1).tolist()
    known = {word for word, row in zip(encoder.words(), trained, strict=True) if row}
    assert {word for word in known if word.isalpha()} == DOMAINS["miniature"].words


@pytest.mark.parametrize("word", ["dog", "Red Dog", "car", ""])
def test_known_class_words_are_no_problem(word: str) -> None:
    assert DOMAINS["miniature"].word_problem(word) is None
    assert DOMAINS["sd15"].word_problem("stuffed animal") is None


def test_an_unknown_class_word_is_named_with_near_ones() -> None:
    problem = DOMAINS["miniature"].word_problem("blue dogs") or ""
    assert problem.startswith(
        "'dogs' is no word that the model miniature was trained with: near ones are dog"
    )
    assert "its things are car, dog, boat" in problem
    assert near_words("xyzzy", ["dog", "car"]) == []
