"""The table of mutants fits the source: a safeguard that moves takes its mutant with it."""

import ast
from collections import Counter

import pytest

from mutants.mutant import ROOT, Mutant
from mutants.table import MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_its_file_and_names_tests_that_exist(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text()
    mutated = mutant.mutated(source)
    assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(source))
    for test in mutant.tests:
        file, _, name = test.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not name or name.partition("[")[0] in functions


def test_names_stand_once() -> None:
    assert [
        name for name, count in Counter(each.name for each in MUTANTS).items() if count > 1
    ] == []
