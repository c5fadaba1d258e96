"""Changes of the models file, as the supervisor notices them."""

import json
import secrets
from pathlib import Path

from services.contracts.models import ModelsFile

ONE = json.dumps({"one": {"weights": "w", "recipe": "sd"}})
TWO = json.dumps({"two": {"weights": "w", "recipe": "sd"}})


def mounted(folder: Path, text: str) -> Path:
    """Write a file as Kubernetes mounts a ConfigMap: the folder is a link that is swapped."""
    version = folder / f"..{secrets.token_hex(4)}"
    version.mkdir()
    (version / "models.json").write_text(text)
    link = folder / "..new"
    link.symlink_to(version.name)
    link.rename(folder / "..data")
    path = folder / "models.json"
    if not path.is_symlink():
        path.symlink_to("..data/models.json")
    return path


def test_other_content_is_a_change_and_the_same_content_is_none(tmp_path: Path) -> None:
    path = mounted(tmp_path, ONE)
    file = ModelsFile(path)
    assert not file.has_changed()
    mounted(tmp_path, ONE)
    assert not file.has_changed(), "it was only written again"
    mounted(tmp_path, TWO)
    assert file.has_changed()


def test_invalid_content_and_a_missing_file_are_no_change(tmp_path: Path) -> None:
    path = mounted(tmp_path, ONE)
    file = ModelsFile(path)
    mounted(tmp_path, '{"one": {"weight')
    assert not file.has_changed()
    path.unlink()
    assert not file.has_changed()
    mounted(tmp_path, TWO)
    assert file.has_changed()


def test_without_a_file_nothing_changes() -> None:
    assert not ModelsFile(None).has_changed()
