"""Labels of nodes, and selectors that say which nodes a process may run on.

A selector maps keys of labels to expressions, in Ray's syntax: `value`, `!value`, `in(a, b)` and
`!in(a, b)`. A node fits if all of them hold. An expression with `!` also holds for a node without
the label.
"""

import re
from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field, StringConstraints

_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_PREFIX = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
_EXPRESSION = re.compile(rf"(?P<negated>!?)(in\((?P<values>.+)\)|(?P<value>{_NAME}))")

LabelKey: TypeAlias = Annotated[
    str, StringConstraints(max_length=317, pattern=rf"^({_PREFIX}/)?{_NAME}$")
]
LabelExpression: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=1000, pattern=rf"^!?{_NAME}$|^!?in\({_NAME}(, ?{_NAME})*\)$"),
]


def _sort(selector: Mapping[str, str]) -> Mapping[str, str]:
    return dict(sorted(selector.items()))


# Sorted, because what has an equal selector in another order must not be replaced.
LabelSelector: TypeAlias = Annotated[
    Mapping[LabelKey, LabelExpression], Field(max_length=16), AfterValidator(_sort)
]


def fits(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Return whether a node with these labels is one that the selector names."""
    return all(_holds(expression, labels.get(key)) for key, expression in selector.items())


def _holds(expression: str, label: str | None) -> bool:
    parsed = _EXPRESSION.fullmatch(expression)
    if parsed is None:
        raise ValueError(f"{expression!r} is not value, !value, in(a, b) or !in(a, b)")
    listed = parsed["values"]
    values = [each.strip() for each in listed.split(",")] if listed else [parsed["value"]]
    return (label in values) != bool(parsed["negated"])
