"""The RSGD step alone: the fused step against a plain loop over rows and against geoopt.

    python -m benchmarks.training.rsgd_step [--json FILE] [--rows 16 64 512] [--dim 768]

fused        RiemannianSGD.step on one [rows, d] parameter: one pass on CPU, one launch on CUDA
plain        reference_step, row by row
geoopt       geoopt's RiemannianSGD.step on one [rows, d] ManifoldParameter, which is its best case.
             It does less: no prior, no normalisation, no check for zero gradients, no metrics
geoopt, DTI  the same step, given the unit tangent after the prior, so that it takes the same step

The unit is time per step, as a ratio to `fused`: medians of n = 15 repeats (--repeats). All forms
take turns in every repeat, so that a busy machine slows them alike. Microseconds are shown on CUDA
only.
"""

import statistics
import time
import warnings
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.command_line import BenchmarkParser, write_json
from dti_engine.optim import sphere, vmf
from dti_engine.optim.optimizer import RiemannianSGD
from dti_engine.optim.rsgd import reference_step

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # geoopt 0.5.1 calls torch.jit.script
    import geoopt

LR, KAPPA = 0.01, 1e-4


def forms(rows: int, dim: int, device: str) -> dict[str, Callable[[], object]]:
    """Return the forms by name; one call takes one step, always with the same gradient."""
    random = torch.Generator().manual_seed(0)
    v, gradient = torch.randn(2, rows, dim, generator=random).to(device)
    v = sphere.normalize(v)
    mu = v.clone()

    fused = torch.nn.Parameter(v.clone())
    fused.grad = gradient.clone()
    fused_optimizer = RiemannianSGD([fused], lr=LR, mu=mu, kappa=KAPPA)

    point = geoopt.ManifoldParameter(v.clone(), manifold=geoopt.Sphere())
    point.grad = gradient.clone()
    geoopt_optimizer = geoopt.optim.RiemannianSGD([point], lr=LR)

    def geoopt_as_dti() -> None:
        tangent = sphere.to_tangent(point.detach(), gradient + vmf.gradient(mu, KAPPA))
        point.grad = tangent / sphere.length(tangent)
        geoopt_optimizer.step()

    def plain() -> Tensor:
        steps = zip(v, gradient, mu, strict=True)
        return torch.stack([reference_step(*row, LR, KAPPA)[0] for row in steps])

    return {
        "fused": fused_optimizer.step,
        "plain": plain,
        "geoopt": geoopt_optimizer.step,
        "geoopt, DTI": geoopt_as_dti,
    }


def seconds(step: Callable[[], object], calls: int, device: str) -> float:
    """Return the seconds per call, averaged over `calls`, from an idle device to an idle device."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        step()
    synchronize()
    return (time.perf_counter() - start) / calls


def measure(rows: int, dim: int, device: str, repeats: int) -> dict[str, float]:
    """Return the median seconds per step of each form, from interleaved repeats."""
    steps = forms(rows, dim, device)
    calls = {name: 1 if name == "plain" else 20 for name in steps}
    for name in steps:  # the first calls compile and import
        seconds(steps[name], calls[name], device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            times[name].append(seconds(step, calls[name], device))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64, 512])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = torch.cuda.get_device_name() if device == "cuda" else "CPU"

    others = ("plain", "geoopt", "geoopt, DTI")
    table = Table("rows", title=f"one step of \\[rows, {options.dim}] float32 on {machine}")
    for column in (*(f"{name} / fused" for name in others), *(["fused, us"] * (device == "cuda"))):
        table.add_column(column, justify="right")
    results: list[dict[str, float]] = []
    for rows in options.rows:
        median = measure(rows, options.dim, device, options.repeats)
        result: dict[str, float] = {"rows": rows}
        result |= {f"{name} / fused": round(median[name] / median["fused"], 2) for name in others}
        if device == "cuda":
            result["fused, us on this machine"] = round(1e6 * median["fused"], 1)
        results.append(result)
        table.add_row(*(f"{value:g}" for value in result.values()))
    Console().print(table)
    report = {"dim": options.dim, "device": machine, "results": results}
    write_json(options.json, report)


if __name__ == "__main__":
    main()
