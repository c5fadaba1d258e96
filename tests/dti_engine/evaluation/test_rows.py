"""Every row has its tokens, and every image a unique name."""

from dti_engine.evaluation.protocol import MiniatureProtocol
from dti_engine.evaluation.rows import (
    MINIATURE_TITLES,
    TokenKey,
    frontier_rows,
    main_rows,
    row_images,
    settings_rows,
    token_row,
    untrained_row,
)
from dti_engine.miniature.world.subjects import held_out_subjects

LEARNED = token_row("dti", TokenKey("dti-1", 25))
NUM_PROMPTS = {subject.name: 8 for subject in held_out_subjects("evaluation")}


def test_only_tokens_of_a_row_differ_with_setting_and_steps() -> None:
    assert LEARNED.name == "dti-1-25"
    assert token_row("ti_rescaled", TokenKey("ti-2", 200), 1.0).name == "ti_rescaled-2-200"
    assert token_row("lengthened", TokenKey("dti-2", 200), 8.0).name == "lengthened-2-200-x8"
    assert untrained_row("drawing").name == "drawing"


def test_the_main_table_has_every_kind_of_row_with_the_tokens_of_the_chosen_settings() -> None:
    rows = main_rows(MiniatureProtocol.standard(), {"dti": 1, "ti": 3})
    assert [row.kind for row in rows] == list(MINIATURE_TITLES)
    ti, dti = TokenKey("ti-3", 200), TokenKey("dti-1", 200)
    assert [row.token for row in rows] == [None, None, None, ti, ti, dti]


def test_every_image_has_a_name_of_its_own() -> None:
    protocol = MiniatureProtocol.standard()
    chosen = {"dti": 1, "ti": 3}
    rows = main_rows(protocol, chosen)
    # The last steps of the frontier are rows of the main table as well.
    rows += [row for rows in frontier_rows(protocol, chosen).values() for row in rows[:-1]]
    keys = [
        image.key
        for row in rows
        for image in row_images(row, NUM_PROMPTS, num_training_seeds=2, num_image_seeds=2)
    ]
    assert len(set(keys)) == len(keys) == 12 * 8 * 2 * (3 + 2 * 3 + 2 * 6)


def test_a_row_without_training_has_no_training_seeds() -> None:
    counts = {
        row.kind: len(list(row_images(row, {"dog-1": 8}, num_training_seeds=3, num_image_seeds=2)))
        for row in (untrained_row("description"), LEARNED)
    }
    assert counts == {"description": 8 * 2, "dti": 8 * 3 * 2}


def test_the_frontier_ends_in_the_main_table() -> None:
    protocol, chosen = MiniatureProtocol.standard(), {"dti": 1, "ti": 3}
    ends = {of_method[-1] for of_method in frontier_rows(protocol, chosen).values()}
    assert {row.token for row in ends} == {TokenKey("dti-1", 200), TokenKey("ti-3", 200)}
    assert ends <= set(main_rows(protocol, chosen))
    assert ends <= {row for rows in settings_rows(protocol).values() for row in rows}
