"""The study of `dti evaluate` on photographs, by the paper's protocol."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from dti_engine.commands.inputs import open_backbone
from dti_engine.commands.photographs import open_subjects
from dti_engine.commands.studies import study_progress, weights_digest
from dti_engine.commands.terminal import busy, output_folder, print_json, print_paths, results
from dti_engine.config import DtypeName, TrainConfig
from dti_engine.evaluation.photographs.protocol import Protocol
from dti_engine.evaluation.photographs.rows import parse_methods, table_rows, training_configs
from dti_engine.recipes import recipe

if TYPE_CHECKING:
    from dti_engine.evaluation.photographs.results import Results

_QUICK = {"steps": 100, "image_steps": 20, "num_image_seeds": 1}


@dataclass(frozen=True)
class Choices:
    """What the command line says of a study; None stands for the default."""

    methods: Sequence[str]
    kappas: Sequence[float]
    prompts: str
    recipe: str
    training: Mapping[str, int | None]  # changes of the recipe
    protocol: Mapping[str, float | None]  # changes of the protocol
    quick: bool
    num_slots: int
    batch_size: int
    dinov2: str
    siglip: str

    def config(self) -> TrainConfig:
        """Of DTI. Raises: ConfigurationError."""
        changes = {"steps": _QUICK["steps"]} if self.quick else {}
        return recipe(self.recipe).changed(**(changes | _said(self.training)))

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
    """Raises: ConfigurationError, before a model is loaded, for what is wrong with the subjects and
    choices; else as `open_backbone`, the scorers and `Study`.
    """
    config = choices.config()
    rows = table_rows(parse_methods(choices.methods), choices.kappas)
    configs = training_configs(rows, config, choices.kappas)
    subjects = open_subjects(folder_of_subjects, prompts=choices.prompts, quick=choices.quick)
    folder = output_folder(output)
    model = open_backbone(weights, device=device, dtype=dtype)
    protocol = choices.protocol_on(config, is_flow=model.objective.name == "flow")

    from dti_engine.backbones.checkpoint import open_checkpoint
    from dti_engine.evaluation.photographs.report import report
    from dti_engine.evaluation.photographs.scoring import Examiner
    from dti_engine.evaluation.photographs.store import Store
    from dti_engine.evaluation.photographs.study import Study, identity
    from dti_engine.scorers.checkpoint import find_weights
    from dti_engine.scorers.dinov2 import Dinov2
    from dti_engine.scorers.siglip import Siglip

    with busy("loading DINOv2 and SigLIP"):
        sources = {each: find_weights(each) for each in (choices.dinov2, choices.siglip)}
        dinov2 = Dinov2.load(sources[choices.dinov2], device=model.device)
        siglip = Siglip.load(sources[choices.siglip], device=model.device)
    with busy("reading all weights, to know them again"):
        weights_sha256 = weights_digest(open_checkpoint(weights).folder)
        digests = {each: weights_digest(source) for each, source in sources.items()}
    judges = {
        f"DINOv2: {_named(choices.dinov2)}": digests[choices.dinov2],
        f"SigLIP: {_named(choices.siglip)}": digests[choices.siglip],
    }
    known = identity(
        model, protocol, subjects, list(judges.values()), weights_sha256=weights_sha256
    )
    store = Store(folder, known)
    with study_progress() as on_progress:
        study = Study(model, protocol, subjects, store, judges=judges, on_progress=on_progress)
        study.train(configs, num_slots=choices.num_slots)
        examiner = Examiner(model, dinov2, siglip, protocol, store, batch_size=choices.batch_size)
        study.paint(rows, examiner)
    found = study.results(rows, configs)
    command = _command(found, choices, folder_of_subjects, folder)
    (folder / "report.md").write_text(report(found, command=command), encoding="utf-8")
    document = found.document()
    (folder / "results.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    if as_json:
        print_json(document)
    else:
        results.print(_summary(found))
        print_paths([folder / name for name in ("report.md", "sheet.png", "results.json")])


def _said(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _named(weights: str) -> str:
    """Without a path, as the report may be published."""
    return Path(weights).expanduser().resolve().name if Path(weights).exists() else weights


def _command(found: "Results", choices: Choices, subjects: Path, folder: Path) -> str:
    """The command line that does the same again, without paths."""
    protocol, config = found.protocol, found.protocol["config"]
    given = {
        "--backbone": found.backbone,
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
        "--slots": choices.num_slots,
        "--batch-size": choices.batch_size,
        "--dinov2": _named(choices.dinov2),
        "--siglip": _named(choices.siglip),
        "--output": folder.resolve().name,
    }
    words = [str(word) for option in given.items() for word in option]
    kappas = [word for kappa in choices.kappas for word in ("--kappa", f"{kappa:g}")]
    quick = ["--quick"] if choices.quick else []
    return shlex.join(["dti", "evaluate", *quick, *words, *kappas])


def _summary(found: "Results") -> Table:
    kind = "masked" if found.is_masked else "unmasked"
    table = Table("method", f"image, {kind}", "text", "text, cosine")
    for row in found.rows:
        figures = (row.image, row.prompt_score, row.prompt_cosine)
        shown = (f"{each.value:.3f} [{each.low:.3f}, {each.high:.3f}]" for each in figures)
        table.add_row(row.title, *shown)
    return table
