"""40 prompts for a kind of subject, or those of a file."""

from pathlib import Path

import pytest

from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.prompts import evenly_spaced, is_living, prompt_set, read_prompts


@pytest.mark.parametrize("name", ["object", "live"])
def test_a_set_has_40_different_prompts_with_one_place_for_the_subject(name: str) -> None:
    prompts = prompt_set(name)
    assert len(set(prompts)) == len(prompts) == 40
    assert all(each.count("{}") == 1 for each in prompts)
    assert prompts[0] == "a {} in the jungle"
    assert prompts[24] == "a cube shaped {}"


def test_what_lives_gets_other_prompts() -> None:
    assert all(map(is_living, ["dog", "Cat", "corgi dog"]))
    assert not any(map(is_living, ["teapot", "stuffed animal", "toy bear", "duck toy", ""]))
    assert len(set(prompt_set("object")) & set(prompt_set("live"))) == 10 + 5 + 10


def test_a_file_of_prompts_is_read_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("# mine\na {} in Rome\n\n  {} at sea \n")
    assert read_prompts(tmp_path / "mine.txt") == ("a {} in Rome", "{} at sea")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a {}\na dog\n", "line 2 of"),
        ("a {} and a {}", "line 1 of"),
        ("a <rex> by {}", "line 1 of"),
        ("a {}\na {}", "line 2 of"),
        ("# none", "0 prompts"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(ConfigurationError, match=reason):
        read_prompts(tmp_path / "mine.txt")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read prompts"):
        read_prompts(tmp_path / "none.txt")


def test_a_few_are_taken_from_all_over() -> None:
    assert evenly_spaced([str(i) for i in range(40)], 4) == ("0", "10", "20", "30")
    assert evenly_spaced(["a", "b"], 4) == ("a", "b")
