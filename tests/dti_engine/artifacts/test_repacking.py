"""Exports without torch are the bytes of those with it."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.exporters import convert
from dti_engine.artifacts.programs import FAMILIES, takes
from dti_engine.artifacts.repacking import repack
from dti_engine.config import ExportFormat
from dti_engine.errors import ArtifactError, ArtifactFormatError

PATH = Path("rex.safetensors")


@pytest.fixture
def token_of(artifact_of: Callable[..., Artifact]) -> Callable[..., Artifact]:
    def make(widths: dict[str, int], count: int = 1) -> Artifact:
        return artifact_of({name: torch.randn(count, width) for name, width in widths.items()})

    return make


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("format_name", get_args(ExportFormat))
def test_the_files_are_those_of_the_exporter(
    token_of: Callable[..., Artifact], format_name: ExportFormat, family: object, count: int
) -> None:
    widths = dict(family.widths)
    artifact = token_of(widths, count)
    if not takes(format_name, widths):
        with pytest.raises(ArtifactError, match="does not take"):
            repack(artifact.to_bytes(), PATH, format_name)
        return
    found, expected = (
        repack(artifact.to_bytes(), PATH, format_name),
        convert(artifact, PATH, format_name),
    )
    assert found.contents == expected.contents
    assert (found.prompt_name, found.note) == (expected.prompt_name, expected.note)


def test_a_pickle_is_refused_with_what_to_do(token_of: Callable[..., Artifact]) -> None:
    data = token_of({"text_encoder": 768}).to_bytes()
    with pytest.raises(ArtifactFormatError, match=r"takes torch: end it in \.safetensors"):
        repack(data, Path("rex.pt"), "a1111")


def test_a_damaged_file_is_refused_and_nothing_else_happens(
    token_of: Callable[..., Artifact],
) -> None:
    data, draw = token_of({"text_encoder": 768}).to_bytes(), random.Random(1)
    contents = [b"", b"\0" * 8, b"12345678", b"\2\0\0\0\0\0\0\0{}", b"\xff" * 40, b"[" * 9000]
    for _ in range(500):
        content = bytearray(data[: draw.randrange(len(data))] if draw.random() < 0.5 else data)
        for _ in range(draw.randrange(1, 4)):
            if content:
                content[draw.randrange(min(len(content), 2000))] = draw.randrange(256)
        contents.append(bytes(content))
    refused = 0
    for content in contents:
        try:
            repack(content, PATH, "comfyui")
        except ArtifactError:
            refused += 1
    assert refused > 250


def test_it_loads_neither_torch_nor_numpy(token_of: Callable[..., Artifact]) -> None:
    code = (
        "import sys, json, pathlib; from dti_engine.artifacts.repacking import repack;"
        "data = sys.stdin.buffer.read();"
        "found = repack(data, pathlib.Path('rex.safetensors'), 'comfyui');"
        "print(json.dumps([found.prompt_name, [m for m in ('torch', 'numpy', 'safetensors')"
        " if m in sys.modules]]))"
    )
    data = token_of({"text_encoder": 768}).to_bytes()
    ran = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert json.loads(ran.stdout) == ["embedding:rex", []]
