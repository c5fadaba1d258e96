"""Rows word prompts as they should, and every image has a name of its own."""

import pytest

from dti_engine.evaluation.protocol import Protocol
from dti_engine.evaluation.rows import (
    TITLES,
    Row,
    TokenKey,
    final_rows,
    frontier_tokens,
    settings_tokens,
    shots,
)
from dti_engine.miniature.world.subjects import (
    HeldOutSubject,
    evaluation_prompts,
    held_out_subjects,
)
from dti_engine.miniature.world.vocabulary import Look

SUBJECT = HeldOutSubject("dog-7", Look("dog", "orange", "blue", "spotted"))
LAST = evaluation_prompts()[-1]
LEARNED = Row.of(TokenKey("dti", 1, 25))


def test_each_row_names_the_subject_its_own_way() -> None:
    rows = [Row("class_word"), Row("description"), LEARNED]
    assert [row.prompt(LAST, SUBJECT) for row in rows] == [
        "a cartoon of a yellow car next to a dog wearing a hat in the snow",
        "a cartoon of a yellow car next to an orange dog with blue spots wearing a hat in the snow",
        "a cartoon of a yellow car next to a <dog-7> wearing a hat in the snow",
    ]


@pytest.mark.parametrize("row", [Row("class_word"), Row("description"), Row("drawing"), LEARNED])
def test_every_prompt_has_room_for_every_row(row: Row) -> None:
    for subject in held_out_subjects("evaluation"):
        for prompt in evaluation_prompts():
            worded = row.prompt(prompt, subject)
            assert "{}" not in worded
            assert worded != prompt.template


def test_only_tokens_of_a_row_differ_with_setting_and_steps() -> None:
    assert LEARNED.name == "dti-1-25"
    assert Row("ti_rescaled", TokenKey("ti", 2, 200), 1.0).name == "ti_rescaled-2-200"
    assert Row("lengthened", TokenKey("dti", 2, 200), 8.0).name == "lengthened-2-200-x8"
    assert Row("drawing").name == "drawing"


def test_the_main_table_has_every_kind_of_row_with_the_tokens_of_the_chosen_settings() -> None:
    rows = final_rows(Protocol.standard(), {"dti": 1, "ti": 3})
    assert [row.kind for row in rows] == list(TITLES)
    ti, dti = TokenKey("ti", 3, 200), TokenKey("dti", 1, 200)
    assert [row.token for row in rows] == [None, None, None, ti, ti, dti]


def test_every_image_has_a_name_of_its_own() -> None:
    protocol, subjects = Protocol.standard(), held_out_subjects("evaluation")
    chosen = {"dti": 1, "ti": 3}
    rows = final_rows(protocol, chosen)
    # The last steps of the frontier are rows of the main table as well.
    frontier = frontier_tokens(protocol, chosen).values()
    rows += [Row.of(key) for each in frontier for key in each[:-1]]
    keys = [shot.key for row in rows for shot in shots(row, subjects, 2, 2)]
    assert len(set(keys)) == len(keys) == 12 * 8 * 2 * (3 + 2 * 3 + 2 * 6)


def test_what_is_not_trained_has_no_training_seeds() -> None:
    subjects = held_out_subjects("evaluation")[:1]
    assert len(list(shots(Row("description"), subjects, 3, 2))) == 8 * 2
    assert len(list(shots(LEARNED, subjects, 3, 2))) == 8 * 3 * 2


def test_the_frontier_ends_in_the_main_table() -> None:
    protocol, chosen = Protocol.standard(), {"dti": 1, "ti": 3}
    ends = {of_method[-1] for of_method in frontier_tokens(protocol, chosen).values()}
    assert ends == {TokenKey("dti", 1, 200), TokenKey("ti", 3, 200)}
    assert {Row.of(key) for key in ends} <= set(final_rows(protocol, chosen))
    assert ends <= set(settings_tokens(protocol))
