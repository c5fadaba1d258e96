"""PNG files: those of generated images contain the settings that reproduce them. Loads no torch.

Each file has four statements beside its pixels: all settings as JSON, under the name `dti`; the
most common of them as A1111 writes them, under `parameters`, which A1111, ComfyUI and web sites
for images show; and the standard mark of a generated image, in XMP.

Source of `parameters`: A1111 modules/processing.py, create_infotext. Source of the mark: IPTC,
Digital Source Type vocabulary.
"""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dti_engine.errors import ArtifactFormatError
from dti_engine.files import atomic_write, unused_path

_SETTINGS = "dti"  # names of text chunks
_PARAMETERS = "parameters"
_SOFTWARE = "dti contact sheet"

_GENERATED = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about=""'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    " Iptc4xmpExt:DigitalSourceType="
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
    "</rdf:RDF></x:xmpmeta>"
)


def encode_image(image: Image.Image, settings: Mapping[str, Any]) -> bytes:
    """Return a PNG with its settings, and with the standard mark of a generated image."""
    chunks = PngInfo()
    chunks.add_text(_SETTINGS, json.dumps(settings))
    if "prompt" in settings:
        chunks.add_text(_PARAMETERS, a1111_parameters(settings, image.size))
    # Uncompressed and under this name, where readers of XMP look for it.
    chunks.add_itxt("XML:com.adobe.xmp", _GENERATED)
    file = io.BytesIO()
    image.save(file, format="PNG", pnginfo=chunks)
    return file.getvalue()


def plain_png(image: Image.Image) -> bytes:
    """Return a PNG without settings, such as a contact sheet."""
    chunks = PngInfo()
    chunks.add_text("Software", _SOFTWARE)
    file = io.BytesIO()
    image.save(file, format="PNG", pnginfo=chunks)
    return file.getvalue()


def is_plain_png(data: bytes) -> bool:
    """Return whether `plain_png` made this file."""
    return f"Software\0{_SOFTWARE}".encode() in data[:200]


def is_generated_png(data: bytes) -> bool:
    """Return whether `encode_image` made this file; its first bytes are enough."""
    # Right after the header of a PNG, which has 33 bytes: length, kind and name of the first text.
    return data[37:41] == b"tEXt" and data[41:].startswith(f"{_SETTINGS}\0".encode())


def save_image(image: Image.Image, path: Path, settings: Mapping[str, Any]) -> None:
    """Write the PNG of `encode_image`. Raises: OutputError if it cannot be written."""
    atomic_write(path, encode_image(image, settings))


def add_image(image: Image.Image, path: Path, settings: Mapping[str, Any]) -> Path:
    """Write the PNG of `encode_image` beside any other image of that name, and return its path.

    Raises: OutputError if it cannot be written.
    """
    return add_png(encode_image(image, settings), path, settings)


def add_png(png: bytes, path: Path, settings: Mapping[str, Any]) -> Path:
    """Write a PNG with these settings as `add_image` does. Raises: OutputError."""
    path = unused_path(path, lambda found: _has_settings(found, settings))
    atomic_write(path, png)
    return path


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a file. Raises: ArtifactFormatError if there are none."""
    try:
        with Image.open(path) as image:
            return json.loads(image.info[_SETTINGS])
    except (OSError, KeyError, ValueError) as cause:
        raise ArtifactFormatError(
            f"{path} holds no settings; give a PNG file as the engine wrote it, not edited since"
        ) from cause


def a1111_parameters(settings: Mapping[str, Any], size: tuple[int, int]) -> str:
    """Return the settings as A1111 writes them; size: (width, height) in pixels.

    Its line of fields begins at the last line break, and a value with a comma, colon or line break
    is quoted as JSON.
    """
    tokens: Mapping[str, Any] = settings.get("tokens") or {}
    hashes = {
        placeholder.strip("<>"): str(origin["sha256"])[:10]
        for placeholder, origin in tokens.items()
        if isinstance(origin, Mapping) and "sha256" in origin
    }
    fields = {
        "Steps": settings.get("steps"),
        "Sampler": settings.get("sampler"),
        "CFG scale": settings.get("guidance"),
        "Seed": settings.get("seed"),
        "Size": f"{size[0]}x{size[1]}",
        "Model": settings.get("model"),
        "TI hashes": ", ".join(f"{name}: {digest}" for name, digest in hashes.items()) or None,
        "Version": f"dti {settings['engine_version']}" if "engine_version" in settings else None,
    }
    known = [f"{name}: {_quoted(value)}" for name, value in fields.items() if value is not None]
    lines = [str(settings["prompt"])]
    if negative := settings.get("negative_prompt"):
        lines.append(f"Negative prompt: {negative}")
    return "\n".join([*lines, ", ".join(known)])


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def _has_settings(path: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether a file is this image already, whatever version of the engine wrote it."""
    try:
        found = read_settings(path)
    except ArtifactFormatError:
        return False
    # Through JSON, where a tuple becomes a list.
    expected = json.loads(json.dumps(settings))
    version = {"engine_version": ""}
    return found | version == expected | version
