"""Files of tensors from anywhere, opened without running anything that they hold.

safetensors has only numbers. A pickle is opened with torch's restricted loader, which rejects
everything but tensors and plain values, and only after a look at its instructions and its archive:
a few hundred bytes could otherwise take minutes or gigabytes.
"""

import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from dti_engine.artifacts.file_kinds import describe_other, file_kind, header_size
from dti_engine.artifacts.sealed import load_tensors, read_metadata
from dti_engine.errors import ArtifactFormatError

MAX_BYTES: Final = 16 * 2**20
"""A token of 75 vectors of SDXL has 0.6 MB; LoRAs and checkpoints have more than this."""

_MAX_INSTRUCTIONS = 10_000  # of a pickle; a token's has about 100
# Of a pickle's tuples; a token's has 5 per tensor. Each one may hold the one before twice, and the
# time to hash the last one doubles with each.
_MAX_TUPLES = 24
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_OLD_PICKLES = (
    5  # that torch wrote one after the other: magic number, version, system, object, keys
)
_MAX_ENTRIES = 1000  # of a zip archive; a token's has about 6


class ParameterDictState:
    """A stand-in for `torch.nn.ParameterDict`: the attributes that a file gives it, and no code.

    The files of A1111's early versions and of the first Textual Inversion code have this class.
    Which attributes it has depends on the version of torch that wrote the file.
    """

    def parameters(self) -> Mapping[Any, Any]:
        """Return name -> parameter; empty if the file says nothing sensible."""
        found = vars(self).get("_parameters")
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class TensorFile:
    """The content of a file: tensors or plain values, and the text entries of its header."""

    content: Any
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


def read_tensor_file(data: bytes) -> TensorFile:
    """Return the content of a file, whatever its name says.

    Raises: ArtifactFormatError if it is no file of tensors, is damaged, too large for a token, or
        holds more than tensors and plain values.
    """
    if len(data) > MAX_BYTES:
        raise ArtifactFormatError(
            f"larger than {MAX_BYTES} bytes: a LoRA or a checkpoint, but not a token"
        )
    match file_kind(data):
        case "safetensors":
            return read_safetensors(data)
        case "zip":
            return TensorFile(_guarded(_load_archive, data))
        case "pickle":
            return TensorFile(_guarded(_load_old_pickle, data))
        case None:
            raise ArtifactFormatError(describe_other(data))


def read_safetensors(data: bytes) -> TensorFile:
    """Return the tensors of a safetensors file. Raises: ArtifactFormatError."""
    if file_kind(data) != "safetensors":
        raise ArtifactFormatError(f"not a safetensors file, but {_described(data)}")
    expected = 8 + header_size(data)
    if len(data) < expected:
        raise ArtifactFormatError(
            f"a safetensors file that is cut off: it has {len(data)} bytes, and its header alone "
            f"has {expected}; download it again"
        )
    return TensorFile(_guarded(load_tensors, data), read_metadata(data))


def _described(data: bytes) -> str:
    kind = file_kind(data)
    return (
        f"a {kind} as torch.save writes it; `dti import` makes a token of an embedding"
        if kind
        else describe_other(data)
    )


def _guarded(load: Callable[[bytes], Any], data: bytes) -> Any:
    """Return `load(data)`. Raises: ArtifactFormatError for every error of the library."""
    try:
        return load(data)
    except ArtifactFormatError:
        raise
    except pickle.UnpicklingError as error:
        raise ArtifactFormatError(
            "a pickle that is damaged, or that holds more than tensors and plain values and could "
            "run code; convert it to safetensors with the program that wrote it"
        ) from error
    # The libraries promise no list of errors for damaged files, and the file is a stranger's.
    except Exception as error:
        raise ArtifactFormatError(
            f"damaged or cut off ({type(error).__name__}: {str(error)[:200]}); download it again, "
            "or save it again as safetensors"
        ) from error


def _load_archive(data: bytes) -> Any:
    """Return the object in a zip archive of `torch.save`."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1 or len(set(names)) < len(names):
            raise ArtifactFormatError(
                f"a zip archive of {', '.join(names)[:200] or 'nothing'}, and not a file of "
                "torch.save: unpack it, and give the file of the token"
            )
        is_plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not is_plain or len(entries) > _MAX_ENTRIES:
            raise ArtifactFormatError("a zip archive that torch.save did not write: unpack it")
        contents = {name: archive.read(name) for name in names}
    _require_small(io.BytesIO(contents[pickles[0]]), 1)
    # Written again, since torch has a reader of its own, which could find other entries in it.
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return _unpickle(plain.getvalue())


def _load_old_pickle(data: bytes) -> Any:
    """Return the object in a file of `torch.save` before torch 1.6."""
    _require_small(io.BytesIO(data), _OLD_PICKLES)
    return _unpickle(data)


def _require_small(pickles: io.BytesIO, count: int) -> None:
    """Refuse pickles whose instructions are more than a token's, before they are followed."""
    num_instructions = num_tuples = 0
    for _ in range(count):
        for instruction, _, _ in pickletools.genops(pickles):
            num_instructions += 1
            num_tuples += instruction.name in _TUPLES
            if num_instructions > _MAX_INSTRUCTIONS or num_tuples > _MAX_TUPLES:
                raise ArtifactFormatError(
                    "it holds more than one token, such as a LoRA, a checkpoint or several tokens: "
                    "save the token alone, as safetensors"
                )


def _unpickle(data: bytes) -> Any:
    stand_in = (ParameterDictState, "torch.nn.modules.container.ParameterDict")
    with torch.serialization.safe_globals([stand_in]):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
