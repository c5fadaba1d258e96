"""What is asked of the service, in its own words.

Bundles, judged here before anything is sent: as the service will, but at once.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dti_engine.cli.console import warn
from dti_engine.cli.subjects import Plan
from dti_engine.errors import ConfigurationError, DTIError, SubjectError
from services.cli.bars import counting

if TYPE_CHECKING:
    from services.client.uploads import UploadContent

_MANY = 20  # warnings; more are not said one by one
_AT_ONCE = min(4, os.cpu_count() or 1)  # each has a process that decodes


@dataclass(frozen=True, slots=True)
class Checked:
    """A bundle that can be sent."""

    plan: Plan
    kind: str | None  # that bundle.json gives
    parcel: "UploadContent"
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
    from dti_engine.images.bundles.bundle import load_bundle
    from services.client.uploads import bundle_parcel

    try:
        bundle = load_bundle(plan.path)
        parcel = bundle_parcel(plan.path)
    except SubjectError as error:
        return error.bare()  # its images with it
    return Checked(plan, bundle.description.kind, parcel, [str(each) for each in bundle.warnings])


if TYPE_CHECKING:
    from services.client.uploads import UploadContent

_INLINE = 500  # subjects; more are uploaded as a manifest


@dataclass(frozen=True, slots=True)
class Order:
    """The body of a request, and the manifest that it names, if it does."""

    body: Mapping[str, Any]
    manifest: "UploadContent | None" = None

    @property
    def key(self) -> str:
        """The same for the same order, so that whoever asks twice gets one job."""
        return f"dti-{hashlib.sha256(_json(self.body)).hexdigest()}"


def order(
    bundles: Sequence[Checked],
    *,
    kind: str | None,
    consent: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
) -> Order:
    """settings: what the whole job is to have; what is None is left to the service.

    Raises: ConfigurationError if there is a person without consent.
    """
    from services.client.uploads import parcel

    subjects = [_subject(each, kind or each.kind, consent) for each in bundles]
    body = {name: value for name, value in settings.items() if value is not None}
    if len(subjects) <= _INLINE:
        return Order(body | {"subjects": subjects})
    manifest = parcel(b"".join(_json(subject) + b"\n" for subject in subjects))
    return Order(body | {"manifest": manifest.sha256}, manifest)


def _subject(
    bundle: Checked, kind: str | None, consent: Mapping[str, Any] | None
) -> dict[str, Any]:
    if kind == "person" and consent is None:
        raise ConfigurationError(
            f"{bundle.plan.name} is a person, who has to consent: say who attests it and on what "
            'basis, such as --consent-by "Studio Nine" --consent-basis "signed form of 2 May"'
        )
    subject = {
        "id": bundle.plan.name,
        "bundle": bundle.parcel.sha256,
        "placeholder": bundle.plan.placeholder,
        "initializer": bundle.plan.initializer,
        "kind": kind,
        "consent": consent if kind == "person" else None,
    }
    return {name: value for name, value in subject.items() if value is not None}


def another(key: str) -> str:
    """A key for the same order, and no job before."""
    return f"{key}-{secrets.token_hex(8)}"


def refuse_contradictions(
    *, key: str | None, again: bool, wait: bool, output: Path | None, dry_run: bool, made: str
) -> None:
    """Of options that jobs of all kinds have. made: what jobs make, such as tokens.

    Raises: ConfigurationError.
    """
    if key and again:
        raise ConfigurationError(
            "--idempotency-key may name a job that is there, --again makes one: drop one"
        )
    if output and not wait:
        raise ConfigurationError(f"--output is for {made} that are fetched by --wait: add that")
    if dry_run and wait:
        raise ConfigurationError("--dry-run makes no job that --wait could wait for: drop one")


def consent(by: str | None, basis: str | None, until: datetime | None) -> dict[str, Any] | None:
    """The record, or None if nothing is said. Raises: ConfigurationError of half of one."""
    if by is None and basis is None and until is None:
        return None
    if by is None or basis is None:
        raise ConfigurationError(
            "consent takes both: --consent-by, who attests it, and --consent-basis, such as "
            '"signed form of 2 May"'
        )
    record = {"attested_by": by, "basis": basis}
    if until:
        record["expires_at"] = until.replace(tzinfo=UTC).isoformat()
    return record


def overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """`steps=300` -> {"steps": 300}. Raises: ConfigurationError."""
    return {name: _value(text) for name, text in _pairs("--set", pairs, "steps=300").items()}


def tags(pairs: Sequence[str]) -> dict[str, str]:
    """`batch=may` -> {"batch": "may"}. Raises: ConfigurationError."""
    return _pairs("--tag", pairs, "customer=7")


def _pairs(option: str, pairs: Sequence[str], example: str) -> dict[str, str]:
    found = dict[str, str]()
    for pair in pairs:
        name, is_pair, value = pair.partition("=")
        if not is_pair or not name:
            raise ConfigurationError(
                f"{option} takes NAME=VALUE, such as {example}, got {pair!r:.80}"
            )
        if name in found:
            raise ConfigurationError(f"{option} {name} is given twice; give it once")
        found[name] = value
    return found


def _value(text: str) -> Any:
    """A number, true, false or null if it reads as one, else the text."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return text


def _refuse_constant(name: str) -> None:
    """NaN and the like, which no JSON has."""
    raise ValueError(name)


def _json(document: object) -> bytes:
    """Always the same bytes."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
