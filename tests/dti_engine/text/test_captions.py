from typing import get_args

import pytest

from dti_engine.config import CaptionFamily
from dti_engine.text.captions import CAPTION_TEMPLATES


def test_every_family_of_captions_has_templates() -> None:
    assert set(CAPTION_TEMPLATES) == set(get_args(CaptionFamily))
    assert {name: len(each) for name, each in CAPTION_TEMPLATES.items()} == {
        "object": 20,
        "style": 12,
        "person": 12,
        "miniature": 3,
    }


@pytest.mark.parametrize("family", CAPTION_TEMPLATES)
def test_a_template_has_one_place_for_the_token_and_stands_once(family: CaptionFamily) -> None:
    templates = CAPTION_TEMPLATES[family]
    assert all(each.count("{}") == 1 and each.format("<x>").count("<x>") == 1 for each in templates)
    assert len(set(templates)) == len(templates)
