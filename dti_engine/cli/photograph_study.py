"""The study behind `dti evaluate photographs`: its options, subjects, scorers and slots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dti_engine.cli.console import busy, say, warn
from dti_engine.cli.slots import choose_slots, max_vectors_of, parse_slots
from dti_engine.cli.study import is_miniature, scorer_digest, study_progress, weights_digest
from dti_engine.cli.subjects import SubjectPlan, plan_subjects
from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.protocol import (
    PhotographProtocol,
    evenly_spaced,
    is_living,
    prompt_set,
    read_prompts,
)
from dti_engine.evaluation.rows import (
    TableRow,
    parse_methods,
    photograph_configs,
    photograph_rows,
)
from dti_engine.recipes import recipe

if TYPE_CHECKING:
    from dti_engine.backbones.interface import Backbone
    from dti_engine.evaluation.photographs import PhotographedSubject, PhotographStudy
    from dti_engine.evaluation.results import PhotographResults
    from dti_engine.images.bundles.schema import BundleDescription

_ANY_RECIPE = "sd"  # whether a value is allowed does not depend on the recipe that it changes
_QUICK = {"steps": 100, "image_steps": 20, "num_image_seeds": 1}
_QUICK_SUBJECTS = _QUICK_PROMPTS = 4


@dataclass(frozen=True)
class PhotographOptions:
    """The options of the command that decide on the study; None stands for the default."""

    weights: str
    methods: Sequence[str]
    kappas: Sequence[float]
    prompts: str
    recipe: str | None  # None until the model is known
    training: Mapping[str, int | None]  # changes of the recipe
    protocol: Mapping[str, float | None]  # changes of the protocol
    quick: bool
    slots: str
    recompute: bool
    compiled: bool
    batch_size: int
    dinov2: str
    siglip: str

    def rows(self) -> list[TableRow]:
        """Return the rows of the table. Raises: ConfigurationError."""
        return photograph_rows(parse_methods(self.methods), self.kappas)

    def config(self) -> TrainConfig:
        """Return DTI's training config. Raises: ConfigurationError."""
        changes = {"steps": _QUICK["steps"]} if self.quick else {}
        return recipe(self.recipe or _ANY_RECIPE).changed(**(changes | _given(self.training)))

    def configs(self, config: TrainConfig) -> dict[str, TrainConfig]:
        """Return token name -> training config. Raises: ConfigurationError."""
        return photograph_configs(self.rows(), config, self.kappas)

    def protocol_with(self, config: TrainConfig, *, is_flow: bool) -> PhotographProtocol:
        """Return the protocol with this config of DTI. Raises: ConfigurationError."""
        fewer = {name: _QUICK[name] for name in ("image_steps", "num_image_seeds")}
        changes = (fewer if self.quick else {}) | _given(self.protocol)
        return PhotographProtocol.standard(config, is_flow=is_flow, changes=changes)

    def check(self) -> None:
        """Check everything that does not depend on the model. Raises: ConfigurationError."""
        if is_miniature(self.weights):
            raise ConfigurationError(
                "the miniature knows no photographs; use `dti evaluate miniature`, which evaluates "
                "it on subjects of its own world"
            )
        parse_slots(self.slots)
        config = self.config()
        self.configs(config)
        self.protocol_with(config, is_flow=False)


def open_subjects(folder: Path, *, prompts: str, quick: bool) -> "list[PhotographedSubject]":
    """Open all subjects of the folder, or none: a table over some of them is another table.

    `prompts` is "auto", "object", "live" or the path of a file; `quick` takes a few of both.

    Raises:
        ConfigurationError, InvalidBundleError: The message says what is wrong.
    """
    from dti_engine.evaluation.photographs import PhotographedSubject
    from dti_engine.images.bundles.bundle import read_description

    folder = folder.expanduser()
    if not folder.is_dir():
        raise ConfigurationError(
            f"{str(folder)!r} is not a folder; give one that contains a bundle per subject"
        )
    plans = plan_subjects([folder], None, [])
    if plans.refused:
        reasons = "".join(f"\n  {name}: {error}" for name, error in plans.refused.items())
        raise ConfigurationError(f"{len(plans.refused)} subjects refused:{reasons}")
    chosen = plans.subjects[:_QUICK_SUBJECTS] if quick else plans.subjects
    opened: list[PhotographedSubject] = []
    with busy(f"reading the photographs of {len(chosen)} subjects"):
        for subject in chosen:
            description = read_description(subject.path)
            opened.append(
                PhotographedSubject.open(
                    subject.path,
                    name=subject.name,
                    placeholder=subject.placeholder,
                    initializer=subject.initializer,
                    num_vectors=subject.num_vectors,
                    class_noun=description.class_noun,
                    captions=description.kind,
                    prompts=_prompts(subject, description, prompts, quick=quick),
                )
            )
    if len(opened) < 2:
        raise ConfigurationError(
            f"intervals are over subjects, and {str(folder)!r} has {len(opened)}; give a folder "
            "that contains at least 2 bundles"
        )
    for subject in opened:
        if not subject.is_masked and subject.num_masks:
            photos = len(subject.photos)
            warn(f"{subject.name}: only {subject.num_masks} of {photos} photos have masks")
    return opened


def _prompts(
    subject: SubjectPlan, description: "BundleDescription", name: str, *, quick: bool
) -> Sequence[str]:
    """Return the subject's prompts. Raises: ConfigurationError if no set suits it."""
    if name == "auto":
        if description.kind == "style":
            raise ConfigurationError(
                f"{subject.name!r} is a style, for which there is no set of prompts; give "
                "--prompts and a file of some, such as 'a house in the style of {}'"
            )
        noun = description.class_noun or subject.initializer
        name = "live" if description.kind == "person" or is_living(noun) else "object"
    prompts = prompt_set(name) if name in ("object", "live") else read_prompts(Path(name))
    return evenly_spaced(prompts, _QUICK_PROMPTS) if quick else prompts


def find_scorers(chosen: PhotographOptions) -> dict[str, Path]:
    """Return option value -> folder of weights, downloaded if need be. Raises: ModelLoadError."""
    from dti_engine.scorers.vision_model import find_weights

    with busy("looking for DINOv2 and SigLIP"):
        return {source: find_weights(source) for source in (chosen.dinov2, chosen.siglip)}


def run_study(
    chosen: PhotographOptions,
    model: "Backbone",
    subjects: "Sequence[PhotographedSubject]",
    scorer_weights: Mapping[str, Path],
    folder: Path,
) -> "tuple[PhotographResults, PhotographOptions]":
    """Return the results, and the options with the number of slots that was used."""
    config = chosen.config()
    configs, rows = chosen.configs(config), chosen.rows()
    protocol = chosen.protocol_with(config, is_flow=model.objective.name == "flow")
    study = _open_study(chosen, model, protocol, subjects, scorer_weights, folder)
    untrained = {name: study.num_untrained(name) for name in configs}
    say(
        f"{sum(untrained.values()):,} tokens to train and "
        f"{study.num_missing(rows):,} images to generate"
    )
    model.recompute = chosen.recompute
    max_vectors = max_vectors_of(subject.num_vectors for subject in subjects)
    # If nothing is left to train, nothing is measured: a study that only lacks images must not wait
    # for minutes.
    due = [config for name, config in configs.items() if untrained[name]]
    num_runs = len(subjects) * protocol.num_training_seeds
    slots = _choose_slots(model, due[0], chosen, study, num_runs, max_vectors) if due else 1
    if chosen.compiled:  # only now, because every size that is measured would be compiled
        model.compile()
    with study_progress() as on_progress:
        results = study.run(
            rows, configs, num_slots=slots, max_vectors=max_vectors, on_progress=on_progress
        )
    return results, replace(chosen, slots=str(study.store.slots() or chosen.slots))


def _open_study(
    chosen: PhotographOptions,
    model: "Backbone",
    protocol: PhotographProtocol,
    subjects: "Sequence[PhotographedSubject]",
    scorer_weights: Mapping[str, Path],
    folder: Path,
) -> "PhotographStudy":
    from dti_engine.backbones.checkpoint import open_checkpoint
    from dti_engine.evaluation.photographs import PhotographDomain, PhotographStudy, identity
    from dti_engine.evaluation.store import EvaluationStore
    from dti_engine.scorers.dinov2 import Dinov2
    from dti_engine.scorers.siglip import Siglip

    with busy("loading DINOv2 and SigLIP"):
        dinov2 = Dinov2.load(scorer_weights[chosen.dinov2], device=model.device)
        siglip = Siglip.load(scorer_weights[chosen.siglip], device=model.device)
    with busy("computing the digests of all weights"):
        weights_sha256 = weights_digest(open_checkpoint(chosen.weights).folder)
        digests = {source: scorer_digest(path) for source, path in scorer_weights.items()}
    scorers = {
        f"DINOv2: {without_path(chosen.dinov2)}": digests[chosen.dinov2],
        f"SigLIP: {without_path(chosen.siglip)}": digests[chosen.siglip],
    }
    known = identity(
        model, protocol, subjects, list(scorers.values()), weights_sha256=weights_sha256
    )
    return PhotographStudy(
        model,
        PhotographDomain(subjects, protocol, dinov2, siglip),
        protocol,
        EvaluationStore(folder, known),
        batch_size=chosen.batch_size,
        scorers=scorers,
    )


def _choose_slots(
    model: "Backbone",
    config: TrainConfig,
    chosen: PhotographOptions,
    study: "PhotographStudy",
    num_runs: int,
    max_vectors: int,
) -> int:
    """Return the given number, else that of earlier starts, else the measured one.

    All configs take about the same memory, so one of them stands for all.
    """
    requested = parse_slots(chosen.slots)
    if not requested and (requested := study.store.slots()):
        say(f"{requested} at a time, as this study began")
    slots = choose_slots(
        model,
        config,
        requested=requested,
        num_subjects=num_runs,
        max_vectors=max_vectors,
        earlier_log=None,
    )
    study.store.save_slots(slots)
    return slots


def _given(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def without_path(weights: str) -> str:
    """Return the name of a folder, or an id unchanged, because the report may be published."""
    path = Path(weights).expanduser()
    return path.resolve().name if path.exists() else weights
