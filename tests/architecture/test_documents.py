"""Checks what the documents say about the code."""

import ast
import re
from pathlib import Path

import pytest
from PIL import Image

from dti_engine import backbones, recipes
from dti_engine.backbones.interface import Backbone
from dti_engine.images.bundles.schema import parse

ROOT = Path(__file__).parents[2]


def _names(path: Path) -> set[str]:
    """Top-level names of a module, and `Class.attribute` for methods, fields and `self.x`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names.add(node.name)
            for child in ast.walk(node):
                if isinstance(child, ast.FunctionDef):
                    names.add(f"{node.name}.{child.name}")
                elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
                    names.add(f"{node.name}.{child.target.id}")
                elif isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Store):
                    names.add(f"{node.name}.{child.attr}")
    return names


def _glossary() -> list[tuple[str, str]]:
    rows = re.findall(
        r"^\|.*\| `([\w.]+)` \| `([\w./]+)` \|$",
        (ROOT / "docs/explanation/method.md").read_text(),
        re.M,
    )
    assert len(rows) > 10
    return rows


@pytest.mark.parametrize(("name", "file"), _glossary())
def test_a_name_of_the_glossary_exists_in_its_file(name: str, file: str) -> None:
    assert name in _names(ROOT / file)


def _words() -> list[tuple[str, str, str]]:
    rows = re.findall(
        r"^\| ([^|`]+) \|[^|]+\| (?:`(\w+)` in )?`([\w./]+)` \|$",
        (ROOT / "docs/reference/glossary.md").read_text(),
        re.M,
    )
    assert len(rows) > 40
    return rows


@pytest.mark.parametrize(("word", "name", "file"), _words())
def test_a_word_of_the_glossary_has_its_place_in_the_code(word: str, name: str, file: str) -> None:
    path = ROOT / file
    assert path.exists(), word
    if name:
        assert re.search(rf"\b{name}\b", path.read_text()), word


def test_the_readme_fits_on_one_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_the_code_of_the_readme_runs(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos" / "rex"
    folder.mkdir(parents=True)
    Image.linear_gradient("L").save(folder / "rex.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backbones, "load_backbone", lambda _: tiny_backbone)
    short = recipes.recipe("miniature").changed(steps=2, resolution=16)
    monkeypatch.setattr(recipes, "recipe", lambda _: short)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    names: dict[str, object] = {}
    exec(code, names)
    assert isinstance(names["image"], Image.Image)


def test_documents_link_to_files_that_exist() -> None:
    broken: list[str] = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            generated = target.endswith(("openapi.md", "commands.md"))  # by docs/hooks
            if not generated and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_the_example_of_a_bundle_is_accepted() -> None:
    (example,) = re.findall(
        r"```json\n(.*?)```", (ROOT / "docs/how-to/bundles.md").read_text(), re.S
    )
    description, refusals = parse(example.encode())
    assert refusals == []
    assert description.initializer == "dog"
    assert description.masks == {"masks/sofa.png"}
