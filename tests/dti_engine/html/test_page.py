"""What templates of pages share: the look, and words."""

from pathlib import Path

import pytest

from dti_engine.html.page import duration, template, with_token


def test_a_template_may_include_the_look_and_escapes_what_it_is_given(tmp_path: Path) -> None:
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
    ("seconds", "said"),
    [(3.21, "3.2 s"), (48.4, "48 s"), (303, "5 min 03 s"), (7619, "2 h 06 min")],
)
def test_a_duration_is_said_as_people_say_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said
