"""Feed the readers of token files with damaged files; every one must be read or refused by us.

    python -m tests.dti_engine.artifacts.mutations --count 100000

prints a line per reader, and exits with 1 and the seed of the first input that let an error of
another type out. The fast tests run a few hundred inputs of the same sequence.
"""

import argparse
import io
import random
import re
import resource
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.exporters import convert
from dti_engine.artifacts.importers import exported_artifact, parse_foreign
from dti_engine.artifacts.manifest import ARTIFACT_KEY, ImportedOrigin
from dti_engine.artifacts.repacking import repack
from dti_engine.artifacts.sealed import write_checked
from dti_engine.errors import ArtifactError
from dti_engine.text.tokens import LearnedToken

NUMBERS = (0, 1, 2, 7, 8, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**64 - 1)
DTYPES = (b"F64", b"F32", b"F16", b"BF16", b"I64", b"U8", b"BOOL", b"F8_E4M3", b"C64", b"F4", b"X1")
OPCODES = b"()*.0123GJKMNQRXabcde]}qrst\x80\x81\x85\x86\x87\x88\x89\x8a\x8c\x94"


@dataclass
class Outcome:
    """The counts of inputs that a reader read and refused, its leaks, and the longest time."""

    read: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    leaks: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])


def _rows() -> torch.Tensor:
    return torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


def _pickled(content: Any, *, is_zip: bool) -> bytes:
    data = io.BytesIO()
    torch.save(content, data, _use_new_zipfile_serialization=is_zip)
    return data.getvalue()


def _contents() -> list[Any]:
    """Return what programs pickle: diffusers, A1111, the first Textual Inversion code, kohya."""
    rows = _rows()
    first_code = torch.nn.ParameterDict({"*": torch.nn.Parameter(rows)})
    return [
        {"<rex>": rows},
        {"string_to_token": {"*": 265}, "string_to_param": {"*": rows}, "name": "rex", "step": 7},
        {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": first_code},
        {"clip_l": rows, "clip_g": rows.clone()},
        torch.nn.Parameter(rows.half()),
    ]


def _artifacts() -> list[bytes]:
    origin = ImportedOrigin(format_name="comfyui", files={"rex.pt": "0" * 64}, pooling="eos")
    token = LearnedToken("<rex>", {"text_encoder": _rows(), "text_encoder_2": _rows()})
    return [Artifact.of(token, model="m", fingerprint="a" * 64, origin=origin).to_bytes()]


def _safetensors() -> list[bytes]:
    rows = _rows()
    return [
        safetensors.torch.save({"<rex>": rows}),
        safetensors.torch.save({"emb_params": rows.half()}, {"ss_steps": "100"}),
        safetensors.torch.save({"clip_l": rows, "clip_g": rows.clone()}),
    ]


def _exports() -> list[bytes]:
    (data,) = _artifacts()
    artifact = Artifact.from_bytes(data)
    return [*convert(artifact, Path("rex.safetensors"), "diffusers").contents.values(), data]


def damage(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Return the data with one to three faults of a transmission or of an attacker."""
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(_FAULTS)(data, others, rng)
    return data


def _flip(data: bytes, _: list[bytes], rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, _: list[bytes], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _splice(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    start, end = sorted(rng.randrange(len(other) + 1) for _ in range(2))
    place, after = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:place] + other[start:end] + data[after:]


def _repeat(data: bytes, _: list[bytes], rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[start:end] * rng.randint(1, 4) + data[end:]


def _number(data: bytes, _: list[bytes], rng: random.Random) -> bytes:
    """Replace a number: one of a JSON header, or 4 or 8 bytes anywhere."""
    found = list(re.finditer(rb"\d+", data[:2000]))
    number = rng.choice(NUMBERS)
    if found and rng.random() < 0.5:
        match = rng.choice(found)
        return data[: match.start()] + str(number).encode() + data[match.end() :]
    size, place = rng.choice((4, 8)), rng.randrange(len(data) + 1)
    packed = (number % 2 ** (8 * size)).to_bytes(size, "little")
    return data[:place] + packed + data[place + size :]


def _type(data: bytes, _: list[bytes], rng: random.Random) -> bytes:
    """Replace a type of numbers in a header, or an instruction of a pickle."""
    found = list(re.finditer(rb"\b(F32|F16)\b", data[:2000]))
    if found:
        match = rng.choice(found)
        return data[: match.start()] + rng.choice(DTYPES) + data[match.end() :]
    places = [place for place, byte in enumerate(data[:2000]) if byte in OPCODES]
    if not places:
        return data
    place = rng.choice(places)
    return data[:place] + bytes([rng.choice(OPCODES)]) + data[place + 1 :]


_FAULTS = (_flip, _truncate, _splice, _repeat, _number, _type)


def _damaged_header(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Damage the header of a safetensors file, or one of its parts, and correct its length."""
    if rng.random() < 0.3 or len(data) < 8:
        return damage(data, others, rng)
    size = int.from_bytes(data[:8], "little")
    header = damage(data[8 : 8 + size], [each[8:200] for each in others], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def _damaged_artifact(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Damage the manifest or the rows of an artifact, and correct its checksum."""
    if rng.random() < 0.3:
        return _damaged_header(data, others, rng)
    artifact = Artifact.from_bytes(data)
    text = artifact.manifest.model_dump_json().encode()
    rows = {name: rows.clone() for name, rows in artifact.token.embeddings.items()}
    if rng.random() < 0.8:
        text = damage(text, [text], rng)
    else:
        name = rng.choice(list(rows))
        rows[name].view(-1)[rng.randrange(16)] = rng.choice((0.0, 1e38, float("nan"), 2.0))
    return write_checked(ARTIFACT_KEY, text.decode("utf-8", "replace"), rows)


def _damaged_archive(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Damage an entry of a zip archive, and correct its checksum."""
    if rng.random() < 0.2:
        return damage(data, others, rng)
    entries: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            entries[name] = archive.read(name)
    names = list(entries)
    is_pickle = rng.random() < 0.8
    name = next(n for n in names if n.endswith("data.pkl")) if is_pickle else rng.choice(names)
    entries[name] = damage(entries[name], [*entries.values()], rng)
    changed = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    with zipfile.ZipFile(changed, "w", kind) as archive:
        for each, content in entries.items():
            archive.writestr(each, content)
    return changed.getvalue()


@dataclass(frozen=True)
class Reader:
    """A reader, its good files, and a way to damage them that reaches its inner checks."""

    read: Callable[[bytes], Any]
    samples: Callable[[], list[bytes]]
    damage: Callable[[bytes, list[bytes], random.Random], bytes]


READERS: Mapping[str, Reader] = {
    "artifact": Reader(Artifact.from_bytes, _artifacts, _damaged_artifact),
    "artifact without torch": Reader(
        lambda data: repack(data, Path("rex.safetensors"), "diffusers"),
        _artifacts,
        _damaged_artifact,
    ),
    "safetensors": Reader(parse_foreign, _safetensors, _damaged_header),
    "export": Reader(
        lambda data: exported_artifact(parse_foreign(data)), _exports, _damaged_header
    ),
    "archive of torch.save": Reader(
        parse_foreign,
        lambda: [_pickled(each, is_zip=True) for each in _contents()],
        _damaged_archive,
    ),
    "old pickle of torch.save": Reader(
        parse_foreign, lambda: [_pickled(each, is_zip=False) for each in _contents()], damage
    ),
}


def damaged(name: str, count: int, *, first: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (seed, damaged file) for a reader; the same seed always gives the same file."""
    reader = READERS[name]
    samples = reader.samples()
    for seed in range(first, first + count):
        rng = random.Random(seed)
        yield seed, reader.damage(rng.choice(samples), samples, rng)


def run(name: str, count: int, *, first: int = 0) -> Outcome:
    """Read so many damaged files; an error of another type than ours is a leak."""
    outcome = Outcome()
    for seed, data in damaged(name, count, first=first):
        started = time.perf_counter()
        try:
            READERS[name].read(data)
            outcome.read += 1
        except ArtifactError:
            outcome.refused += 1
        except Exception as error:
            outcome.leaks.append((seed, f"{type(error).__name__}: {error}"))
        outcome.slowest_s = max(outcome.slowest_s, time.perf_counter() - started)
    return outcome


def main() -> int:
    """Run every reader, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="damaged files for each reader")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--reader", choices=[*READERS], action="append")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    leaks = 0
    for name in options.reader or READERS:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome = run(name, options.count, first=options.first)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(
            f"{name}: {options.count} files, {outcome.read} read, {outcome.refused} refused, "
            f"{len(outcome.leaks)} leaks, slowest {1000 * outcome.slowest_s:.0f} ms, "
            f"memory grew by {grown / 1024:.0f} MiB",
            flush=True,
        )
        for seed, error in outcome.leaks[:10]:
            print(f"  seed {seed}: {error}")
        leaks += len(outcome.leaks)
    return min(leaks, 1)


if __name__ == "__main__":
    sys.exit(main())
