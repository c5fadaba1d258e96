"""The tokenizer knows the world's words, and numbers them alike in every run."""

from transformers import CLIPTokenizer

from dti_engine.miniature.training.text_encoder import new_tokenizer
from dti_engine.miniature.world.scenes import VALIDATION_SEED, example


def test_each_word_is_one_token_of_its_own(words: list[str], tokenizer: CLIPTokenizer) -> None:
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]

    assert [len(each) for each in ids] == [1] * len(words)
    assert len({each[0] for each in ids}) == len(words)


def test_captions_consist_of_known_words(words: list[str], tokenizer: CLIPTokenizer) -> None:
    for seed in range(VALIDATION_SEED, VALIDATION_SEED + 1000):
        caption = example(seed).caption
        pieces = caption.replace(",", " ,").split()
        assert set(pieces) <= {*words, ","}
        assert len(tokenizer(caption)["input_ids"]) == len(pieces) + 2


def test_every_run_numbers_the_words_alike(words: list[str], tokenizer: CLIPTokenizer) -> None:
    # Encoders of an earlier run would otherwise read one word as another.
    for _ in range(3):
        assert new_tokenizer(words).get_vocab() == tokenizer.get_vocab()
    vocabulary = tokenizer.get_vocab()
    assert [vocabulary[f"{word}</w>"] for word in ("of", "dog", "red")] == [793, 1123, 1090]


def test_any_text_can_be_tokenised(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("Käse, 猫!", add_special_tokens=False)["input_ids"]

    assert ids
    assert tokenizer.eos_token_id not in ids
