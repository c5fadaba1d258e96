"""`dti doctor`: what this machine can do, and the next command."""

import os
import platform
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from dti_engine import __version__
from dti_engine.cli import options
from dti_engine.cli.console import installed_extras, print_json, quiet_libraries, results
from dti_engine.domains import DOMAINS, ModelDomain

if TYPE_CHECKING:
    import torch

EXAMPLES = (
    "dti doctor",
    "dti doctor --json",
)

_MAX_SLOTS = 64  # more are never faster, see `dti train --slots auto`


@dataclass(frozen=True)
class ModelFit:
    """A fit says whether, and with how many subjects, this machine can train one model."""

    name: str
    learns_photographs: bool
    slots: int
    """Subjects that fit at a time; 0: not even one with --recompute. Counted, not measured."""
    needs_recompute: bool
    is_cached: bool
    licence: str
    page: str | None


@dataclass(frozen=True)
class Machine:
    """A machine holds everything about the host that the commands depend on."""

    python: str
    system: str
    torch: str | None
    device: str | None
    free_bytes: int | None
    extras: dict[str, bool]
    has_hub_token: bool


def doctor(as_json: options.JsonOption = False) -> None:
    """Show what this machine can do: device, memory, models that fit, and the next command.

    It tells whether a token of the Hub is set, and never prints it. Nothing is downloaded or
    loaded. How many subjects fit at a time is counted from the models' shapes and not measured;
    [cyan]dti train[/] measures it.
    """
    quiet_libraries(downloading=False)
    machine = _machine()
    fits = [_fit(domain, machine.free_bytes) for domain in DOMAINS.values()]
    command = next_command(machine, fits)
    if as_json:
        models = [asdict(each) for each in fits]
        print_json({**asdict(machine), "dti": __version__, "models": models, "next": command})
        return
    results.print(_facts(machine))
    results.print(_models(fits))
    results.print(f"Next: [cyan]{escape(command)}[/]", soft_wrap=True)


def next_command(machine: Machine, fits: list[ModelFit]) -> str:
    """Return the command that comes next: an extra, a download, or the training of photographs."""
    if not machine.extras.get("engine"):
        return "pip install 'dti[engine]'"
    photographs = [each for each in fits if each.learns_photographs and each.slots]
    # On a CPU a real model takes hours per subject, so the miniature is what to try.
    if not photographs or machine.device in (None, "cpu"):
        return "dti demo"
    cached = [each for each in photographs if each.is_cached]
    if not cached:
        best = next((each for each in photographs if each.name == "sdxl"), photographs[0])
        return f"dti models fetch {best.name}"
    best = next((each for each in cached if each.name == "sdxl"), cached[0])
    recompute = " --recompute" if best.needs_recompute else ""
    return f"dti train photos/rex --model {best.name}{recompute} --initializer dog --output tokens"


def _machine() -> Machine:
    device: str | None = None
    version: str | None = None
    free: int | None = None
    if find_spec("torch"):
        import torch

        from dti_engine import devices

        found = devices.find_device("auto")
        version, device, free = torch.__version__, _device_name(found), devices.free_memory(found)
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        torch=version,
        device=device,
        free_bytes=free,
        extras=installed_extras(),
        has_hub_token=_has_hub_token(),
    )


def _device_name(device: "torch.device") -> str:
    import torch

    if device.type != "cuda":
        return str(device)
    return f"cuda, {torch.cuda.device_count()} x {torch.cuda.get_device_name(device)}"


def _has_hub_token() -> bool:
    if find_spec("huggingface_hub") is None:
        return bool(os.environ.get("HF_TOKEN"))
    from huggingface_hub import get_token

    return get_token() is not None


def _fit(domain: ModelDomain, free_bytes: int | None) -> ModelFit:
    slots, needs_recompute = count_slots(domain, free_bytes)
    return ModelFit(
        name=domain.name,
        learns_photographs=domain.learns_photographs,
        slots=slots,
        needs_recompute=needs_recompute,
        is_cached=not domain.hub_ids or _is_cached(domain.hub_ids),
        licence=domain.licence,
        page=f"https://huggingface.co/{domain.hub_ids[0]}" if domain.hub_ids else None,
    )


def count_slots(domain: ModelDomain, free_bytes: int | None) -> tuple[int, bool]:
    """Return how many subjects fit into memory, and whether only --recompute makes one fit.

    Nothing is known without a device: 0. Every further subject takes what the first takes beside
    the weights; since the table has no weights alone, a first subject's whole memory is taken for
    each, so that the number is a lower bound.
    """
    if free_bytes is None:
        return 0, False
    if domain.training_bytes is None or domain.recompute_bytes is None:
        return _MAX_SLOTS, False
    needs_recompute = free_bytes < domain.training_bytes
    step = domain.recompute_bytes if needs_recompute else domain.training_bytes
    slots = min(_MAX_SLOTS, free_bytes // step)
    return slots, needs_recompute and slots > 0


def _is_cached(hub_ids: tuple[str, ...]) -> bool:
    """Return whether the index of a model is in the cache of the Hub; asks nobody."""
    if find_spec("huggingface_hub") is None:
        return False
    from huggingface_hub import try_to_load_from_cache

    return any(
        isinstance(try_to_load_from_cache(each, "model_index.json"), str) for each in hub_ids
    )


def _facts(machine: Machine) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    extras = [name for name, is_installed in machine.extras.items() if is_installed]
    free = "unknown" if machine.free_bytes is None else f"{machine.free_bytes / 1e9:.1f} GB free"
    facts: dict[str, Any] = {
        "dti": f"{__version__}, Python {machine.python}, {machine.system}",
        "torch": machine.torch or "not installed",
        "device": machine.device or "unknown",
        "memory": free,
        "extras": ", ".join(extras) or "none",
        "Hub token": "set" if machine.has_hub_token else "not set: `hf auth login`, or HF_TOKEN",
    }
    for name, value in facts.items():
        table.add_row(f"[dim]{name}[/]", str(value))
    return table


def _models(fits: list[ModelFit]) -> Table:
    caption = (
        "subjects: that fit at a time, at least, as counted. Read the licence on the page of the "
        "model, and accept its terms there if it asks: `dti models` has the id."
    )
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, caption=caption, caption_justify="left")
    for heading in ("model", "learns", "subjects", "cached", "licence"):
        table.add_column(heading, overflow="fold")
    for each in fits:
        slots = (
            f"{each.slots}"
            + (" or more" if each.slots == _MAX_SLOTS else "")
            + (" with --recompute" if each.needs_recompute else "")
        )
        table.add_row(
            each.name,
            "photographs" if each.learns_photographs else "drawings",
            slots if each.slots else "does not fit",
            "yes" if each.is_cached else "no",
            each.licence,
        )
    return table
