"""`dti inspect`: the contents of a token file."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from dti_engine.cli import options
from dti_engine.cli.console import print_json, results, say
from dti_engine.cli.loading import open_backbone, warn_of_other_weights

if TYPE_CHECKING:
    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.text.encoder import VectorReport

EXAMPLES = (
    "dti inspect tokens/rex.safetensors",
    "dti inspect rex.safetensors --model ./stable-diffusion-v1-5 --top 10 --json",
)


def inspect(
    file: options.TokenArgument,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Model whose vocabulary is compared with the token.",
            show_default="the miniature for its tokens; none for others",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of nearest words by each distance.")] = 5,
    as_json: options.JsonOption = False,
) -> None:
    """Show a token: its length and direction, its nearest words, and its training.

    The nearest words by cosine share a meaning with the token; the nearest by Euclidean distance
    share little more than a length. That is why directions are learned (the paper's Table 1).
    """
    from dti_engine.artifacts.artifact import Artifact

    artifact = Artifact.load(file)
    if model is None and artifact.manifest.model == "miniature":
        model = "miniature"
    vectors, vocabulary = list["VectorReport"](), dict[str, float]()
    if model:
        vectors, vocabulary = _compare(artifact, model, top)
    manifest = artifact.manifest.model_dump(mode="json")
    if as_json:
        print_json(
            {
                "manifest": manifest,
                "vocabulary_norms": vocabulary,
                "vectors": [asdict(vector) for vector in vectors],
            }
        )
        return
    results.print(_manifest_table(manifest))
    for vector in vectors:
        results.print(_vector_table(vector, _initializer(artifact), vocabulary))
    if model is None:
        say(f"for nearest words, add --model {artifact.manifest.model}")


def _compare(
    artifact: "Artifact", model: str, top: int
) -> tuple[list["VectorReport"], dict[str, float]]:
    """Return reports of the token's vectors, and the mean length of each encoder's words."""
    backbone = open_backbone(model)
    warn_of_other_weights([artifact], backbone)

    from dti_engine.text.encoder import inspect_token, vocabulary_magnitude

    encoders = backbone.text_encoders
    reports = inspect_token(artifact.token, _initializer(artifact), encoders, count=top)
    return reports, {name: vocabulary_magnitude(each) for name, each in encoders.items()}


def _initializer(artifact: "Artifact") -> str | None:
    """Return the word that training started from; imports and blends have none."""
    training = artifact.manifest.training
    return training.initializer if training else None


def _manifest_table(manifest: dict[str, Any]) -> Table:
    table = Table("", "", title=escape(manifest["placeholder"]), show_header=False)
    for name, value in manifest.items():
        if isinstance(value, dict):
            shown = "\n".join(f"{key}: {each}" for key, each in value.items())
        else:
            shown = str(value)
        table.add_row(f"[dim]{name}[/]", escape(shown))
    return table


def _vector_table(
    vector: "VectorReport", initializer: str | None, vocabulary: dict[str, float]
) -> Table:
    turned = ""
    if vector.initializer_angle_deg is not None:
        turned = f"; {vector.initializer_angle_deg:.1f}° from {escape(repr(initializer))}"
    table = Table(
        "rank",
        "by cosine",
        "cos",
        "by Euclidean distance",
        "distance",
        title=f"{vector.encoder}, vector {vector.index}",
        caption=(
            f"norm {vector.norm:.4f}, mean of the vocabulary {vocabulary[vector.encoder]:.4f}"
            f"{turned}"
        ),
    )
    pairs = zip(vector.by_cosine, vector.by_distance, strict=True)
    for rank, (near, close) in enumerate(pairs, start=1):
        cosine, distance = f"{near.cosine:.3f}", f"{close.distance:.3f}"
        table.add_row(str(rank), escape(near.word), cosine, escape(close.word), distance)
    return table
