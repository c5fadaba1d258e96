"""The ComfyUI pack, loaded as ComfyUI loads it, and the one module of ComfyUI that it imports."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PACK = Path(__file__).parents[2] / "integrations/comfyui"


@pytest.fixture
def pack() -> Iterator[ModuleType]:
    """Load the folder by its path under a name that is none, as `load_custom_node` does."""
    name = "custom_nodes/dti"
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        for each in [key for key in sys.modules if key.startswith(name)]:
            del sys.modules[each]


@pytest.fixture
def nodes(pack: ModuleType) -> dict[str, Any]:
    """Return the node classes without the prefix of their names."""
    return {name.removeprefix("DTI"): node for name, node in pack.NODE_CLASS_MAPPINGS.items()}


@pytest.fixture
def embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that `folder_paths` of ComfyUI names."""
    folder = tmp_path / "embeddings"
    folder.mkdir()
    paths: Any = ModuleType("folder_paths")
    paths.get_folder_paths = lambda kind: [str(folder)] if kind == "embeddings" else []
    paths.get_filename_list = lambda kind: [
        str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()
    ]
    paths.get_full_path = lambda kind, name: (
        str(folder / name) if (folder / name).is_file() else None
    )
    monkeypatch.setitem(sys.modules, "folder_paths", paths)
    return folder
