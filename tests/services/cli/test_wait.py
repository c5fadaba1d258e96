"""Names of files that tokens get."""

import pytest

from services.cli.wait import file_stem


@pytest.mark.parametrize("name", ["rex", "my-tom-2", "SKU_123.4", "a" * 100])
def test_a_plain_name_is_kept(name: str) -> None:
    assert file_stem(name) == name


def test_any_other_name_becomes_a_file_of_this_folder_and_its_own() -> None:
    names = ["../../etc/passwd", "..", ".", ".hidden", "a/b", "a b", "猫", "", "b" * 150, "a\\b"]
    stems = [file_stem(name) for name in names]
    assert len(set(stems)) == len(names)
    for stem in stems:
        assert stem.replace("-", "").isalnum()
        assert 1 <= len(stem) < 100
        assert stem.isascii()
    assert file_stem("../../etc/passwd").startswith("etc-passwd-")
