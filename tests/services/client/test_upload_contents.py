"""Bundles as bytes: always the same ones, of the same files."""

import os
import shutil
import zipfile
from pathlib import Path

import pytest
from hosted import make_bundle

from dti_engine.errors import InvalidBundleError
from dti_engine.images.bundles.bundle import check_bundle, load_bundle
from dti_engine.images.bundles.sidecars import SubjectWords
from services.client.uploader import bundle_content, content_of

DESCRIPTION = '{"initializer": "dog", "images": {"0.png": {"caption": "a {} at sea"}}}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "rex", 1, description=DESCRIPTION)


def test_the_same_files_give_the_same_bytes_despite_other_metadata(
    folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere" / "other"
    other.mkdir(parents=True)
    for file in sorted(folder.iterdir(), reverse=True):
        shutil.copyfile(file, other / file.name)
        os.utime(other / file.name, (1e9, 1e9))
        (other / file.name).chmod(0o600)
    (other / ".DS_Store").write_bytes(b"litter")
    first, second = bundle_content(folder), bundle_content(other)
    assert first.sha256 == second.sha256
    assert first.read() == second.read()
    assert first.size == len(first.read())


def test_other_files_are_other_bytes(folder: Path) -> None:
    before = bundle_content(folder).sha256
    (folder / "0.png").rename(folder / "3.png")
    assert bundle_content(folder).sha256 != before


def test_a_packed_bundle_reads_as_the_same_bundle(folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.zip"
    packed.write_bytes(bundle_content(folder).read())
    original, received = load_bundle(folder), load_bundle(packed)
    assert original.description == received.description
    assert [each.sha256 for each in original.images] == [each.sha256 for each in received.images]
    assert original.images[0].caption == received.images[0].caption == "a {} at sea"


def test_an_archive_is_sent_as_it_is(folder: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "rex"), "gztar", folder))
    sent = bundle_content(archive)
    assert sent.read() == archive.read_bytes()
    assert sent.sha256 == content_of(archive.read_bytes()).sha256


def test_a_bundle_that_changes_after_its_check_is_not_sent(folder: Path) -> None:
    packed = bundle_content(folder)
    (folder / "bundle.json").write_text('{"initializer": "cat"}')
    with pytest.raises(InvalidBundleError, match="has changed since"):
        packed.read()


def test_a_folder_with_an_unreadable_file_is_refused(folder: Path) -> None:
    (folder / "4.png").symlink_to(folder / "0.png")
    with pytest.raises(InvalidBundleError, match="a symbolic link"):
        bundle_content(folder)


def test_a_missing_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundleError, match="No such file"):
        bundle_content(tmp_path / "gone.zip")


@pytest.mark.parametrize("top", ["10_sks dog", "rex/10_sks dog", "rex/train", "rex"])
def test_a_data_set_of_another_trainer_is_received_as_it_is_read_here(
    top: str, folder: Path, tmp_path: Path
) -> None:
    inner = tmp_path / "sets" / top
    inner.parent.mkdir(parents=True)
    folder.rename(inner)
    (inner / "bundle.json").unlink()
    (inner / "0.txt").write_text("a sks dog at sea")
    (inner / "0.npz").write_bytes(b"PK cache")
    (inner / "film.mov").write_bytes(bytes(1000))
    given = tmp_path / "sets" / Path(top).parts[0]
    words = SubjectWords.of(["<rex>"], ["dog"])
    packed = tmp_path / "packed.zip"
    packed.write_bytes(bundle_content(given).read())
    with zipfile.ZipFile(packed) as archive:
        assert not [name for name in archive.namelist() if name.endswith(("npz", "mov"))]
    here, there = check_bundle(given, words=words), check_bundle(packed, words=words)
    assert here.description == there.description
    assert [image.caption for image in here.images] == [image.caption for image in there.images]
    assert here.images[0].caption == "a {} at sea"
    assert there.errors == there.warnings == []


def test_an_image_is_sent_with_its_caption(folder: Path, tmp_path: Path) -> None:
    (folder / "0.txt").write_text("a dog at sea")
    packed = tmp_path / "packed.zip"
    packed.write_bytes(bundle_content(folder / "0.png").read())
    (image,) = check_bundle(packed, words=SubjectWords.of([], ["dog"])).images
    assert (image.name, image.caption) == ("0.png", "a {} at sea")
