"""Images, and one set of files as a folder, a zip or a tar."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Files = Mapping[str, bytes]
Pack = Callable[[str, Files], Path]


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    """png(seed, width=64, height=48) -> a PNG file of broad, coloured noise."""

    def make(seed: int = 0, width: int = 64, height: int = 48, **options: Any) -> bytes:
        pixels = np.random.default_rng(seed).integers(256, size=(6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        buffer = BytesIO()
        image.save(buffer, **({"format": "PNG"} | options))
        return buffer.getvalue()

    return make


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """pack("folder" | "zip" | "tar" | "tar.gz", files) -> path of a bundle with these files."""

    def make(form: str, files: Files) -> Path:
        path = tmp_path / ("rex" if form == "folder" else f"rex.{form}")
        if form == "folder":
            for name, data in files.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(data)
        elif form == "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, data in files.items():
                    archive.writestr(name, data)
        else:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as archive:
                for name, data in files.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
            data = buffer.getvalue()
            path.write_bytes(gzip.compress(data) if form == "tar.gz" else data)
        return path

    return make
