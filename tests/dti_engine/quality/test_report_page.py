"""The page of a run: complete, whole in one file, and nobody's name is markup."""

import re
from typing import Any

from dti_engine.quality.report_page import render

NASTY = "<img src=x onerror=alert(1)>"


def _page(hand_made: Any) -> str:
    return render(hand_made.summary(), hand_made.root)


def _table(page: str) -> list[str]:
    """Return the rows of the table of all subjects."""
    (table,) = re.findall(r'<table class="sortable">.*?</table>', page, re.S)
    return re.findall(r"<tr id=.*?</tr>", table, re.S)


def test_the_page_needs_nothing_beside_it(hand_made: Any) -> None:
    hand_made.add("rex")
    hand_made.add("tom", flags=["odd"])
    page = _page(hand_made)
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(each.startswith(("data:image/", "#")) for each in addresses)
    assert not re.search(r"<(link|iframe|object|embed)|<script[^>]+|url\((?!#)|@import", page)
    assert page.count("<script>") == 1
    assert page.count("<svg") == 3


def test_every_subject_is_a_row_in_the_order_of_the_summary(hand_made: Any) -> None:
    hand_made.add("good", scores=(0.71, 0.93))
    hand_made.add("flagged", flags=["turned by 80°"])
    hand_made.log("failed", subject="failed", error="its images\nare no images")
    summary, page = hand_made.summary(), _page(hand_made)
    rows = _table(page)
    for place, (row, shown) in enumerate(zip(summary.rows, rows, strict=True), start=1):
        assert shown.startswith(f'<tr id="row-{place}"><td>{place}</td>')
        assert f"<b>{row.name}</b>" in shown
        assert f">{row.state}</td>" in shown
    assert "<div>turned by 80°</div>" in rows[1]
    assert all(f"<td>{each}</td>" in rows[2] for each in ("0.71", "0.93", "0.30", "30.0°"))
    assert "<td>40<br><small>of 400</small></td>" in rows[2]
    assert ">its images\nare no images</td>" in page
    assert "<strong>2</strong><span>learned, of 3</span>" in page


def test_scores_stand_under_the_images_that_have_them(hand_made: Any) -> None:
    hand_made.add("rex", scores=(0.61, 0.87))
    (card,) = re.findall(r"<article.*?</article>", _page(hand_made), re.S)
    assert card.count("<img ") == 3
    assert card.count('<span class="scores">0.61 · 0.87</span>') == 2
    assert "a photo of a <b>&lt;rex&gt;</b>" in card
    assert "subject 0.61 · prompt 0.87 · bare word 0.30" in card


def test_names_and_messages_are_text_and_never_markup(hand_made: Any) -> None:
    hand_made.add(NASTY.replace("/", ""), flags=[NASTY], prompt=NASTY, initializer=NASTY)
    hand_made.add("\udcff")  # a name that is no UTF-8
    hand_made.log("started", model=NASTY, dtype=NASTY, time=NASTY, config={NASTY: NASTY})
    hand_made.log("failed", subject=f"</td>{NASTY}", error=f"</table>{NASTY}", kind=NASTY)
    hand_made.log("warning", subject="rex", message=NASTY)
    hand_made.log("stopped", signal=NASTY)
    page = _page(hand_made)
    assert NASTY not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert b"<b>?</b>" in page.encode("utf-8", "replace")


def test_without_a_scorer_the_page_says_so(hand_made: Any) -> None:
    hand_made.add("rex", scores=None)
    page = _page(hand_made)
    assert "There is no scorer for this model" in page
    assert page.count("<svg") == 2  # of losses and of angles
    assert "<strong>–</strong><span>mean prompt score</span>" in page
    assert "None" not in page


def test_tokens_that_were_not_validated_have_no_cards(hand_made: Any) -> None:
    hand_made.add("rex", is_validated=False)
    page = _page(hand_made)
    assert "No token was validated" in page
    assert "1 of the 1 tokens are not validated" in page
    assert "<article" not in page
    assert "<img" not in page


def test_a_damaged_or_missing_image_is_noted_in_its_place(hand_made: Any) -> None:
    hand_made.add("rex")
    (hand_made.root / "validation/rex/0.png").write_bytes(b"no image")
    (hand_made.root / "validation/rex/1.png").unlink()
    (card,) = re.findall(r"<article.*?</article>", _page(hand_made), re.S)
    assert (
        '<span class="gap">its content is not JPEG, PNG, WebP, AVIF or HEIC, or is damaged</span>'
        in card
    )
    assert '<span class="gap">missing</span>' in card
    assert card.count("<img ") == 1


def test_a_run_with_nothing_but_failures_is_a_page(hand_made: Any) -> None:
    hand_made.log("started", subjects=5)
    hand_made.log("failed", subject="rex", error="no images", kind="InvalidBundleError")
    page = _page(hand_made)
    assert "0 of 1 subjects learned" in page
    assert "1 InvalidBundleError" in page
    assert "4 more subjects were requested" in page
    assert "<svg" not in page


def test_of_many_subjects_the_first_rows_have_images_and_some_curves_are_drawn(
    hand_made: Any,
) -> None:
    for i in range(230):
        hand_made.add(f"subject-{i:03d}", scores=(i / 230, 1.0), flags=["odd"] if i < 20 else [])
    page = _page(hand_made)
    rows = _table(page)
    assert [row.count("<img ") for row in rows] == [2] * 200 + [0] * 30
    assert "Images stand in the first 200 rows that have any; those of 30 more are in" in page
    assert "Of 230 subjects 200 are drawn" in page
    (losses,) = re.findall(
        r"<figure class=\"card\"><svg(?:(?!</svg>).)*share of its first.*?</svg>", page, re.S
    )
    drawn = set(re.findall(r'xlink:href="#row-(\d+)"', losses))
    assert len(drawn) == 200
    assert {str(place) for place in range(1, 21)} < drawn  # the flagged ones
