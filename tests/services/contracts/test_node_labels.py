"""Selectors of nodes: what they match, and that Ray accepts what we accept."""

import pytest
from pydantic import TypeAdapter, ValidationError
from ray._private.label_utils import validate_label_selector

from services.contracts.node_labels import LabelSelector, fits

SELECTOR: TypeAdapter[LabelSelector] = TypeAdapter(LabelSelector)

TYPE = "ray.io/accelerator-type"


@pytest.mark.parametrize(
    ("expression", "label", "expected"),
    [
        ("A100", "A100", True),
        ("A100", "H100", False),
        ("A100", None, False),
        ("!A100", "H100", True),
        ("!A100", "A100", False),
        ("!A100", None, True),
        ("in(A100, H100)", "H100", True),
        ("in(A100,H100)", "H100", True),
        ("in(A100, H100)", "L4", False),
        ("in(A100)", None, False),
        ("!in(A100, H100)", "L4", True),
        ("!in(A100, H100)", "A100", False),
        ("!in(A100, H100)", None, True),
        ("in", "in", True),
    ],
)
def test_a_node_fits_if_the_expression_holds_for_its_label(
    expression: str, label: str | None, expected: bool
) -> None:
    selector = SELECTOR.validate_python({TYPE: expression})
    assert validate_label_selector(dict(selector)) is None
    assert fits(selector, {TYPE: label} if label else {}) is expected


def test_all_expressions_must_hold_and_none_fits_everything() -> None:
    selector = {TYPE: "A100", "spot": "!yes"}
    assert fits(selector, {TYPE: "A100"})
    assert not fits(selector, {TYPE: "A100", "spot": "yes"})
    assert fits({}, {})


@pytest.mark.parametrize(
    "selector",
    [
        {"": "a"},
        {"-a": "a"},
        {"a/": "a"},
        {"a b": "a"},
        {"a": ""},
        {"a": "-b"},
        {"a": "in()"},
        {"a": "in(b"},
        {"a": "(b)"},
        {"a": "!!b"},
        {"a": "in(b, !c)"},
        {"a": "b" * 64},
        {"a": 1},
        {f"key{n}": "a" for n in range(17)},
        {"a": f"in({', '.join(['b' * 60] * 20)})"},
    ],
)
def test_malformed_and_endless_selectors_are_refused(selector: object) -> None:
    with pytest.raises(ValidationError):
        SELECTOR.validate_python(selector)
