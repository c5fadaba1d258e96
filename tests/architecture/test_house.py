"""The house rules on names, docstrings, handlers and sizes: a name that drifts fails a test."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("dti_engine", "services")
TOOLS = ("benchmarks", "helm", "deploy")
"""Folders beside the packages whose Python files keep the rules on names, English and sizes too."""

PATTERN_NAMES = {
    "__init__.py",
    "__main__.py",
    "build.py",
    "errors.py",
    "factory.py",
    "interface.py",
    "metrics.py",
    "routes.py",
    "schemas.py",
    "session.py",
    "settings.py",
}
"""File names that say which part of a pattern a file is; they may stand in any folder."""

FRAGMENTS = set(
    [
        "Of",
        "For",
        "In",
        "By",
        "As",
        "With",
        "To",
        "From",
        "Those",
        "Whoever",
        "What",
        "Which",
        "Who",
        "Why",
        "How",
        "Whether",
        "That",
        "Once",
        "Till",
        "Until",
        "Not",
        "No",
        "It",
        "They",
        "All",
        "Each",
        "One",
    ]
)
"""Words that begin a docstring whose subject or verb is missing."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _modules(folders: tuple[str, ...]) -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


MODULES = _modules(PACKAGES)
ALL_MODULES = MODULES | _modules(TOOLS)
ALL_TREES = {name: ast.parse(path.read_text()) for name, path in ALL_MODULES.items()}
TREES = {name: ALL_TREES[name] for name in MODULES}


def _definitions() -> Iterator[tuple[str, Definition]]:
    for name, tree in ALL_TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, Definition):
                yield name, node


def test_a_file_name_stands_in_two_folders_at_most() -> None:
    folders: dict[str, set[str]] = defaultdict(set)
    for path in MODULES.values():
        # A module of a command line is called as its command: `dti jobs` is in cli/jobs.py.
        if path.name not in PATTERN_NAMES and path.parent.name != "cli":
            folders[path.name].add(str(path.parent.relative_to(ROOT)))
    assert {name: sorted(found) for name, found in folders.items() if len(found) > 2} == {}


@pytest.mark.parametrize("package", PACKAGES + TOOLS)
def test_a_class_name_stands_once_in_a_package(package: str) -> None:
    modules: dict[str, list[str]] = defaultdict(list)
    for module, node in _definitions():
        # The client mirrors the API's resources under the same names, as these mirror the ledger's.
        in_package = module.startswith(f"{package}.") and not module.startswith("services.client.")
        if in_package and isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            modules[node.name].append(module)
    assert {name: found for name, found in modules.items() if len(found) > 1} == {}


def test_docstrings_are_whole_sentences() -> None:
    docstrings = [
        (f"{module}.{node.name}", text)
        for module, node in _definitions()
        if (text := ast.get_docstring(node))
    ]
    fragments = [name for name, text in docstrings if text.split()[0] in FRAGMENTS]
    assert len(fragments) < 0.03 * len(docstrings), fragments


def _caught(handler: ast.ExceptHandler) -> set[str]:
    """Return the names of the caught classes; a bare `except` catches every BaseException."""
    if handler.type is None:
        return {"BaseException"}
    return {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}


def _keeps_traceback(handler: ast.ExceptHandler) -> bool:
    """Return whether the handler itself logs the traceback, or raises the error or a cause of it.

    A function that the error is passed to does not count: what it does is not seen here.
    """
    for node in ast.walk(handler):
        if isinstance(node, ast.Raise) and (node.exc is None or node.cause is not None):
            return True
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if name in ("exception", "set_exception"):
                return True
            if any(keyword.arg == "exc_info" for keyword in node.keywords):
                return True
    return False


HANDLERS = [
    (f"{module}:{node.lineno}", node)
    for module, tree in ALL_TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.ExceptHandler)
]
EDGES = [(place, node) for place, node in HANDLERS if "Exception" in _caught(node)]
CLEANUPS = [(place, node) for place, node in HANDLERS if "BaseException" in _caught(node)]


def test_no_handler_of_every_exception_loses_the_traceback() -> None:
    assert [place for place, handler in EDGES if not _keeps_traceback(handler)] == []


def test_every_handler_of_interrupts_raises_them_again() -> None:
    raises = {place for place, handler in CLEANUPS if any(map(_is_bare_raise, handler.body))}
    assert {place for place, _ in CLEANUPS} == raises


def _is_bare_raise(node: ast.stmt) -> bool:
    return isinstance(node, ast.Raise) and node.exc is None


def test_few_handlers_catch_every_exception() -> None:
    # Each stands at the edge of a thread, a task, a process or a library.
    assert len(EDGES) <= 17, [place for place, _ in EDGES]
    assert len(CLEANUPS) <= 4, [place for place, _ in CLEANUPS]


WRITERS = {
    "dti_engine.files": "is the one way to write a file",
    "dti_engine.cli.run_log": "appends lines to a log",
    "dti_engine.evaluation.store": "appends lines to a log",
    "dti_engine.devices": "resets a counter of the kernel",
    "dti_engine.miniature.training.loop": "has libraries write large files, then renames them",
    "services.client.config": "writes a private file, then renames it",
    "services.local.processes": "opens the log of a process",
    "services.local.service": "copies logs",
    "services.logs": "opens the output of another process",
    "services.storage.directory": "creates objects once, as the store's contract demands",
    "services.storage.directory_clock": "creates a file once for all processes",
    "services.storage.directory_paths": "probes a file system",
    "services.training.loader": "fills a temporary folder of its own",
}
"""Modules that write files by other ways than `files.atomic_write`, and why."""


def _writes_a_file(call: ast.Call) -> bool:
    """Return whether a call writes to a path by a way that could leave a torn file."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    values = [*call.args, *(each.value for each in call.keywords)]
    match name:
        case "write_bytes" | "write_text":
            return True
        case "open" | "fdopen":
            modes = [each.value for each in values if isinstance(each, ast.Constant)]
            return any(re.fullmatch(r"[wxa][bt+]*", str(mode)) for mode in modes)
        case "save" | "savefig" | "save_file" | "dump":
            # An image, an array or a figure that is saved to `folder / name`, not to a buffer.
            # `Artifact.save` calls `atomic_write`.
            saved = ast.unparse(call.func).removesuffix(".save")
            return not saved.endswith("artifact") and any(
                isinstance(each, ast.BinOp | ast.JoinedStr) for each in values
            )
        case _:
            return False


def test_files_are_written_by_atomic_write() -> None:
    found = {
        f"{module}:{node.lineno}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and module not in WRITERS and _writes_a_file(node)
    }
    assert found == set()


@pytest.mark.parametrize(
    "source",
    [
        'path.write_text("x")',
        'open(path, "w")',
        'path.open(mode="xb")',
        'image.save(folder / "a.png")',
        'json.dump(x, open(path, "a"))',
    ],
)
def test_every_other_way_to_write_a_file_is_found(source: str) -> None:
    assert any(
        _writes_a_file(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)
    )


def test_a_small_module_has_more_than_one_importer() -> None:
    importers: dict[str, set[str]] = defaultdict(set)
    for module, tree in ALL_TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for name in (node.module, *(f"{node.module}.{each.name}" for each in node.names)):
                    if name.partition(".")[0] == module.partition(".")[0]:
                        importers[name].add(module)
    small = [
        module
        for module, path in ALL_MODULES.items()
        if path.name not in ("__init__.py", "__main__.py")
        # The program alone imports its commands, and the app its routes.
        and path.parent.name != "cli"
        and "APIRouter" not in path.read_text()
        and len(path.read_text().splitlines()) < 60
        and len(importers[module]) == 1
    ]
    assert small == []


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in ALL_MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_few_functions_are_longer_than_60_lines() -> None:
    long: dict[str, int] = {}
    for module, node in _definitions():
        if isinstance(node, ast.ClassDef):
            continue
        first = node.body[0]
        has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        documented = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
        length = (node.end_lineno or 0) - node.lineno + 1 - documented
        if length > 60:
            long[f"{module}.{node.name}"] = length
    assert len(long) <= 3, long


def test_subjects_of_contracts_are_ten_at_most() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert len(re.findall(r"^\[\[tool\.importlinter\.contracts\]\]$", text, re.M)) <= 10
