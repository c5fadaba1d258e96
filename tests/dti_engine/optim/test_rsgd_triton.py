"""The Triton step against the plain one: on CUDA where there is a device, else interpreted on CPU.

Triton decides whether to interpret when it is imported. So without a device the tests that launch
the kernel run in a pytest process of their own, started by the first test here.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from dti_engine.optim import rsgd_triton as rsgd
from dti_engine.optim import sphere
from dti_engine.optim.rsgd import RunningNorm, StepReport, step_rows_, vectorized_step_

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = torch.finfo(torch.float32).eps
ROWS = 6

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
launches = pytest.mark.skipif(
    not INTERPRETED and DEVICE == "cpu", reason="runs in the interpreter, in its own process"
)


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(INTERPRETED or DEVICE == "cuda", reason="launches run in this process")
def test_launches_pass_in_the_interpreter() -> None:
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-k",
            "test_kernel_ and not compiles",
            __file__,
        ],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def rows(seed: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Directions, gradients of many sizes, prior means."""
    random = torch.Generator().manual_seed(seed)
    v, mu, gradient = torch.randn(3, ROWS, dim, generator=random).to(DEVICE)
    sizes = torch.logspace(-6, 3, ROWS, device=DEVICE).unsqueeze(-1)
    return sphere.normalize(v), sizes * gradient, sphere.normalize(mu)


def running_norm() -> RunningNorm:
    seen = torch.linspace(0, 4, ROWS, device=DEVICE)
    return RunningNorm(seen.square(), seen / (1 + seen), 0.9)


def kernel_step_(
    v: Tensor,
    gradient: Tensor,
    mu: Tensor,
    lr: float | Tensor,
    kappa: float | Tensor = 0.0,
    running: RunningNorm | None = None,
    active: Tensor | None = None,
) -> StepReport:
    """Run the kernel under the signature of `vectorized_step_`, on any device."""
    floor = 16 * EPS, torch.finfo(torch.float32).tiny ** 0.5
    return StepReport(*rsgd.step_rows_(v, gradient, mu, lr, kappa, running, active, floor))


@needs_triton
@launches
@pytest.mark.parametrize("dim", [2, 5, 768, 1280])
def test_kernel_equals_the_plain_step_to_the_stated_rounding(dim: int) -> None:
    v, gradient, mu = rows(dim, dim)
    plain, fused = v.clone(), v.clone()
    expected = vectorized_step_(plain, gradient, mu, 0.04, 1e-3)
    report = kernel_step_(fused, gradient, mu, 0.04, 1e-3)
    raw = sphere.length(gradient - 1e-3 * mu)
    stated = 4 * EPS * (1 + 0.04 * raw / expected.tangent_norm.unsqueeze(-1))
    assert bool(((fused - plain).abs() <= stated).all())
    assert torch.allclose(report.data_norm, expected.data_norm, rtol=4 * EPS, atol=0)
    assert torch.allclose(report.step_length, expected.step_length, rtol=4 * EPS, atol=0)
    tangent_error = (report.tangent_norm - expected.tangent_norm).abs()
    assert bool((tangent_error <= 4 * EPS * raw.squeeze(-1)).all())


@needs_triton
@launches
@pytest.mark.parametrize("dim", [5, 768])
def test_kernel_takes_every_option_per_row(dim: int) -> None:
    v, gradient, mu = rows(dim, dim)
    lr = torch.linspace(0.001, 0.1, ROWS, device=DEVICE)
    kappa = torch.logspace(-4, 0, ROWS, device=DEVICE)
    active = torch.tensor([True, False, True, True, False, True], device=DEVICE)
    plain, fused, plain_norm, fused_norm = v.clone(), v.clone(), running_norm(), running_norm()
    expected = vectorized_step_(plain, gradient, mu, lr, kappa, plain_norm, active)
    report = kernel_step_(fused, gradient, mu, lr, kappa, fused_norm, active)
    assert float((fused - plain).abs().max()) <= 4 * EPS
    for a, b in zip((*report, *fused_norm[:2]), (*expected, *plain_norm[:2]), strict=True):
        assert torch.allclose(a, b, rtol=8 * EPS, atol=0)
    assert torch.equal((fused != v).any(-1), active)


@needs_triton
@launches
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, under the interpreter
def test_kernel_leaves_rows_alone_that_must_not_move() -> None:
    v, gradient, _ = rows(0, 768)
    gradient[1] = 7.5 * v[1]
    gradient[2] = 0
    gradient[3, 700] = torch.nan
    gradient[4, 0] = 1e30
    moves = torch.tensor([True, False, False, False, False, True], device=DEVICE)
    fused, norm = v.clone(), running_norm()
    report = kernel_step_(fused, gradient, v, 0.04, 1e-4, norm)
    assert torch.equal((fused != v).any(-1), moves)
    assert torch.equal(norm.weight != running_norm().weight, moves)
    assert torch.equal(report.step_length > 0, moves)
    assert not bool(torch.isfinite(report.tangent_norm[3:5]).any())


@needs_triton
@launches
def test_kernel_reads_strided_rows_and_expanded_arguments() -> None:
    v, gradient, mu = rows(3, 40)
    storage = torch.zeros(ROWS, 64, device=DEVICE)
    fused = storage[:, 8:48]
    fused.copy_(v)
    constant = torch.tensor(0.04, device=DEVICE).expand(ROWS)
    gradient, mu = gradient[0].expand(ROWS, 40), mu[0].expand(ROWS, 40)
    kernel_step_(fused, gradient, mu, constant, constant, None, constant > 0)
    vectorized_step_(v, gradient, mu, 0.04, 0.04)
    assert float((fused - v).abs().max()) <= 4 * EPS
    assert not bool(storage[:, :8].any() or storage[:, 48:].any())


@needs_triton
@launches
def test_kernel_tells_autograd_that_the_rows_changed() -> None:
    v, gradient, mu = rows(0, 8)
    version = v._version  # pyright: ignore[reportPrivateUsage]
    kernel_step_(v, gradient, mu, 0.04)
    assert v._version > version  # pyright: ignore[reportPrivateUsage]


@needs_triton
# Triton builds nodes of Python's syntax tree in a way that Python 3.13 warns about.
@pytest.mark.filterwarnings("ignore:AnnAssign:DeprecationWarning")
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("per_row", [False, True])
def test_kernel_compiles_for_gpus_that_are_not_here(capability: int, per_row: bool) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_kernel

    kernel = rsgd._kernel  # pyright: ignore[reportPrivateUsage]
    constants = {"LR_PER_ROW": per_row, "KAPPA_PER_ROW": per_row, "BLOCK": 1024}
    types = dict.fromkeys(kernel.arg_names, "fp32") | dict.fromkeys(constants, "constexpr")
    types |= dict.fromkeys(["v_stride", "rows", "dim"], "i32")
    types |= {name: "*fp32" for name in types if name.endswith("_ptr")}
    if per_row:
        types |= {"lr": "*fp32", "kappa": "*fp32", "active_ptr": "*i1"}
    else:
        absent = dict.fromkeys(["active_ptr", "second_moment_ptr", "weight_ptr"])
        constants |= absent
        types |= dict.fromkeys(absent, "constexpr")
    compiled = compile_kernel(
        ASTSource(kernel, types, constexprs=constants),
        target=GPUTarget("cuda", capability, 32),
        options={"enable_fp_fusion": False},
    )
    assert "fma.rn.f32" not in compiled.asm["ptx"]


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="no CUDA device")
def test_step_rows_on_cuda_agrees_with_the_plain_step() -> None:
    v, gradient, mu = rows(1, 768)
    dispatched = v.clone()
    step_rows_(dispatched, gradient, mu, 0.04, 1e-4)
    vectorized_step_(v, gradient, mu, 0.04, 1e-4)
    assert float((dispatched - v).abs().max()) <= 4 * EPS


def test_module_can_be_imported_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    spec = importlib.util.spec_from_file_location("rsgd_without_triton", rsgd.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.available()
