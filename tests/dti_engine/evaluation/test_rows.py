"""Rows word prompts as they should, and every picture has a name of its own."""

import pytest

from dti_engine.evaluation.protocol import Protocol
from dti_engine.evaluation.rows import (
    TITLES,
    Row,
    final_rows,
    frontier_rows,
    settings_rows,
    shots,
)
from dti_engine.miniature.world.looks import Look
from dti_engine.miniature.world.subjects import (
    HeldOutSubject,
    evaluation_prompts,
    held_out_subjects,
)

SUBJECT = HeldOutSubject("dog-7", Look("dog", "orange", "blue", "spotted"))
LAST = evaluation_prompts()[-1]


def test_each_row_names_the_subject_its_own_way() -> None:
    assert [Row(kind).prompt(LAST, SUBJECT) for kind in ("class_word", "description", "dti")] == [
        "a cartoon of a yellow car next to a dog wearing a hat in the snow",
        "a cartoon of a yellow car next to an orange dog with blue spots wearing a hat in the snow",
        "a cartoon of a yellow car next to a <dog-7> wearing a hat in the snow",
    ]


@pytest.mark.parametrize("kind", TITLES)
def test_every_prompt_has_room_for_every_row(kind: str) -> None:
    for subject in held_out_subjects("evaluation"):
        for prompt in evaluation_prompts():
            worded = Row(kind).prompt(prompt, subject)
            assert "{}" not in worded
            assert worded != prompt.template


def test_only_tokens_of_a_row_differ_with_setting_and_steps() -> None:
    assert Row("dti", 1, 25).name == "dti-1-25"
    assert Row("ti_rescaled", 2, 200).method == "ti"
    assert Row("class_word").method is None
    assert Row("drawing").name == "drawing"


def test_every_picture_has_a_name_of_its_own() -> None:
    protocol, subjects = Protocol.standard(), held_out_subjects("evaluation")
    chosen = {"dti": 1, "ti": 3}
    rows = final_rows(protocol, chosen)
    # The last steps of the frontier are rows of the main table as well.
    rows += [row for each in frontier_rows(protocol, chosen).values() for row in each[:-1]]
    keys = [shot.key for row in rows for shot in shots(row, subjects, 2, 2)]
    assert len(set(keys)) == len(keys) == 12 * 8 * 2 * (3 + 2 * 3 + 2 * 6)


def test_what_is_not_trained_has_no_training_seeds() -> None:
    subjects = held_out_subjects("evaluation")[:1]
    assert len(list(shots(Row("description"), subjects, 3, 2))) == 8 * 2
    assert len(list(shots(Row("ti", 0, 10), subjects, 3, 2))) == 8 * 3 * 2


def test_the_frontier_ends_in_the_main_table() -> None:
    protocol, chosen = Protocol.standard(), {"dti": 1, "ti": 3}
    ends = {of_method[-1] for of_method in frontier_rows(protocol, chosen).values()}
    assert ends == {Row("dti", 1, 200), Row("ti", 3, 200)}
    assert ends <= set(final_rows(protocol, chosen))
    assert ends <= set(settings_rows(protocol))
