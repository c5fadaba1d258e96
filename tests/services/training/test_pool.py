"""Who is given up, of workers that are asked how they are."""

from services.training.pool import UnresponsiveWorkers


def test_who_gives_no_answer_for_long_is_given_up() -> None:
    now = 0.0
    silence = UnresponsiveWorkers(10, lambda: now)
    assert silence.note(["a", "b"], {"a", "b"}) == []
    now = 100.0
    assert silence.note(["a", "b"], {"a"}) == [], "it has only just fallen silent"
    now = 109.0
    assert silence.note(["a", "b"], {"a"}) == []
    now = 110.0
    assert silence.note(["a", "b"], {"a"}) == ["b"]


def test_an_answer_makes_good_for_all_that_were_missed() -> None:
    now = 0.0
    silence = UnresponsiveWorkers(10, lambda: now)
    silence.note(["a"], set())
    now = 9.0
    silence.note(["a"], {"a"})
    now = 18.0
    assert silence.note(["a"], set()) == []
    now = 27.0
    assert silence.note(["a"], set()) == []
    now = 28.0
    assert silence.note(["a"], set()) == ["a"]
