"""A folder of bundles stands for all of them; a bundle stands for itself."""

from pathlib import Path

import pytest

from dti_engine.images.bundles.paths import expand_paths


@pytest.fixture
def bundles_folder(tmp_path: Path) -> Path:
    """Two folders with images, two archives, and what is none of them."""
    for name in ("tom", "rex"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").touch()
    for name in ("anna.zip", "bob.tar.gz", "notes.txt", ".hidden.zip"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_of_bundles_gives_its_folders_and_archives_by_name(bundles_folder: Path) -> None:
    names = [each.name for each in expand_paths([bundles_folder])]
    assert names == ["anna.zip", "bob.tar.gz", "rex", "tom"]


@pytest.mark.parametrize("name", ["photo.PNG", "photo.webp", "bundle.json"])
def test_a_folder_with_an_image_or_a_description_is_a_bundle(
    bundles_folder: Path, name: str
) -> None:
    (bundles_folder / name).touch()
    assert expand_paths([bundles_folder]) == [bundles_folder]


def test_bundles_and_folders_of_them_can_be_mixed(bundles_folder: Path) -> None:
    found = expand_paths([bundles_folder / "tom", bundles_folder, bundles_folder / "anna.zip"])
    assert [found[0].name, found[-1].name, len(found)] == ["tom", "anna.zip", 6]


def test_an_empty_path_is_kept_so_that_it_is_refused_by_name(tmp_path: Path) -> None:
    assert expand_paths([tmp_path, tmp_path / "nowhere"]) == [tmp_path, tmp_path / "nowhere"]
