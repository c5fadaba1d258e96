"""Files are written atomically, and replace neither inputs nor what others have left."""

from pathlib import Path

import pytest

from dti_engine.errors import ConfigurationError, OutputError
from dti_engine.files import atomic_write, require_replaceable, require_separate, unused_path


def test_a_file_is_written_with_its_folders_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    atomic_write(path, b"old")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        atomic_write(tmp_path / "folder", b"data")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, which has a folder with a file, and three links."""
    (tmp_path / "photos" / "rex").mkdir(parents=True)
    (tmp_path / "photos" / "rex" / "0.png").write_bytes(b"0")
    (tmp_path / "link").symlink_to("photos")
    (tmp_path / "alias.png").symlink_to("photos/rex/0.png")
    (tmp_path / "hard.png").hardlink_to(tmp_path / "photos/rex/0.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("output", "source"),
    [
        ("photos/rex/0.png", "photos/rex/0.png"),
        ("photos/../photos/rex/0.png", "photos/rex/0.png"),
        ("alias.png", "photos/rex/0.png"),
        ("photos/rex/0.png", "alias.png"),
        ("hard.png", "photos/rex/0.png"),
        ("photos", "photos"),
        ("photos/tokens", "photos"),
        ("link/rex/deep/new.png", "photos"),
        ("photos/rex/tokens", "link"),
        ("tokens", "."),
    ],
)
def test_an_output_that_would_change_an_input_is_refused(
    folders: Path, output: str, source: str
) -> None:
    with pytest.raises(ConfigurationError, match="--output"):
        require_separate([folders / "new", Path(output)], [Path("missing"), Path(source)])


@pytest.mark.parametrize(
    ("output", "source"),
    [("tokens", "photos"), ("photos", "photos/rex"), ("photos-2", "photos"), ("a/b", "a")],
)
def test_an_output_beside_or_around_an_input_is_accepted(
    folders: Path, output: str, source: str
) -> None:
    (folders / "a").touch()  # a file holds no other files, so that `a/b` fails when it is written
    require_separate([Path(output)], [Path(source)] if source != "a" else [])


def test_a_file_is_replaced_only_by_its_own_kind_or_force(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    require_replaceable(path, lambda data: False)  # there is none yet
    path.write_bytes(b"mine")
    require_replaceable(path, lambda data: data == b"mine")
    require_replaceable(path, lambda data: False, force=True)
    with pytest.raises(ConfigurationError, match=r"--force") as refused:
        require_replaceable(path, lambda data: data == b"other", force=False)
    assert "page.html" in str(refused.value)
    with pytest.raises(ConfigurationError, match=r"give another --output$"):
        require_replaceable(path, lambda data: False)


def test_a_used_name_gets_a_number(tmp_path: Path) -> None:
    path = tmp_path / "a.b.png"
    assert unused_path(path, lambda found: False) == path
    for name in ("a.b.png", "a.b-2.png"):
        (tmp_path / name).write_bytes(name.encode())
    assert unused_path(path, lambda found: False).name == "a.b-3.png"
    assert unused_path(path, lambda found: found.read_bytes() == b"a.b-2.png").name == "a.b-2.png"
