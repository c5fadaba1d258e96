"""The study of `dti evaluate` on the miniature, whose own scorer reads its pictures."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from dti_engine.commands.inputs import open_backbone
from dti_engine.commands.studies import SCORER, study_progress, tell, weights_digest
from dti_engine.commands.terminal import output_folder, say
from dti_engine.config import DtypeName
from dti_engine.evaluation.protocol import Protocol

if TYPE_CHECKING:
    from dti_engine.backbones.interface import Backbone
    from dti_engine.evaluation.results import Results


def is_miniature(weights: str) -> bool:
    """Whether these weights have a scorer of their own."""
    return weights == "miniature" or (Path(weights).expanduser() / SCORER).is_file()


def evaluate_miniature(
    weights: str,
    output: Path,
    *,
    quick: bool,
    seed: int,
    changes: Mapping[str, int],
    device: str,
    dtype: DtypeName,
    compiled: bool,
    as_json: bool,
) -> None:
    """changes: of the protocol. Raises: what `Study` does, and `open_backbone`."""
    folder = output_folder(output)
    model = open_backbone(weights, device=device, dtype=dtype, compiled=compiled)
    make = Protocol.quick if quick else Protocol.standard
    protocol = make(resolution=model.image_size, seed=seed, **changes)

    from dti_engine.backbones.checkpoint import open_checkpoint
    from dti_engine.evaluation.report import report
    from dti_engine.evaluation.study import Study
    from dti_engine.miniature.scorer import load_scorer

    source = open_checkpoint(weights).folder
    with study_progress() as on_progress:
        study = Study(
            model,
            load_scorer(source / SCORER),
            protocol,
            folder,
            weights_sha256=weights_digest(source),
            on_progress=on_progress,
        )
        num_tokens, num_pictures = study.amount()
        say(
            f"{num_tokens:,} tokens to train and {num_pictures:,} pictures to paint, less what is "
            "done already"
        )
        found = study.run()
    command = _command(protocol, model, quick=quick, compiled=compiled, folder=folder)
    tell(
        folder,
        report(found, command=command),
        found.document(),
        None if as_json else _summary(found),
    )


def _command(
    protocol: Protocol, model: "Backbone", *, quick: bool, compiled: bool, folder: Path
) -> str:
    """The command line that does the same again; without paths, as the report may be published."""
    given = {
        "--seeds": protocol.num_training_seeds,
        "--image-seeds": protocol.num_image_seeds,
        "--steps": protocol.steps,
        "--seed": protocol.seed,
        "--backbone": model.name,
        "--dtype": str(model.dtype).removeprefix("torch."),
        "--output": folder.name,
    }
    words = [str(word) for option in given.items() for word in option]
    switches = {"--quick": quick, "--compile": compiled}
    return shlex.join(["dti", "evaluate", *(name for name, on in switches.items() if on), *words])


def _summary(found: "Results") -> Table:
    table = Table("aim", "reached", "needed", "verdict")
    for aim in found.aims:
        table.add_row(aim.text, f"{aim.reached:.3f}", f"{aim.needed:.3f}", aim.verdict)
    return table
