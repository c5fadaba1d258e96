"""What the names of devices and dtypes mean on this machine and on others."""

import pytest
import torch

from dti_engine.devices import find_device, find_dtype
from dti_engine.errors import ConfigurationError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == CPU


@pytest.mark.parametrize("name", ["cuda:99", "tpu"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{name}' cannot be used here"):
        find_device(name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_dtype_that_is_named_is_taken(dtype: torch.dtype) -> None:
    assert find_dtype(str(dtype).removeprefix("torch."), CPU) is dtype  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("instructions", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_f": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_is_bfloat16_on_a_cpu_that_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, instructions: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    assert find_dtype("auto", CPU) is dtype


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)]
)
def test_auto_is_bfloat16_on_a_gpu_since_ampere(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert find_dtype("auto", GPU) is dtype
