"""What a model does not read of a text is said, and the syntax of other programs is refused."""

import pytest

from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import TokenError
from dti_engine.text.encoder import TextEncoder
from dti_engine.text.prompt_check import (
    require_plain,
    text_warnings,
    truncated_pieces,
    unknown_words,
    unmentioned,
)


@pytest.fixture(scope="module")
def encoder(tiny_backbone: Backbone) -> TextEncoder:
    return tiny_backbone.text_encoders["text_encoder"]


@pytest.mark.parametrize(
    "text",
    [
        "a photo of a (<rex>:1.3) on a beach",
        "(worst quality: 1.4), dog",
        "a ((red dog):.8)",
        "((dog) in snow:-1)",
        "a (dog)1.3 and a (cat)-0.5",
        "a <rex> <lora:style:0.8>",
        "<hypernet:anime:1> dog",
        "a photo of embedding:rex",
        "a [dog:cat:0.5]",
        "a dog [in snow:10]",
        "a [dog|cat]",
        "a ((red)) dog",
        "(photo from 1990:1.2)",
        "chapter:3) of (a book:1.1)",
        "a dog [[in snow]]",
    ],
)
def test_syntax_of_other_programs_is_refused(text: str) -> None:
    with pytest.raises(TokenError, match="so it is refused"):
        require_plain(["a dog", text])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a photo of a <rex> on a beach",
        "a dog (and a cat)",
        "a clock (at 5:30)",
        "a poster: a dog (16:9)",
        "a dog, 35mm, f/1.8; it's 3.5 years old",
        "a sign that says [open]",
        "a dog (side view) 1.5 m tall, seen (from above)",
        "a clock [5:30], a frame (2.39:1)",
        "chapter:3) of a book",
        "<rex> and <tom>",
    ],
)
def test_plain_english_is_accepted(text: str) -> None:
    require_plain([text])


@pytest.mark.parametrize(
    ("prompt", "seen"),
    [
        ("a photo of a rex on a beach", "rex"),
        ("a photo of a <rex on a beach", "<rex"),
        ("a photo of a < rex > on a beach", "< rex >"),
        ("a photo of a ＜rex＞", "＜rex＞"),
        ("a photo of a [Rex]", "[Rex]"),
        ("a photo of a rex> here", "rex>"),
    ],
)
def test_a_token_that_no_prompt_mentions_is_named_with_what_was_meant(
    prompt: str, seen: str
) -> None:
    (warning,) = unmentioned([prompt, "tyrannosaurus"], ["<rex>"])
    assert warning == (
        "no prompt mentions <rex>, so this token changes no image: write <rex> where it says "
        f"{seen!r}"
    )


def test_a_token_is_mentioned_by_any_text() -> None:
    assert unmentioned(["a dog", "not a <rex>"], ["<rex>"]) == []
    (warning,) = unmentioned(["a <rexy>", ""], ["<rex>"])
    assert warning.endswith("write <rex> in it")


def test_truncated_pieces_of_a_long_prompt_are_counted(encoder: TextEncoder) -> None:
    encoders, vectors = {"text_encoder": encoder}, {"<rex>": {"text_encoder": 3}}
    pieces = len(encoder.segment_ids("dog " * 80))
    room = encoder.max_length - len(encoder.wrap_ids([])) - 3
    prompt = "<rex> " + "dog " * 80
    assert pieces > room
    assert truncated_pieces(prompt, vectors, encoders) == {"text_encoder": pieces - room}
    fits = "<rex> " + "dog " * (80 - (pieces - room))
    assert truncated_pieces(fits, vectors, encoders) == {}
    (warning,) = text_warnings("the caption of 'a.png'", prompt, vectors, encoders)
    assert warning == (
        "the caption of 'a.png' is too long: text_encoder does not read its last "
        f"{pieces - room} word pieces"
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a ((red) dog) here", "brackets"),
        ("a (dog)+ here", "signs of a weight"),
        ("a {red} dog", "brackets"),
        ("a dog \\(toy\\)", "escaped brackets"),
        ("a dog++ here", "signs of a weight"),
        ("a dog --ar 16:9", "options"),
        ("a dog::2 cat", "a weight"),
        ("a dog BREAK a cat", "keywords"),
        ("a __colour__ dog", "a wildcard"),
    ],
)
def test_signs_that_may_be_meant_for_another_program_are_a_warning(
    text: str, what: str, encoder: TextEncoder
) -> None:
    (warning, *_) = text_warnings("the prompt", text, {}, {"text_encoder": encoder})
    assert f": {what}; it has no meaning here" in warning


def test_a_weight_in_a_caption_is_a_warning(encoder: TextEncoder) -> None:
    caption = "a (red dog:1.3) here"
    (warning, *_) = text_warnings("the caption of 'a.png'", caption, {}, {"text_encoder": encoder})
    assert warning.startswith("the caption of 'a.png' has '(red dog:1.3)': a weight")


@pytest.mark.parametrize("text", ["(" * 4000, "[" * 4000, "<lora:" * 700, "a :1" * 1000])
def test_texts_of_brackets_alone_are_checked_in_linear_time(text: str) -> None:
    require_plain([text])


def test_words_that_the_miniature_never_learned_are_named() -> None:
    encoders = load_backbone("miniature").text_encoders
    text = "a photo of a <rex> on a bicycle at Versailles"
    assert unknown_words(text, encoders) == ["bicycle", "at", "Versailles"]
    (warning,) = text_warnings("the prompt", text, {"<rex>": {"text_encoder": 1}}, encoders)
    assert warning.endswith("say nothing to it: bicycle, at, Versailles")
    assert text_warnings("the prompt", "a photo of a <rex> on a beach", {}, encoders) == []


def test_a_vocabulary_without_zero_rows_knows_every_word(encoder: TextEncoder) -> None:
    assert unknown_words("xyzzy", {"text_encoder": encoder}) == []
