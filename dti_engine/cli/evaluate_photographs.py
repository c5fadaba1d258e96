"""The study of `dti evaluate` on photographs, by the paper's protocol.

The subjects of a study on photographs: a folder of bundles, and the prompts that suit each.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from dti_engine.cli import config_options as settings
from dti_engine.cli.console import busy, output_folder, say, warn
from dti_engine.cli.evaluate_miniature import (
    repeatable_name,
    scorer_digest,
    study_progress,
    tell,
    weights_digest,
)
from dti_engine.cli.loading import open_backbone
from dti_engine.cli.slots import choose_slots, parse_slots, room
from dti_engine.cli.subjects import Plan, plan
from dti_engine.config import DtypeName, TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.photographs.protocol import (
    Protocol,
    is_living,
    prompt_set,
    read_prompts,
    spread,
)
from dti_engine.evaluation.photographs.subjects import (
    Row,
    parse_methods,
    table_rows,
    training_configs,
)
from dti_engine.recipes import recipe

if TYPE_CHECKING:
    from dti_engine.evaluation.photographs.subjects import PhotographedSubject
    from dti_engine.images.bundles.schema import BundleDescription

_QUICK_SUBJECTS = _QUICK_PROMPTS = 4


def open_subjects(folder: Path, *, prompts: str, quick: bool) -> "list[PhotographedSubject]":
    """All that the folder holds, or none: a table over some of the subjects is another table.

    prompts: `auto`, `object`, `live` or a file's path. quick: a few subjects in a few prompts.

    Raises: ConfigurationError or InvalidBundleError, which says what is wrong.
    """
    from dti_engine.evaluation.photographs.subjects import PhotographedSubject
    from dti_engine.images.bundles.bundle import read_description

    if not folder.is_dir():
        raise ConfigurationError(
            f"--subjects {str(folder)!r} is no folder; give one that holds a bundle per subject"
        )
    plans = plan([folder], None, [])
    if plans.refused:
        reasons = "".join(f"\n  {name}: {error}" for name, error in plans.refused.items())
        raise ConfigurationError(f"{len(plans.refused)} subjects refused:{reasons}")
    chosen = plans.subjects[:_QUICK_SUBJECTS] if quick else plans.subjects
    opened: list[PhotographedSubject] = []
    with busy(f"reading the photographs of {len(chosen)} subjects"):
        for each in chosen:
            said = read_description(each.path)
            opened.append(
                PhotographedSubject.open(
                    each.path,
                    name=each.name,
                    placeholder=each.placeholder,
                    initializer=each.initializer,
                    num_vectors=each.num_vectors,
                    class_noun=said.class_noun,
                    captions=said.kind,
                    prompts=_prompts(each, said, prompts, quick=quick),
                )
            )
    if len(opened) < 2:
        raise ConfigurationError(
            f"intervals are over subjects, and {str(folder)!r} has {len(opened)}; give a folder "
            "that holds at least 2 bundles"
        )
    for each in opened:
        if not each.is_masked and each.num_masks:
            warn(f"{each.name}: only {each.num_masks} of {len(each.photos)} photos have masks")
    return opened


def _prompts(each: Plan, said: "BundleDescription", name: str, *, quick: bool) -> Sequence[str]:
    """Raises: ConfigurationError if there is none that suits."""
    if name == "auto":
        if said.kind == "style":
            raise ConfigurationError(
                f"{each.name!r} is a style, for which there are no prompts here; give --prompts "
                "and a file of some, such as 'a house in the style of {}'"
            )
        is_alive = said.kind == "person" or is_living(said.class_noun or each.initializer)
        name = "live" if is_alive else "object"
    known = prompt_set(name) if name in ("object", "live") else read_prompts(Path(name))
    return spread(known, _QUICK_PROMPTS) if quick else known


if TYPE_CHECKING:
    from dti_engine.backbones.interface import Backbone
    from dti_engine.evaluation.photographs.report import Results
    from dti_engine.evaluation.photographs.store import Store

_ANY = "sd"  # a value is allowed or not, whatever recipe it changes
_QUICK = {"steps": 100, "image_steps": 20, "num_image_seeds": 1}


@dataclass(frozen=True)
class Choices:
    """What the command line says of a study; None stands for the default."""

    methods: Sequence[str]
    kappas: Sequence[float]
    prompts: str
    recipe: str | None  # None: not known yet
    training: Mapping[str, int | None]  # changes of the recipe
    protocol: Mapping[str, float | None]  # changes of the protocol
    quick: bool
    slots: str
    recompute: bool
    compiled: bool
    batch_size: int
    dinov2: str
    siglip: str

    def rows(self) -> list[Row]:
        """Of the table. Raises: ConfigurationError."""
        return table_rows(parse_methods(self.methods), self.kappas)

    def config(self) -> TrainConfig:
        """Of DTI, by a recipe that is chosen. Raises: ConfigurationError."""
        changes = {"steps": _QUICK["steps"]} if self.quick else {}
        return recipe(self.recipe or _ANY).changed(**(changes | _said(self.training)))

    def configs(self, config: TrainConfig) -> dict[str, TrainConfig]:
        """Name of each token -> how it is trained. Raises: ConfigurationError."""
        return training_configs(self.rows(), config, self.kappas)

    def check(self) -> None:
        """Refuse what can be refused before it is known what the weights are.

        Raises: ConfigurationError.
        """
        parse_slots(self.slots)
        config = self.config()
        self.configs(config)
        self.protocol_on(config, is_flow=False)

    def protocol_on(self, config: TrainConfig, *, is_flow: bool) -> Protocol:
        """Raises: ConfigurationError."""
        fewer = {name: _QUICK[name] for name in ("image_steps", "num_image_seeds")}
        changes = (fewer if self.quick else {}) | _said(self.protocol)
        return Protocol.of(config, is_flow=is_flow, changes=changes)


def evaluate_photographs(
    weights: str,
    output: Path,
    folder_of_subjects: Path,
    choices: Choices,
    *,
    device: str,
    dtype: DtypeName,
    as_json: bool,
) -> None:
    """Raises: ConfigurationError, before a model is downloaded, for what is wrong with the subjects
    and choices; else as `open_backbone`, the scorers, `choose_slots` and `Study`.
    """
    choices.check()
    rows = choices.rows()
    subjects = open_subjects(folder_of_subjects, prompts=choices.prompts, quick=choices.quick)
    folder = output_folder(output)

    from dti_engine.scorers.vision_model import find_weights

    with busy("looking for DINOv2 and SigLIP"):
        sources = {each: find_weights(each) for each in (choices.dinov2, choices.siglip)}
    model = open_backbone(weights, device=device, dtype=dtype)
    choices = replace(choices, recipe=choices.recipe or settings.own_recipe(weights))
    config = choices.config()
    configs = choices.configs(config)
    protocol = choices.protocol_on(config, is_flow=model.objective.name == "flow")

    from dti_engine.backbones.checkpoint import open_checkpoint
    from dti_engine.evaluation.photographs.report import report
    from dti_engine.evaluation.photographs.scoring import Examiner
    from dti_engine.evaluation.photographs.store import Store
    from dti_engine.evaluation.photographs.study import Study, identity
    from dti_engine.scorers.dinov2 import Dinov2
    from dti_engine.scorers.siglip import Siglip

    with busy("loading DINOv2 and SigLIP"):
        dinov2 = Dinov2.load(sources[choices.dinov2], device=model.device)
        siglip = Siglip.load(sources[choices.siglip], device=model.device)
    with busy("reading all weights, to know them again"):
        weights_sha256 = weights_digest(open_checkpoint(weights).folder)
        digests = {each: scorer_digest(source) for each, source in sources.items()}
    judges = {
        f"DINOv2: {_named(choices.dinov2)}": digests[choices.dinov2],
        f"SigLIP: {_named(choices.siglip)}": digests[choices.siglip],
    }
    known = identity(
        model, protocol, subjects, list(judges.values()), weights_sha256=weights_sha256
    )
    store = Store(folder, known)
    study = Study(model, protocol, subjects, store, judges=judges)
    examiner = Examiner(model, dinov2, siglip, protocol, store, batch_size=choices.batch_size)
    untrained = {name: study.num_untrained(name) for name in configs}
    say(
        f"{sum(untrained.values()):,} tokens to train and "
        f"{study.num_missing(rows, examiner):,} images to generate"
    )
    model.recompute = choices.recompute
    max_vectors = room(each.num_vectors for each in subjects)
    due = [config for name, config in configs.items() if untrained[name]]
    num_runs = len(subjects) * protocol.num_training_seeds
    slots = _slots(model, due, choices, store, num_runs, max_vectors) if due else 1
    if choices.compiled:  # not before, as each size that is tried out would be compiled
        model.compile()
    with study_progress() as on_progress:
        study.train(configs, num_slots=slots, max_vectors=max_vectors, on_progress=on_progress)
        study.generate(rows, examiner, on_progress=on_progress)
    found = study.results(rows, configs)
    name = repeatable_name(weights, model.name)
    choices = replace(choices, slots=str(store.slots() or choices.slots))
    command = _command(found, name, choices, folder_of_subjects, folder)
    tell(
        folder,
        report(found, command=command),
        found.document(),
        None if as_json else _summary(found),
    )


def _slots(
    model: "Backbone",
    due: Sequence[TrainConfig],
    choices: Choices,
    store: "Store",
    num_runs: int,
    max_vectors: int,
) -> int:
    """As it is told, else as the study began, else as fits. Raises: as `choose_slots`."""
    wanted = parse_slots(choices.slots)
    if not wanted and (wanted := store.slots()):
        say(f"{wanted} at a time, as this study began")
    slots = choose_slots(
        model,
        due[0],  # all differ in what hardly takes memory
        wanted=wanted,
        num_subjects=num_runs,
        max_vectors=max_vectors,
        earlier_log=None,
    )
    store.keep_slots(slots)
    return slots


def _said(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _named(weights: str) -> str:
    """Without a path, as the report may be published."""
    path = Path(weights).expanduser()
    return path.resolve().name if path.exists() else weights


def _command(
    found: "Results", backbone: str, choices: Choices, subjects: Path, folder: Path
) -> str:
    """The command line that does the same again, without paths."""
    protocol, config = found.protocol, found.protocol["config"]
    given = {
        "--model": backbone,
        "--dtype": found.environment["dtype"],
        "--subjects": subjects.resolve().name,
        "--methods": ",".join(choices.methods),
        "--prompts": Path(choices.prompts).name,
        "--recipe": choices.recipe,
        "--steps": config["steps"],
        "--resolution": config["resolution"],
        "--seeds": protocol["num_training_seeds"],
        "--seed": protocol["first_training_seed"],
        "--image-seeds": protocol["num_image_seeds"],
        "--image-steps": protocol["image_steps"],
        "--guidance": protocol["guidance"],
        "--slots": choices.slots,
        "--batch-size": choices.batch_size,
        "--dinov2": _named(choices.dinov2),
        "--siglip": _named(choices.siglip),
        "--output": folder.resolve().name,
    }
    words = [str(word) for option in given.items() for word in option]
    kappas = [word for kappa in choices.kappas for word in ("--kappa", f"{kappa:g}")]
    switches = {
        "--quick": choices.quick,
        "--recompute": choices.recompute,
        "--compile": choices.compiled,
    }
    given_switches = [name for name, is_on in switches.items() if is_on]
    return shlex.join(["dti", "evaluate", *given_switches, *words, *kappas])


def _summary(found: "Results") -> Table:
    kind = "masked" if found.is_masked else "unmasked"
    table = Table("method", f"image, {kind}", "text", "text, cosine")
    for row in found.rows:
        figures = (row.image, row.prompt_score, row.prompt_cosine)
        shown = (f"{each.value:.3f} [{each.low:.3f}, {each.high:.3f}]" for each in figures)
        table.add_row(row.title, *shown)
    return table
