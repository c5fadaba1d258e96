import subprocess
import sys
from pathlib import Path

import pytest

from services.errors import SettingsError
from services.storage.directory import DirectoryStore
from services.storage.memory import MemoryStore
from services.storage.open import open_store
from services.storage.s3 import S3Store


def test_a_store_is_opened_by_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_store("memory:"), MemoryStore)
    store = open_store(str(tmp_path / "a b"))
    assert isinstance(store, DirectoryStore)
    store.create("a", b"")
    assert open_store(store.url).head("a").size == 0
    monkeypatch.setenv("DTI_S3_REGION", "eu-central-1")
    s3 = open_store("s3://bucket/some/prefix")
    assert isinstance(s3, S3Store)
    assert s3.url == "s3://bucket/some/prefix"


def test_a_wrong_url_opens_nothing() -> None:
    with pytest.raises(SettingsError):
        open_store("gs://bucket")


def test_boto3_is_loaded_for_s3_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from services.storage.open import open_store; open_store(sys.argv[1]); "
        "sys.exit('boto3' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
