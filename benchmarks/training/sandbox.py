"""The cost of the sandbox: loading a bundle through it, against unpacking and decoding in process.

    python -m benchmarks.training.sandbox [--images 5] [--side 1024] [--repeats 10] [--json FILE]

folder, zip     time of loading a bundle in the sandbox, as a ratio to the same bundle unpacked and
                decoded in this process. A folder takes one process, a zip takes two
per bundle      time that the sandbox adds to a bundle, as a ratio to decoding one of its images

The images are JPEG files of noise at the usual quality. The kinds take turns; shown are the median,
the minimum and the maximum. A worker loads the next subject while it trains the present ones, so
that this time is seen at the start of a run alone.
"""

import io
import statistics
import tempfile
import zipfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import BenchmarkParser, seconds, write_json
from dti_engine.images.bundles.bundle import load_bundle
from dti_engine.images.decode import decode_image


def write_bundles(folder: Path, num_images: int, side: int) -> dict[str, Path]:
    """Write a folder and a zip of the same images, and return their paths by kind."""
    paths = {"folder": folder / "rex", "zip": folder / "rex.zip"}
    paths["folder"].mkdir()
    with zipfile.ZipFile(paths["zip"], "w") as archive:
        for number in range(num_images):
            buffer = io.BytesIO()
            Image.effect_noise((side, side), 20 + number).convert("RGB").save(buffer, "JPEG")
            (paths["folder"] / f"{number}.jpg").write_bytes(buffer.getvalue())
            archive.writestr(f"{number}.jpg", buffer.getvalue())
    return paths


def load_in_process(path: Path) -> None:
    """Unpack and decode a bundle in this process, without any check."""
    if path.is_dir():
        files = {each.name: each.read_bytes() for each in path.iterdir()}
    else:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
    for name, data in files.items():
        decode_image(name, data)


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_argument("--images", type=int, default=5, help="of a bundle")
    parser.add_argument("--side", type=int, default=1024, help="of an image, in pixels")
    parser.add_argument("--repeats", type=int, default=10, help="of each kind")
    options = parser.parse_args()
    figures: dict[str, list[float]] = {"folder": [], "zip": [], "per bundle": []}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_bundles(Path(folder), options.images, options.side)
        for _ in range(options.repeats):
            for kind, path in paths.items():
                inside = seconds(lambda path=path: load_in_process(path))
                through = seconds(lambda path=path: load_bundle(path))
                figures[kind].append(through / inside)
                if kind == "folder":
                    figures["per bundle"].append((through - inside) / (inside / options.images))
    table = Table("", "median", "minimum", "maximum", title=f"{options.images} images")
    for name, values in figures.items():
        spread = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(f"{value:.2f}" for value in spread))
    Console().print(table)
    facts = {"images": options.images, "side": options.side}
    write_json(options.json, {**facts, "ratios": figures})


if __name__ == "__main__":
    main()
