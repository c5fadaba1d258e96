"""Ends at every step of every kind of write in turn, and looks at what is left.

python crashes.py FOLDER    prints the number of places at which it ended
"""

import os
import sys
from pathlib import Path

from services.errors import NotFoundError
from services.storage.directory import DirectoryStore

OLD, NEW = b"old" * 1000, b"new" * 1000
_STEPS = ("open", "os.link", "os.symlink", "os.remove", "os.chmod", "os.truncate", "os.mkdir")


def _write(store: DirectoryStore, kind: str, key: str) -> None:
    if kind == "create":
        store.create(key, NEW)
    elif kind == "replace":
        store.replace(key, NEW, expected=store.head(key).etag)
    else:
        store.delete(key)


def _ends_at(step: int, store: DirectoryStore, kind: str, key: str) -> bool:
    """Return whether the write ended early; it has as many steps as it takes for False."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = step

    def end(event: str, _: object) -> None:
        nonlocal left
        if event in _STEPS:
            left -= 1
            if left < 0:
                os._exit(9)

    sys.addaudithook(end)
    _write(store, kind, key)
    os._exit(0)


def main(folder: Path) -> None:
    places = 0
    for kind, before, after in (
        ("create", None, NEW),
        ("replace", OLD, NEW),
        ("delete", OLD, None),
    ):
        step, early = 0, True
        while early:
            store = DirectoryStore(folder)
            key = f"{kind}/{step}"
            if before is not None:
                for number in range(10 if kind == "replace" else 0):
                    store.put(key, b"%d" % number)  # so that a name is removed, too
                store.put(key, before)
            early = _ends_at(step, store, kind, key)
            try:
                there = DirectoryStore(folder).read(key).body
            except NotFoundError:
                there = None
            assert there in ((before, after) if early else (after,)), (kind, step, there)
            listed = {head.key: head.size for head in store.list(f"{kind}/").objects}
            assert listed.get(key) == (None if there is None else len(there)), (kind, step)
            store.put(key, b"goes on")
            assert store.read(key).body == b"goes on"
            store.delete(key)
            assert OLD not in [
                file.read_bytes() for file in (folder / "objects").rglob("0*") if file.is_file()
            ]
            places += early
            step += 1
    print(places)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
