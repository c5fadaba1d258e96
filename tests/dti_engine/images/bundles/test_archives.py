"""Hostile folders and archives: each is rejected by name, and none does harm."""

import gzip
import io
import os
import random
import resource
import stat
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from dti_engine.errors import InvalidBundleError
from dti_engine.images.bundles.bundle import check_bundle, load_bundle, read_description
from dti_engine.images.bundles.members import BundleLimits
from dti_engine.images.bundles.unpacking import ARCHIVE_ERRORS, archive_members

LIMITS = BundleLimits(max_unpacked_bytes=20_000_000, max_archive_bytes=20_000_000)
MB = 10**6

Png = Callable[..., bytes]


def zip_of(
    *entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def tar_of(*entries: tuple[str | tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in entries:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            member.size = member.size or len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def unix_zip_entry(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (kind | 0o644) << 16
    return info


def tar_entry(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    assert len(old) == len(new)
    return data.replace(old, new)


def encrypted_zip() -> bytes:
    """Entries that only claim to be encrypted; who tries to read them is asked for a password."""
    data = bytearray(zip_of(("a.png", b"secret")))
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    return bytes(data)


def lying_zip(declared: int, num_bytes: int) -> bytes:
    """Return an entry of so many bytes that declares another number everywhere."""
    data = zip_of(("a.png", bytes(num_bytes)))
    old, new = struct.pack("<I", num_bytes), struct.pack("<I", declared)
    return data.replace(old, new)


def bomb(num_bytes: int) -> bytes:
    """Zeros, a thousand times smaller when gzipped; to tar, they are the end."""
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(bytes(MB)) for _ in range(num_bytes // MB)]
    return b"".join([*parts, packer.flush()])


def overlapping_zip(count: int, num_bytes: int) -> bytes:
    """Many entries that are one and the same stretch of the file."""
    data = zip_of(("a.png", bytes(num_bytes)))
    start = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    directory = data[start:end] * count
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), start, 0)
    return data[:start] + directory + tail


def giant_directory() -> bytes:
    """Return a zip whose end claims a table of contents of 2 GB."""
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 2**31, 0, 0)


def deep_headers_tar() -> bytes:
    """Return a long chain of headers that each say that the next has a longer name."""
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 1
    return (long_name.tobuf(tarfile.GNU_FORMAT) + b"a" + bytes(511)) * 3000


def declared_header(kind: bytes, declared: int, content: bytes = b"") -> bytes:
    """Return a gzipped tar that begins with an extended header of a declared size."""
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = kind, declared
    padded = header.tobuf(tarfile.GNU_FORMAT) + content.ljust(MB, b"x")
    return gzip.compress(padded)


def many_headers_tar() -> bytes:
    """Return headers that are each allowed, and of 2 MB in total."""
    pax = {"comment": "x" * 10_000}
    entries = [tar_entry(f"{number}", tarfile.REGTYPE) for number in range(200)]
    for entry in entries:
        entry.pax_headers = pax
    return gzip.compress(tar_of(*((entry, b"") for entry in entries)))


def tar_of_size(field: bytes) -> bytes:
    """Return an entry whose header has this in the field of its size, 12 bytes long."""
    header = bytearray(tar_of(("a.png", b"a"))[:512])
    header[124:136] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


ZIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "traversal": (lambda: zip_of(("../a.png", b"")), "'../a.png': its name leads out"),
    "deep traversal": (lambda: zip_of(("m/../../a.png", b"")), "leads out"),
    "hidden traversal": (lambda: zip_of((".git/../../a", b"")), "leads out"),
    "absolute": (lambda: zip_of(("/etc/a.png", b"")), "'/etc/a.png': its name is absolute"),
    "drive": (lambda: zip_of(("C:/a.png", b"")), "its name is absolute"),
    "share": (lambda: zip_of(("\\\\host\\a.png", b"")), "its name is absolute"),
    "backslash": (lambda: zip_of(("m\\..\\a.png", b"")), "its name has a backslash"),
    "nul": (lambda: patched(zip_of(("aXb.png", b"")), b"aXb", b"a\0b"), "control character"),
    "escape": (lambda: zip_of(("\x1b[2Ja.png", b"")), r"'\\x1b[2Ja.png': its name has"),
    "no name": (lambda: patched(zip_of(("X", b"")), b"X", b"\0"), "'\\\\x00': its name has"),
    "turned writing": (lambda: zip_of(("a\u202egnp.png", b"")), "a control character"),
    "empty part": (lambda: zip_of(("a//b.png", b"")), "an empty part"),
    "long name": (lambda: zip_of(("a" * 300 + ".png", b"")), "more than 255 bytes"),
    "too deep": (lambda: zip_of(("m/" * 20 + "a.png", b"")), "or 8 parts"),
    "not UTF-8": (
        lambda: patched(zip_of(("aXb.png", b"")), b"aXb", b"a\xffb"),
        "its name is not valid UTF-8",
    ),
    "not UTF-8, though it says so": (
        lambda: patched(zip_of(("\u00e4.png", b"")), b"\xc3\xa4", b"\xff\xff"),
        "not valid UTF-8",
    ),
    "case": (lambda: zip_of(("a.png", b"x"), ("A.PNG", b"y")), "the same file as 'a.png'"),
    "symlink": (
        lambda: zip_of((unix_zip_entry("a.png", stat.S_IFLNK), b"/etc/passwd")),
        "'a.png': a symbolic link",
    ),
    "device": (lambda: zip_of((unix_zip_entry("a.png", stat.S_IFCHR), b"")), "neither a file"),
    "encrypted": (encrypted_zip, "'a.png': encrypted"),
    "bzip2": (
        lambda: zip_of(("a.png", bytes(MB)), method=zipfile.ZIP_BZIP2),
        "'a.png': compressed by an unusual method",
    ),
    "nested zip": (lambda: zip_of(("a.zip", zip_of())), "'a.zip': an archive within"),
    "disguised zip": (lambda: zip_of(("a.png", zip_of(("b", b"b")))), "an archive within"),
    "disguised tar": (lambda: zip_of(("a.png", tar_of(("b", b"b")))), "an archive within"),
    "bomb": (lambda: zip_of(("a.png", bytes(60 * MB))), "'a.png': larger than 50 MB"),
    "many small bombs": (
        lambda: zip_of(*((f"{i}.png", bytes(10 * MB)) for i in range(5))),
        "its files have more than 20 MB",
    ),
    "overlapping bombs": (lambda: overlapping_zip(900, MB), "same file as 'a.png'"),
    "declares too little": (lambda: lying_zip(10, 3 * MB), "'a.png': cannot be read"),
    "declares too much": (lambda: lying_zip(2**31, 10), "'a.png': larger than 50 MB"),
    "too many": (lambda: zip_of(*((f"{i}", b"") for i in range(1001))), "more than 1000"),
    "giant table of contents": (giant_directory, "its table of contents is larger"),
    "cut short": (lambda: zip_of(("a.png", bytes(100)))[:-30], "a damaged zip file"),
    "no zip": (lambda: b"hello", "a damaged zip file"),
    "empty": (lambda: b"", "a damaged zip file"),
    "damaged data": (
        lambda: patched(
            zip_of(("a.png", b"hello world"), method=zipfile.ZIP_STORED), b"world", b"World"
        ),
        "'a.png': cannot be read",
    ),
}

TARS: dict[str, tuple[Callable[[], bytes], str]] = {
    "traversal": (lambda: tar_of(("../a.png", b"")), "'../a.png': its name leads out"),
    "absolute": (lambda: tar_of(("/a.png", b"")), "its name is absolute"),
    "symlink": (
        lambda: tar_of((tar_entry("a.png", tarfile.SYMTYPE, "/etc/passwd"), b"")),
        "'a.png': a link",
    ),
    "hard link": (lambda: tar_of((tar_entry("a.png", tarfile.LNKTYPE, "b"), b"")), "a link"),
    "device": (lambda: tar_of((tar_entry("a.png", tarfile.CHRTYPE), b"")), "neither a file"),
    "pipe": (lambda: tar_of((tar_entry("a.png", tarfile.FIFOTYPE), b"")), "neither a file"),
    "not UTF-8": (
        lambda: tar_of(("a\udcffb.png", b""), form=tarfile.GNU_FORMAT),
        r"'a\\udcffb.png': its name is not valid UTF-8",
    ),
    "twice": (lambda: tar_of(("a.png", b"x"), ("a.png", b"y")), "the same file as 'a.png'"),
    "nested": (lambda: tar_of(("a.png", tar_of(("b", b"b")))), "an archive within"),
    "nested gzip": (lambda: tar_of(("a.png", gzip.compress(b"b"))), "an archive within"),
    "large": (lambda: tar_of(("a.png", bytes(21 * MB))), "larger than 20 MB"),
    "bomb": (lambda: bomb(300 * MB), "no images"),
    "bomb in a tar": (
        lambda: gzip.compress(tar_of(("a.png", bytes(40 * MB)))),
        "its files have more than 20 MB",
    ),
    "bomb as padding": (
        lambda: gzip.compress(tar_of((".hidden", bytes(60 * MB)))),
        "unpacks to more than",
    ),
    "too many": (lambda: tar_of(*((f"{i}", b"") for i in range(1001))), "more than 1000"),
    "cut short": (lambda: tar_of(("a.png", bytes(9999)))[:5000], "cannot be read"),
    "endless header chain": (deep_headers_tar, "a damaged tar file"),
    # A reader that seeks would go round for ever; one that skips would read on and on at the end.
    "negative size": (lambda: tar_of_size(b"\xff" * 8 + b"\xff\xff\xfc\0"), "damaged tar file"),
    "endless size": (lambda: tar_of_size(b"\x80" + b"\x7f" * 11), "'a.png': larger than 50 MB"),
    "endless hidden size": (
        lambda: tar_of_size(b"\x80" + b"\x7f" * 11).replace(b"a.png", b".apng"),
        "damaged tar file",
    ),
    "giant pax header": (
        lambda: declared_header(tarfile.XHDTYPE, 480 * MB),
        "its extended headers have more than 1 MB",
    ),
    "giant global header": (
        lambda: declared_header(tarfile.XGLTYPE, 480 * MB),
        "its extended headers have more than 1 MB",
    ),
    "giant long name": (
        lambda: declared_header(tarfile.GNUTYPE_LONGNAME, 480 * MB),
        "its extended headers have more than 1 MB",
    ),
    "giant long link": (
        lambda: declared_header(tarfile.GNUTYPE_LONGLINK, 480 * MB),
        "its extended headers have more than 1 MB",
    ),
    "long name within the limit": (
        lambda: declared_header(tarfile.GNUTYPE_LONGNAME, 900_000),
        "a damaged tar file",
    ),
    "many headers": (many_headers_tar, "its extended headers have more than 1 MB"),
    "sparse": (
        lambda: declared_header(tarfile.GNUTYPE_SPARSE, 480 * MB),
        "it holds a sparse file; pack it in full",
    ),
    "no tar": (lambda: b"hello" * 1000, "a damaged tar file"),
    "empty": (lambda: b"", "a damaged tar file"),
    "half a gzip": (
        lambda: gzip.compress(tar_of(("a.png", os.urandom(9999))))[:5000],
        "a damaged tar file",
    ),
}


def refusal(path: Path) -> str:
    """Return the refusals, which must come fast and with little memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    with pytest.raises(InvalidBundleError) as error:
        load_bundle(path, limits=LIMITS)
    read_description(path, limits=LIMITS)
    assert time.monotonic() - start < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB
    message = str(error.value)
    assert max(map(len, message.splitlines())) < 400  # a path, or a finding
    assert message.replace("\n", "").isprintable()
    return message


@pytest.mark.parametrize("case", ZIPS)
def test_a_hostile_zip_is_rejected_by_name(case: str, tmp_path: Path) -> None:
    make, reason = ZIPS[case]
    path = tmp_path / "rex.zip"
    path.write_bytes(make())
    assert reason in refusal(path)


@pytest.mark.parametrize("case", TARS)
def test_a_hostile_tar_is_rejected_by_name(case: str, tmp_path: Path) -> None:
    make, reason = TARS[case]
    data = make()
    path = tmp_path / ("rex.tar.gz" if data[:2] == b"\x1f\x8b" else "rex.tar")
    path.write_bytes(data)
    assert reason in refusal(path)


def _link(folder: Path) -> None:
    (folder / "a.png").symlink_to("/etc/passwd")


def _linked_folder(folder: Path) -> None:
    (folder / "m").symlink_to("/etc")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "a.png")


def _not_utf8(folder: Path) -> None:
    (folder / os.fsdecode(b"a\xff.png")).write_bytes(b"")


def _case(folder: Path) -> None:
    for name in ("a.png", "A.png"):
        (folder / name).write_bytes(name.encode())


def _archive(folder: Path) -> None:
    (folder / "more.zip").write_bytes(zip_of(("a.png", b"")))


def _many(folder: Path) -> None:
    for i in range(1001):
        (folder / f"{i}.png").touch()


def _deep(folder: Path) -> None:
    (folder / "/".join("abcdefghij")).mkdir(parents=True)


def _large(folder: Path) -> None:
    with (folder / "a.png").open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk


FOLDERS = {
    "link": (_link, "'a.png': a symbolic link"),
    "linked folder": (_linked_folder, "'m': a symbolic link"),
    "pipe": (_pipe, "'a.png': neither a file nor a folder"),
    "not UTF-8": (_not_utf8, "its name is not valid UTF-8"),
    "case": (_case, "'a.png': means the same file as 'A.png'"),
    "archive": (_archive, "'more.zip': an archive within"),
    "too many": (_many, "more than 1000 entries"),
    "too deep": (_deep, "or 8 parts"),
    "large": (_large, "'a.png': larger than 50 MB"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_hostile_folder_is_rejected_by_name(case: str, tmp_path: Path) -> None:
    make, reason = FOLDERS[case]
    make(tmp_path)
    assert reason in refusal(tmp_path)


def test_a_file_that_is_no_archive_is_rejected(tmp_path: Path) -> None:
    for name in ("rex.rar", "rex.tar.bz2", "rex"):
        (tmp_path / name).write_bytes(b"hello")
        assert "neither a folder nor one of .zip, .tar, .tar.gz" in refusal(tmp_path / name)
    assert "does not exist" in refusal(tmp_path / "nowhere.zip")


def test_a_large_archive_is_not_even_opened(tmp_path: Path) -> None:
    with (tmp_path / "rex.zip").open("wb") as file:
        file.truncate(2**40)
    assert "larger than 20 MB; pack fewer" in refusal(tmp_path / "rex.zip")


def test_valid_images_beside_a_hostile_member_are_still_loaded(tmp_path: Path, png: Png) -> None:
    path = tmp_path / "rex.zip"
    path.write_bytes(zip_of(("../a.png", b""), ("b.png", png(0)), ("c.png", b"no image")))
    bundle = check_bundle(path)
    assert [each.name for each in bundle.images] == ["b.png"]
    assert [each.name for each in bundle.errors] == ["../a.png", "c.png"]


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
def test_damage_anywhere_is_rejected_or_harmless(form: str) -> None:
    names = ("rex/a.png", "rex/ä.png", "x" * 90, "l" * 150, "rex/bundle.json")
    entries = [(name, b"hello" * 20) for name in names]
    whole = {"zip": zip_of(*entries), "tar": tar_of(*entries)}.get(form)
    data = gzip.compress(tar_of(*entries)) if whole is None else whole
    randomly = random.Random(0)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(randomly.choice((1, 2, 8))):
            start = randomly.randrange(len(damaged))
            piece = randomly.choice((b"\0", b"\xff", b"\xff" * 4, b"", randomly.randbytes(1)))
            damaged[start : start + randomly.choice((len(piece), 1))] = piece
        # In this process, as the errors would not be seen in another one.
        members = archive_members(io.BytesIO(damaged), "zip" if form == "zip" else "tar", LIMITS)
        with suppress(*ARCHIVE_ERRORS, InvalidBundleError, RuntimeError):
            for member in members:
                if not member.rejection and not member.is_folder:
                    member.open().read(1000)


def test_nothing_is_ever_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    path = tmp_path / "rex.zip"
    path.write_bytes(zip_of(("../escaped.png", b"x"), ("good.png", b"y")))
    monkeypatch.chdir(tmp_path / "inner")
    check_bundle(path)
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["inner", "rex.zip"]
