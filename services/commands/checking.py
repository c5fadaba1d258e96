"""Bundles, judged here before anything is sent: as the service will, but at once."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dti_engine.commands.subjects import Plan
from dti_engine.commands.terminal import warn
from dti_engine.errors import DTIError, SubjectError
from services.commands.bars import counting

if TYPE_CHECKING:
    from services.client.parcels import Parcel

_MANY = 20  # warnings; more are not said one by one
_AT_ONCE = min(4, os.cpu_count() or 1)  # each has a process that decodes


@dataclass(frozen=True, slots=True)
class Checked:
    """A bundle that can be sent."""

    plan: Plan
    kind: str | None  # that bundle.json gives
    parcel: "Parcel"
    warnings: Sequence[str]


def check(plans: Sequence[Plan]) -> tuple[list[Checked], dict[str, DTIError]]:
    """Those that can be sent, and by name what is wrong with the others. Warnings are said."""
    checked, refused = list[Checked](), dict[str, DTIError]()
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        with counting("checking", len(plans)) as advance:
            for plan, found in zip(plans, pool.map(_check, plans), strict=True):
                advance()
                if isinstance(found, Checked):
                    checked.append(found)
                else:
                    refused[plan.name] = found
    finally:
        pool.shutdown(cancel_futures=True)
    warnings = [f"{each.plan.name}: {line}" for each in checked for line in each.warnings]
    for line in warnings[:_MANY]:
        warn(line)
    if len(warnings) > _MANY:
        warn(f"there are {len(warnings) - _MANY} more of these; `dti bundle check` tells them all")
    return checked, refused


def _check(plan: Plan) -> Checked | DTIError:
    from dti_engine.bundles.loading import load_bundle
    from services.client.parcels import bundle_parcel

    try:
        bundle = load_bundle(plan.path)
        parcel = bundle_parcel(plan.path)
    except SubjectError as error:
        return error.bare()  # its pictures with it
    return Checked(plan, bundle.description.kind, parcel, [str(each) for each in bundle.warnings])
