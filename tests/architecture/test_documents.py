"""Checks what the documents say about the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from PIL import Image
from pydantic import BaseModel

import services.settings
from dti_engine import backbones, recipes
from dti_engine.backbones.interface import Backbone
from dti_engine.images.bundles.schema import parse
from services.cli_app import app

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


_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")


def _strings(folder: str) -> Iterator[str]:
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def _options() -> set[str]:
    """Return the options of `dti`, the settings of the processes, and flags that stand alone."""
    found = set[str]()
    commands = [typer.main.get_command(app)]
    while commands:
        command = commands.pop()
        for parameter in command.params:
            found |= {*parameter.opts, *parameter.secondary_opts}
        commands += getattr(command, "commands", {}).values()
    settings = [each for each in vars(services.settings).values() if isinstance(each, type)]
    found |= {
        f"--{name.replace('_', '-')}"
        for model in settings
        if issubclass(model, BaseModel)
        for name in model.model_fields
    }
    # Options that argparse gets, and those of the programs that are started.
    parts = (*_strings("dti_engine"), *_strings("services"), *_strings("benchmarks"))
    return found | {part.rstrip("=") for part in parts if _OPTION.fullmatch(part.rstrip("="))}


def test_texts_name_options_that_exist() -> None:
    texts = [*_strings("dti_engine"), *_strings("services")]
    named = {option for text in texts for option in _OPTION.findall(text)}
    assert named - _options() == {"--local-dir"}  # of `hf download`


@pytest.mark.parametrize("folder", ["docs/how-to", "integrations"])
def test_documents_name_options_that_exist(folder: str) -> None:
    """Look at options in backticks alone: commands of other programs have theirs in blocks."""
    pages = {path: path.read_text() for path in (ROOT / folder).rglob("*.md")}
    known = _options()
    wrong = {
        (path.name, option)
        for path, text in pages.items()
        for span in re.findall(r"`(--[^`]+)`", text)
        for option in _OPTION.findall(span)
        if option not in known
    }
    assert wrong == set()
