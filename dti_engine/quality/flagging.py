"""Tokens that were tried out, with what is odd about each in its manifest."""

from collections.abc import Mapping
from dataclasses import replace
from math import degrees

from dti_engine.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.quality.gate import Figures, flags
from dti_engine.vocabulary import vocabulary_band


def flagged(artifacts: Mapping[str, Artifact], backbone: Backbone) -> dict[str, Artifact]:
    """These tokens, flagged by what must hold of each, and beside the others.

    Scores are compared with those of the same probes, angles with those of the same config.
    """
    bands = {name: vocabulary_band(each) for name, each in backbone.text_encoders.items()}
    found = flags({name: _figures(each, bands) for name, each in artifacts.items()})
    return {name: _noted(each, found[name]) for name, each in artifacts.items()}


def _noted(artifact: Artifact, flags: list[str]) -> Artifact:
    training = artifact.manifest.training
    assert training
    assert training.quality
    quality = training.quality.model_copy(update={"flags": tuple(flags)})
    return replace(artifact, manifest=artifact.manifest.with_origin(quality=quality))


def _figures(artifact: Artifact, bands: Mapping[str, tuple[float, float]]) -> Figures:
    training, magnitudes = artifact.manifest.training, artifact.manifest.magnitudes
    assert training
    assert training.quality
    return Figures(
        prior_angle_deg=degrees(training.figures["prior_angle_rad"]),
        norms=[norm for lengths in magnitudes.values() for norm in lengths],
        norm_bands=[bands[name] for name, lengths in magnitudes.items() for _ in lengths],
        first_fixed_loss=training.first_fixed_loss,
        fixed_loss=training.figures["fixed_loss"],
        initializer=training.initializer,
        family=training.config.captions,
        training=training.config.model_dump_json(),
        subject_score=training.quality.subject_score,
        prompt_score=training.quality.prompt_score,
        word_subject_score=training.quality.word_subject_score,
    )
