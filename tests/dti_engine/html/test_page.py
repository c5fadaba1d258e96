"""The style and the words that templates of pages share."""

from pathlib import Path

import pytest

from dti_engine.html.page import duration, template, with_token


def test_a_template_may_include_the_style_and_escapes_its_values(tmp_path: Path) -> None:
    (tmp_path / "page.html.jinja").write_text(
        '<style>{% include "style.css" %}</style>{{ name }}', encoding="utf-8"
    )
    page = template(tmp_path).render(name="<b>")
    assert "--paper" in page
    assert page.endswith("</style>&lt;b&gt;")


def test_prompts_on_a_page_are_text_and_never_markup() -> None:
    shown = with_token("a <rex> & <i>more</i>", "<rex>")
    assert shown == "a <b>&lt;rex&gt;</b> &amp; &lt;i&gt;more&lt;/i&gt;"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2 s"), (48.4, "48 s"), (303, "5 min 03 s"), (7619, "2 h 06 min")],
)
def test_a_duration_is_shown_in_natural_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
