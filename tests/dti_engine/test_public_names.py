"""The public names of the package: each one resolves, and importing the package loads nothing."""

import subprocess
import sys
from typing import Any

import pytest

import dti_engine


def test_importing_the_package_loads_neither_torch_nor_a_module_of_its_own() -> None:
    watched = ("torch", "numpy", "PIL", "pydantic", "dti_engine")
    code = (
        f"import sys, dti_engine; print([m for m in sys.modules if m.split('.')[0] in {watched}])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "['dti_engine']\n"


@pytest.mark.parametrize("name", dti_engine.__all__)
def test_each_public_name_resolves_to_an_object_of_that_name(name: str) -> None:
    found: Any = getattr(dti_engine, name)
    assert found.__name__ == name
    assert found.__module__.startswith("dti_engine.")


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    assert dti_engine.__all__ == list(dti_engine._MODULES)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'dti_engine' has no attribute 'nothing'"):
        getattr(dti_engine, "nothing")  # noqa: B009
    with pytest.raises(ImportError):
        from dti_engine import nothing  # noqa: F401
