"""Atomic file writes that replace nothing of others, and the environment that results come from.

Every file that users keep is written by `atomic_write`; tests/architecture/test_house.py finds
other ways. A command first checks its outputs by `require_separate` and `require_replaceable`.
"""

import os
import platform
import secrets
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from dti_engine import __version__
from dti_engine.errors import ConfigurationError, OutputError

if TYPE_CHECKING:
    import torch

RUN_LOG = "run.jsonl"
"""The log in the output folder of a run, by which the folder is known as one."""

_PACKAGES = ("torch", "diffusers", "transformers", "tokenizers", "numpy", "pillow")


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old content or the new content, never a part.

    Missing folders are created.

    Raises: OutputError if the file cannot be written; no temporary file stays behind.
    """
    # In the same folder: `replace` is atomic only within one file system.
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Exclusive: a file or symbolic link that is already there under this name is an error.
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                # Without it, a power loss after the rename could leave an empty file.
                os.fsync(file.fileno())
            # The folder itself is not synced: after a power loss the old file may be back, but
            # whole.
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror}") from error


def require_separate(
    outputs: Iterable[Path], inputs: Iterable[Path], *, may_be_within: bool = False
) -> None:
    """Refuse outputs that would change an input: the same file, or a place in an input folder.

    Files are compared and not names, since links, `..` and capitals lead to one file too. A folder
    of inputs is given as it is: a new file in it would be read as an input by the next command,
    unless readers know it as an output (`may_be_within`).

    Raises: ConfigurationError.
    """
    sources = [source.expanduser() for source in inputs]
    for output in outputs:
        for source in sources:
            if _is_same(output, source):
                raise ConfigurationError(
                    f"the output {str(output)!r} is the input {str(source)!r}, which would be "
                    "lost; give another --output"
                )
            if may_be_within:
                continue
            if any(_is_same(parent, source) for parent in output.absolute().resolve().parents):
                raise ConfigurationError(
                    f"the output {str(output)!r} lies in the input folder {str(source)!r}, where "
                    "the next run would take it for an input; give an --output outside of it, "
                    f"such as --output {source.resolve().parent / output.name}"
                )


def require_replaceable(
    path: Path, is_own: Callable[[bytes], bool], *, force: bool | None = None
) -> None:
    """Refuse to replace a file, unless `is_own` says of its content that nothing is lost.

    force: the value of the command's option --force, if it has one.

    Raises: ConfigurationError if it would be lost; OutputError if it cannot be read.
    """
    if force or not path.is_file():
        return
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OutputError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if not is_own(data):
        raise ConfigurationError(
            f"{str(path)!r} is there already, with other content that would be lost; give another "
            "--output" + ("" if force is None else ", or --force to replace it")
        )


def is_generated_page(data: bytes) -> bool:
    """Return whether a file is a page that this package has written."""
    return b'<meta name="generator" content="dti">' in data


def unused_path(path: Path, is_own: Callable[[Path], bool]) -> Path:
    """Return the path, or NAME-2, NAME-3, ... if a file is there that `is_own` does not accept."""
    candidate, number = path, 1
    while candidate.exists() and not is_own(candidate):
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate


def _is_same(a: Path, b: Path) -> bool:
    try:
        # Also for names that differ in capitals, where the file system ignores those.
        return a.resolve() == b.resolve() or a.samefile(b)
    except OSError:  # one of them does not exist
        return False


def environment(device: "torch.device", **more: object) -> dict[str, str]:
    """Return package versions, the kind of machine and `more` facts, as text.

    Nothing identifies the machine itself, as results are published.
    """
    import torch  # not at the top: the command line writes files without torch

    named = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "dti_engine": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        **{name: str(fact).removeprefix("torch.") for name, fact in more.items()},
        "device": f"{device.type} ({named})",
        "CPU cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }
