"""A directory store between processes that are killed, and on file systems that cannot do it."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from services.errors import (
    AccessDeniedError,
    OutcomeUnknownError,
    PreconditionFailedError,
    StoreFullError,
    StoreRefusedError,
)
from services.storage import directory_paths as filesystem
from services.storage import directory_versions as versions
from services.storage.directory import DirectoryStore
from services.storage.directory_versions import KEPT

RIVALS = Path(__file__).with_name("rivals.py")
CRASHES = Path(__file__).with_name("crashes.py")


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def _files(store: DirectoryStore, pattern: str) -> list[Path]:
    return sorted(Path(store.url.removeprefix("file://")).glob(pattern))


@pytest.mark.parametrize("seed", [1, 2])
def test_of_many_processes_one_wins_though_some_are_killed(
    store: DirectoryStore, tmp_path: Path, seed: int
) -> None:
    sys.path.insert(0, str(RIVALS.parent))
    from rivals import sealed, unsealed

    sys.path.pop(0)
    store.create("chain", sealed({"nonces": []}))
    rng = random.Random(seed)
    journals: list[Path] = []
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        journals.append(tmp_path / f"{len(journals)}.jsonl")
        with journals[-1].open("wb") as file:
            command = [sys.executable, str(RIVALS), str(tmp_path / "store")]
            command.append(str(1000 * seed + len(journals)))
            running.append(subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE))

    for _ in range(6):
        start()
    began, errors = time.monotonic(), list[bytes]()

    def enough() -> bool:
        wins = sum(journal.read_bytes().count(b'"won"') for journal in journals)
        return time.monotonic() > began + (5 if wins > 200 else 60)

    while not enough():
        time.sleep(rng.uniform(0.02, 0.3))
        victim = running.pop(rng.randrange(len(running)))
        if rng.random() < 0.3:
            victim.send_signal(signal.SIGSTOP)
            time.sleep(rng.uniform(0.02, 0.3))
            victim.send_signal(signal.SIGCONT)
            running.append(victim)
        else:
            victim.kill()
            errors.append(victim.communicate()[1])
            start()
    for process in running:
        process.kill()
        errors.append(process.communicate()[1])
    assert errors == [b""] * len(errors)

    lines: list[dict[str, Any]] = []
    for journal in journals:
        # The last line may have been cut by the kill.
        lines += [
            json.loads(line) for line in journal.read_text().splitlines(True) if line[-1] == "\n"
        ]
    begun = {(line["key"], line["nonce"]) for line in lines if line["done"] == "begun"}
    won = [line for line in lines if line["done"] == "won"]
    assert len(won) > 200

    numbers = Counter((line["key"], line["etag"]) for line in won)
    assert set(numbers.values()) == {1}, "two writers were told of the same version"
    winners = {line["key"]: line["nonce"] for line in won if line["key"].startswith("once/")}
    assert len(winners) == sum(line["key"].startswith("once/") for line in won)
    for head in store.list("once/").objects:
        nonce = unsealed(store.read(head.key).body)["nonce"]
        assert winners.get(head.key, nonce) == nonce
        assert (head.key, nonce) in begun
    assert winners.keys() <= {head.key for head in store.list("once/").objects}

    chain = unsealed(store.read("chain").body)["nonces"]
    assert len(set(chain)) == len(chain) == int(store.head("chain").etag) - 1
    assert all(("chain", nonce) in begun for nonce in chain)
    for line in won:
        if line["key"] == "chain":
            assert chain[int(line["etag"]) - 2] == line["nonce"]


def test_a_crash_at_any_step_leaves_the_old_or_the_new_object(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(CRASHES), str(tmp_path / "store")], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 40


@pytest.mark.parametrize("kind", ["write", "delete"])
@pytest.mark.parametrize("later", [1, KEPT - 1, KEPT, KEPT + 1, 5 * KEPT])
@pytest.mark.parametrize("earlier", [0, 3])
def test_a_writer_that_was_paused_never_wins(
    store: DirectoryStore, tmp_path: Path, earlier: int, later: int, kind: str
) -> None:
    """Its version's number may have been removed meanwhile, and is free again."""
    for number in range(earlier):
        store.put("a", b"earlier %d" % number)
    (folder,) = _files(store, "objects/a=") if earlier else [tmp_path / "store/objects/a="]
    seen = versions.newest(folder)
    for number in range(later):
        store.put("a", b"later %d" % number)
    file = tmp_path / "stale"
    file.write_bytes(b"stale")
    assert versions.append(folder, seen, file if kind == "write" else None) is None
    assert store.read("a").body == b"later %d" % (later - 1)
    assert store.head("a").etag == str(earlier + later)
    store.put("a", b"goes on")
    assert store.read("a").body == b"goes on"


def test_an_etag_does_not_come_back_after_a_deletion(store: DirectoryStore) -> None:
    etag = store.create("a", b"first")
    store.delete("a")
    store.create("a", b"first")
    with pytest.raises(PreconditionFailedError):
        store.replace("a", b"stale", expected=etag)


def test_overwritten_and_deleted_objects_leave_no_bytes(store: DirectoryStore) -> None:
    etag = store.create("a", b"secret")
    store.replace("a", b"another", expected=etag)
    store.create("b", b"secret")
    store.delete("b")
    assert [file.read_bytes() for file in _files(store, "objects/a=/*")] == [b"", b"another"]
    assert [file.read_bytes() for file in _files(store, "objects/b=/*1")] == [b""]
    assert _files(store, "temporary/*") == []


def test_deleting_again_removes_bytes_that_a_killed_process_left(store: DirectoryStore) -> None:
    store.create("a", b"secret")
    (folder,) = _files(store, "objects/a=")
    (folder / f"{2:016d}").symlink_to("deleted")  # as it does first
    assert (folder / f"{1:016d}").read_bytes() == b"secret"
    store.delete("a")
    assert (folder / f"{1:016d}").read_bytes() == b""


def test_few_names_are_kept_of_many_versions(store: DirectoryStore) -> None:
    for number in range(50):
        store.put("a", b"%d" % number)
    assert len(_files(store, "objects/a=/*")) == KEPT


def test_a_reader_that_was_overtaken_reads_again(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("a", b"first")
    honest = versions.read

    def overtaken(*arguments: Any) -> bytes:
        monkeypatch.setattr(versions, "read", honest)
        store.put("a", b"second, longer")
        return honest(*arguments)

    monkeypatch.setattr(versions, "read", overtaken)
    found = store.read("a")
    assert (found.body, found.head.size, found.head.etag) == (b"second, longer", 14, "2")


def test_files_of_killed_writers_are_swept_after_an_hour(store: DirectoryStore) -> None:
    (folder,) = _files(store, "temporary")
    for name, age in (("young", 3500), ("old", 3700)):
        (folder / name).write_bytes(b"half an obj")
        os.utime(folder / name, (time.time() - age,) * 2)
    DirectoryStore(folder.parent)
    assert [file.name for file in _files(store, "temporary/*")] == ["young"]


def test_all_names_that_lead_to_a_version_are_on_disk_before_it(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(store.url.removeprefix("file://"))
    synced: list[str] = []
    honest = versions.sync_folder

    def sync(folder: Path) -> None:
        honest(folder)
        synced.append(str(folder.relative_to(root)))

    monkeypatch.setattr(versions, "sync_folder", sync)
    store.create("a/b/c", b"")
    assert synced == [".", "objects", "objects/a", "objects/a/b", "objects/a/b/c="]
    synced.clear()
    store.create("a/b/d", b"")
    assert synced == ["objects/a/b", "objects/a/b/d="]
    synced.clear()
    store.create("a/e/f", b"")
    assert synced == ["objects/a", "objects/a/e", "objects/a/e/f="]
    synced.clear()
    store.put("a/e/f", b"")
    assert synced == ["objects/a/e/f="]


@pytest.mark.parametrize("write", ["create", "put", "replace"])
def test_the_bytes_of_a_version_are_on_disk_before_its_name(
    store: DirectoryStore, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    etag = store.create("a", b"old") if write != "create" else ""
    synced = dict[int, int]()  # inode -> bytes that were on disk
    honest_sync, honest_append = os.fsync, versions.append

    def sync(descriptor: int) -> None:
        honest_sync(descriptor)
        status = os.fstat(descriptor)
        synced[status.st_ino] = status.st_size

    def append(folder: Path, seen: Any, file: Path | None) -> int | None:
        assert file
        assert synced[file.stat().st_ino] == 3
        return honest_append(folder, seen, file)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(versions, "append", append)
    {
        "create": lambda: store.create("a", b"new"),
        "put": lambda: store.put("a", b"new"),
        "replace": lambda: store.replace("a", b"new", expected=etag),
    }[write]()
    assert store.read("a").body == b"new"


def test_two_stores_on_one_directory_share_its_objects(store: DirectoryStore) -> None:
    other = DirectoryStore(Path(store.url.removeprefix("file://")))
    etag = store.create("a", b"first")
    assert other.read("a").head.etag == etag
    other.delete_if("a", expected=etag)
    assert store.list().objects == ()


def test_a_full_disk_changes_nothing(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store.create("a", b"first")
    monkeypatch.setattr(os, "link", full)
    with pytest.raises(StoreFullError, match=r"No space left.*nothing was changed: free space"):
        store.put("a", b"second")
    assert store.read("a").body == b"first"
    assert _files(store, "temporary/*") == []


def test_a_disk_that_fails_in_the_end_leaves_it_unknown(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    store.create("a", b"first")
    monkeypatch.setattr(versions, "sync_folder", broken)
    with pytest.raises(OutcomeUnknownError, match="read before"):
        store.put("a", b"second")


def test_a_folder_that_may_not_be_written_is_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(AccessDeniedError, match="see its owner"):
        DirectoryStore(tmp_path / "store")


@pytest.mark.parametrize(
    ("function", "named"),
    [("link", "hard links"), ("symlink", "symbolic links"), ("fsync", "fsync")],
)
def test_a_file_system_that_cannot_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, named: str
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, function, missing)
    with pytest.raises(StoreRefusedError, match=f"{named}.*give a folder of a local disk"):
        DirectoryStore(tmp_path / "store")
    monkeypatch.undo()
    assert list((tmp_path / "store/temporary").iterdir()) == []


def test_a_file_system_that_overwrites_by_link_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overwrite(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(os, "link", overwrite)
    with pytest.raises(StoreRefusedError, match="lets a link replace a file"):
        DirectoryStore(tmp_path / "store")


def test_a_file_system_without_modes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    with pytest.raises(StoreRefusedError, match="keeps no modes"):
        DirectoryStore(tmp_path / "store")


def test_a_file_system_of_several_hosts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = f"1 2 0:3 / / rw - ext4 disk rw\n4 1 0:5 / {tmp_path} rw shared:1 - nfs4 host:/ rw\n"
    monkeypatch.setattr(filesystem, "_MOUNTS", tmp_path / "mounts")
    (tmp_path / "mounts").write_text(mounts)
    with pytest.raises(StoreRefusedError, match="it is on nfs4"):
        DirectoryStore(tmp_path / "store")
    (tmp_path / "mounts").write_text(mounts.replace("nfs4", "xfs"))
    DirectoryStore(tmp_path / "store").create("a", b"")
