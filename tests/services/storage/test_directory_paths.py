"""Keys as folders: each its own, in the order of keys."""

import random
from pathlib import Path

from services.storage.directory_paths import folder_of, walk


def test_keys_have_folders_of_their_own_whatever_the_file_system_folds() -> None:
    keys = ["a", "A", "a/b", "a=", "a+", "a%", "a%3d", "é", "e\u0301", "%", "=", "a" * 64, "a" * 65]
    folders = [str(folder_of(Path("/r"), key)) for key in keys]
    assert len({folder.lower() for folder in folders}) == len(keys)
    assert all(folder.isascii() for folder in folders)


def test_names_fit_every_file_system() -> None:
    for key in ("Ä" * 512, "a" * 1024, "A/" * 511 + "A"):
        folder = folder_of(Path("/r"), key)
        assert max(len(part) for part in folder.parts) <= 255
        assert len(str(folder)) < 4000


def test_walking_gives_all_keys_in_order(tmp_path: Path) -> None:
    rng = random.Random(0)
    pieces = ["a", "b", "-", "0", "Z", "é", "犬", "c" * 64, "c" * 63]
    keys = {
        "/".join(
            "".join(rng.choices(pieces, k=rng.randint(1, 3))) for _ in range(rng.randint(1, 4))
        )
        for _ in range(400)
    }
    for key in keys:
        folder_of(tmp_path, key).mkdir(parents=True, exist_ok=True)
    ordered = sorted(keys)
    assert [entry.key for entry in walk(tmp_path, "", "")] == ordered
    for _ in range(200):
        prefix, after = (rng.choice(ordered)[: rng.randint(0, 80)] for _ in range(2))
        if prefix.startswith("/") or "//" in prefix:
            continue
        expected = [key for key in ordered if key.startswith(prefix) and key > after]
        assert [entry.key for entry in walk(tmp_path, prefix, after)] == expected, (prefix, after)


def test_files_of_others_are_no_keys(tmp_path: Path) -> None:
    (tmp_path / "stray").write_bytes(b"")
    (tmp_path / ".DS_Store").write_bytes(b"")
    folder_of(tmp_path, "a").mkdir()
    assert [entry.key for entry in walk(tmp_path, "", "")] == ["a"]
