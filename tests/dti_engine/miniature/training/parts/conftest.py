"""The world's words and the tokenizer that knows them."""

import pytest
from transformers import CLIPTokenizer

from dti_engine.miniature.training.text_encoder import new_tokenizer, world_words


@pytest.fixture(scope="session")
def words() -> list[str]:
    return world_words()


@pytest.fixture(scope="session")
def tokenizer(words: list[str]) -> CLIPTokenizer:
    return new_tokenizer(words)
