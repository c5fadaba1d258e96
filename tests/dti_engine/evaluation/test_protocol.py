"""The comparison is fair by construction, what is unfair is refused, and prompts are complete."""

from pathlib import Path

import pytest

from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.protocol import (
    METHODS,
    MiniatureProtocol,
    evenly_spaced,
    is_living,
    prompt_set,
    read_prompts,
)
from dti_engine.miniature.world.subjects import held_out_subjects


@pytest.mark.parametrize("protocol", [MiniatureProtocol.standard(), MiniatureProtocol.quick()])
def test_both_methods_choose_from_as_many_settings_on_the_same_budget(
    protocol: MiniatureProtocol,
) -> None:
    dti, ti = (protocol.settings[method] for method in METHODS)
    assert len(dti) == len(ti) > 1
    assert {each.method for each in dti} == {"dti"}
    assert {each.method for each in ti} == {"ti"}
    budgets = {(c.steps, c.batch_size, c.resolution, c.captions, c.timesteps) for c in (*dti, *ti)}
    assert len(budgets) == 1
    assert len({(each.lr, each.kappa) for each in dti}) == len(dti)
    assert len({each.lr for each in dti}) == 2  # what turns the token furthest
    assert len({each.lr for each in ti}) == len(ti)


def test_settings_are_chosen_on_subjects_that_are_not_reported_on() -> None:
    tuned_on = {subject.look for subject in held_out_subjects("settings")}
    assert tuned_on.isdisjoint(subject.look for subject in held_out_subjects("evaluation"))


def test_a_quick_protocol_is_the_full_one_with_less_of_everything() -> None:
    full, quick = MiniatureProtocol.standard(), MiniatureProtocol.quick()
    assert quick.num_subjects < full.num_subjects
    assert quick.steps < full.steps
    assert quick.settings["ti"][0] == full.settings["ti"][0].changed(steps=quick.steps)
    assert MiniatureProtocol.quick(num_training_seeds=3).num_training_seeds == 3


@pytest.mark.parametrize(("steps", "snapshots"), [(200, (25, 50, 100, 200)), (3, (1, 3))])
def test_tokens_are_looked_at_while_they_learn(steps: int, snapshots: tuple[int, ...]) -> None:
    assert MiniatureProtocol.standard(steps=steps).snapshots == snapshots


def test_more_settings_for_one_method_are_refused() -> None:
    settings = dict(MiniatureProtocol.standard().settings)
    settings["dti"] = settings["dti"][:1]
    with pytest.raises(ValueError, match=r"same number of settings, got \{'dti': 1, 'ti': 4\}"):
        MiniatureProtocol(settings=settings)


def test_more_steps_for_one_method_are_refused() -> None:
    settings = dict(MiniatureProtocol.standard().settings)
    settings["dti"] = tuple(each.changed(steps=400) for each in settings["dti"])
    with pytest.raises(ValueError, match="the same budget"):
        MiniatureProtocol(settings=settings)


@pytest.mark.parametrize("change", [{"schedule": "cosine"}, {"patience": 2}])
def test_settings_whose_snapshots_differ_from_shorter_runs_are_refused(
    change: dict[str, object],
) -> None:
    settings = dict(MiniatureProtocol.standard().settings)
    settings["dti"] = tuple(each.changed(**change) for each in settings["dti"])
    with pytest.raises(ValueError, match="a constant rate and no patience"):
        MiniatureProtocol(settings=settings)


def test_a_change_that_is_not_allowed_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="num_subjects should be less than or equal to 12"):
        MiniatureProtocol.standard(num_subjects=13)


def test_a_protocol_survives_json() -> None:
    protocol = MiniatureProtocol.quick()
    assert MiniatureProtocol.model_validate_json(protocol.model_dump_json()) == protocol


@pytest.mark.parametrize("name", ["object", "live"])
def test_a_set_has_40_different_prompts_with_one_place_for_the_subject(name: str) -> None:
    prompts = prompt_set(name)
    assert len(set(prompts)) == len(prompts) == 40
    assert all(each.count("{}") == 1 for each in prompts)
    assert prompts[0] == "a {} in the jungle"
    assert prompts[24] == "a cube shaped {}"


def test_living_subjects_get_other_prompts() -> None:
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
