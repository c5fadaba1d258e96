"""Errors cross process boundaries, so each of them must survive pickling."""

import pickle
from collections.abc import Iterator

import pytest

from dti_engine.errors import DTIError
from services.errors import ServiceError


def _tree(root: type[DTIError]) -> Iterator[type[DTIError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


@pytest.mark.parametrize("error", dict.fromkeys([*_tree(DTIError), *_tree(ServiceError)]))
def test_an_error_survives_pickling(error: type[DTIError]) -> None:
    restored = pickle.loads(pickle.dumps(error("what was given and what to do")))
    assert type(restored) is error
    assert str(restored) == "what was given and what to do"
