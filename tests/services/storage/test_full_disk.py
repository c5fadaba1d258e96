"""A store without space left: by a limit of the kernel in each test, and on a disk that is full."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from dti_engine.errors import OutputError
from dti_engine.files import atomic_write
from services.api.problems import error_response
from services.errors import StoreFullError
from services.storage import s3_client
from services.storage.directory import DirectoryStore

_LIMIT_BYTES = 2**20
_LARGE = bytes(2 * _LIMIT_BYTES)


@contextmanager
def _no_space() -> Generator[None]:
    """Let the kernel end each file of this process at a limit: writes are cut, and then fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LIMIT_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


_WRITES: dict[str, Callable[[DirectoryStore], object]] = {
    "create": lambda store: store.create("new", _LARGE),
    "put": lambda store: store.put("a", _LARGE),
    "replace": lambda store: store.replace("a", _LARGE, expected=store.head("a").etag),
}


@pytest.mark.parametrize("write", _WRITES)
def test_a_write_without_space_changes_nothing(tmp_path: Path, write: str) -> None:
    store = DirectoryStore(tmp_path / "store")
    store.create("a", b"first")
    with _no_space():
        with pytest.raises(StoreFullError, match="nothing was changed: free space"):
            _WRITES[write](store)
        store.create("small", b"fits")
        store.delete("small")
    assert [head.key for head in store.list().objects] == ["a"]
    assert store.read("a").body == b"first"
    assert list((tmp_path / "store/temporary").iterdir()) == []
    _WRITES[write](store)


def test_a_file_of_the_engine_without_space_is_not_torn(tmp_path: Path) -> None:
    atomic_write(tmp_path / "token", b"old")
    with _no_space(), pytest.raises(OutputError, match="cannot write"):
        atomic_write(tmp_path / "token", _LARGE)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize(("status", "code"), [(403, "QuotaExceeded"), (507, "XMinioStorageFull")])
def test_a_full_bucket_is_no_matter_of_rights_or_patience(status: int, code: str) -> None:
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = s3_client._translate(ClientError(answer, "PutObject"), "writing 'a'", write=True)
    assert isinstance(error, StoreFullError)
    assert "raise its quota" in str(error)


def test_clients_are_told_that_there_is_no_space() -> None:
    response = error_response("id", StoreFullError("writing 'secret key': No space left"))
    assert (response.status_code, response.headers["Retry-After"]) == (503, "60")
    assert b"no space left" in response.body
    assert b"secret key" not in response.body


_ON_A_FULL_DISK = """
import os, sys
from pathlib import Path
from typing import Any
from services.errors import StoreFullError
from services.storage import s3_client
from services.storage.directory import DirectoryStore

store, full = DirectoryStore(Path(sys.argv[1]) / "store"), 0
store.create("kept", b"kept")
for number in range(200):
    try:
        store.create(f"object {number}", bytes(100_000))
    except StoreFullError:
        full += 1
assert full, "the disk is not full"
assert store.read("kept").body == b"kept"
whole = [head for head in store.list("object").objects if head.size == 100_000]
assert len(whole) == 200 - full == len(store.list("object").objects)
for head in whole:
    store.delete(head.key)
store.create("after", bytes(100_000))
print("held")
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="mounting a small disk takes root"
)
def test_a_disk_that_is_full_is_usable_again_after_deletions(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=2m none {tmp_path}"
    tried = subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True)
    if tried.returncode:
        pytest.skip("this container may not mount a disk")
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    ran = subprocess.run(
        [*command, sys.executable, "-c", _ON_A_FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert (ran.stdout, ran.stderr) == ("held\n", "")
