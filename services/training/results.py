"""What is said of a learned token in its result, beside its bytes."""

from math import degrees

from pydantic import JsonValue

from dti_engine.artifact import Artifact
from dti_engine.reports import SlotReport
from services.training.batch import Seat


def report(seat: Seat, artifact: Artifact, last: SlotReport) -> dict[str, JsonValue]:
    """Few words and figures, for lists; all else stands in the token's own manifest."""
    training = artifact.manifest.training
    assert training
    said: dict[str, JsonValue] = {
        "placeholder": artifact.manifest.placeholder,
        "initializer": training.initializer,
        "backbone": seat.prepared.order.backbone,
        "fingerprint": artifact.manifest.backbone_fingerprint,
        "engine_version": artifact.manifest.engine_version,
        "steps": training.steps_done,
        "resumed_at": seat.resumed_at,
        "stop_reason": training.stop_reason,
        "loss": _rounded(last.loss),
        "fixed_loss": _rounded(last.fixed_loss),
        "prior_angle_deg": _rounded(degrees(last.prior_angle_rad)),
        "gpu_seconds": round(seat.device_seconds, 3),
        "pictures": len(training.pictures),
        "warnings": list(seat.warnings[:20]),
    }
    if quality := training.quality:
        said["flags"] = list(quality.flags)
        if quality.subject_score is not None and quality.prompt_score is not None:
            said["subject_score"] = _rounded(quality.subject_score)
            said["prompt_score"] = _rounded(quality.prompt_score)
    return said


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
