"""Held-out subjects and the prompts to paint them into."""

from pathlib import Path

from PIL import Image

from dti_engine.miniature.scorer import QUESTIONS
from dti_engine.miniature.world.subjects import (
    demo_prompts,
    draw_subject,
    evaluation_prompts,
    held_out_subjects,
)
from dti_engine.miniature.world.vocabulary import KINDS


def test_no_subject_is_in_two_parts() -> None:
    parts = [held_out_subjects(part) for part in ("evaluation", "settings", "demo")]
    subjects = [subject for part in parts for subject in part]

    assert [len(part) for part in parts] == [12, 6, 4]
    assert len({subject.look for subject in subjects}) == len(subjects)
    assert len({subject.placeholder for subject in subjects}) == len(subjects)
    assert sorted(subject.class_word for subject in parts[0]) == sorted(KINDS)


def test_photos_of_a_subject_differ_and_are_the_same_every_time(tmp_path: Path) -> None:
    subject = held_out_subjects("demo")[0]

    for folder in ("once", "again"):
        draw_subject(subject, tmp_path / folder, count=4)

    once, again = (
        [Image.open(file).tobytes() for file in sorted((tmp_path / folder).iterdir())]
        for folder in ("once", "again")
    )
    assert once == again
    assert len(set(once)) == 4


def test_prompts_ask_only_what_can_be_answered() -> None:
    for prompt in (*evaluation_prompts(), *demo_prompts()):
        assert prompt.template.count("{}") == 1
        assert prompt.asked
        for question, answer in prompt.asked.items():
            assert answer in QUESTIONS[question]
            assert not question.startswith(f"{prompt.place}.kind")
