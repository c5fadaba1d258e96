"""Write the requirement files of the images from pyproject.toml and constraints.txt.

`api.txt` has the base dependencies, `ray.txt` those and the extras, `torch.txt` torch alone in the
tested version, `versions.txt` the tested versions of packages that an image may have. All files are
in the working directory.
"""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

IMAGE_EXTRAS, TOOL_EXTRAS = ("engine", "ray", "heif"), ("dev", "docs")


def main() -> None:
    """Write the files."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    api, extras = project["dependencies"], project["optional-dependencies"]
    ray = api + [line for extra in IMAGE_EXTRAS for line in extras[extra]]
    tools = _names(line for extra in TOOL_EXTRAS for line in extras[extra]) - _names(ray)
    versions = [
        line
        for line in Path("constraints.txt").read_text().splitlines()
        if not line.startswith("#") and not _names([line]) & tools
    ]
    torch = [line for line in versions if _names([line]) == {"torch"}]
    files = {"api": api, "torch": torch, "ray": ray, "versions": versions}
    for name, lines in files.items():
        Path(f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def _names(requirements: Iterable[str]) -> set[str]:
    """Return the packages of requirements such as `ray[serve]>=2.60`."""
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in requirements}


if __name__ == "__main__":
    main()
