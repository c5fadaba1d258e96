"""The files of a token's repository on the Hugging Face Hub.

README.md                    the model card, with the metadata that the Hub and other programs read
learned_embeds.safetensors   for `load_textual_inversion` of diffusers; a second file for SDXL
NAME.safetensors             our own file, without the names of the training images
previews/                    validation images

No image that the token was learned from is among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import ModelCardData

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.exporters import convert
from dti_engine.artifacts.manifest import Manifest, ValidationImage
from dti_engine.artifacts.programs import takes
from dti_engine.quality.run_folder import RunFolder

_DIFFUSERS_FILE = Path("learned_embeds.safetensors")
_CARD = "README.md"
_TAGS = ["textual-inversion", "text-to-image", "diffusers", "dti"]


@dataclass(frozen=True, slots=True)
class _Preview:
    """A validation image, and its path in the repository."""

    path: str
    png: bytes
    image: ValidationImage


def hub_files(
    file: Path, name: str, *, license_id: str, base_model: str | None = None
) -> dict[str, bytes]:
    """Return path in the repository -> content, for the token in a file of a run's folder.

    name: of our own file. license_id: as the Hub names licences, such as "cc-by-4.0". base_model:
    the hub id of the model; None for the one in the manifest, if that is a hub id.

    Raises: as `Artifact.load`.
    """
    artifact = _without_names(Artifact.load(file))
    previews = _previews(file, artifact.manifest)
    files = {f"{name}.safetensors": artifact.to_bytes()}
    widths = {encoder: rows.shape[-1] for encoder, rows in artifact.token.embeddings.items()}
    note = None
    is_for_diffusers = takes("diffusers", widths)
    if is_for_diffusers:
        exported = convert(artifact, _DIFFUSERS_FILE, "diffusers")
        files |= {str(path): content for path, content in exported.contents.items()}
        note = exported.note
    files |= {each.path: each.png for each in previews}
    metadata = _metadata(
        artifact.manifest, previews, license_id, base_model or hub_id(artifact.manifest.model)
    )
    body = _body(artifact.manifest, previews, f"{name}.safetensors", is_for_diffusers, note)
    files[_CARD] = f"---\n{metadata.to_yaml()}\n---\n\n{body}".encode()
    return files


def hub_id(model: str) -> str | None:
    """Return the hub id in a manifest's model, without its revision; None for another name."""
    name = model.partition("@")[0]
    return name if name.count("/") == 1 else None


def _without_names(artifact: Artifact) -> Artifact:
    """Return the token with numbers for the training images, whose names may name people."""
    training = artifact.manifest.training
    if training is None:
        return artifact
    numbered = {str(number): digest for number, digest in enumerate(training.images.values(), 1)}
    return replace(artifact, manifest=artifact.manifest.with_origin(images=numbered))


def _previews(file: Path, manifest: Manifest) -> list[_Preview]:
    """Return the validation images that are in the run's folder."""
    quality = manifest.training.quality if manifest.training else None
    folder, found = RunFolder(file.parent), list[_Preview]()
    for index, image in enumerate(quality.images if quality else ()):
        path = folder.image(file.stem, index)
        if path.is_file():
            found.append(_Preview(f"previews/{index}.png", path.read_bytes(), image))
    return found


def _metadata(
    manifest: Manifest, previews: Sequence[_Preview], license_id: str, base_model: str | None
) -> ModelCardData:
    widget = [{"text": each.image.prompt, "output": {"url": each.path}} for each in previews]
    return ModelCardData(
        base_model=base_model,
        library_name="diffusers",
        license=license_id,
        pipeline_tag="text-to-image",
        tags=_TAGS,
        instance_prompt=f"a photo of {manifest.placeholder}",
        widget=widget or None,
    )


def _body(
    manifest: Manifest,
    previews: Sequence[_Preview],
    own_file: str,
    is_for_diffusers: bool,
    note: str | None,
) -> str:
    """Return the text of the card below its metadata."""
    placeholder, num_vectors = manifest.placeholder, max(manifest.num_vectors.values())
    vectors = "one vector" if num_vectors == 1 else f"{num_vectors} vectors"
    parts = [
        f"# {placeholder}",
        f"The token `{placeholder}` stands for one subject in prompts of `{manifest.model}`, such "
        f"as `a photo of a {placeholder} on a beach`. It is a Textual Inversion embedding of "
        f"{vectors} for each text encoder, made with [dti]"
        "(https://arxiv.org/abs/2512.13672) (Directional Textual Inversion).",
        *_table(manifest),
        *[f"![{each.image.prompt}]({each.path})" for each in previews],
        "## Use",
        "```python\nfrom dti_engine import load_token\n\n"
        f'name = load_token(pipeline, "{own_file}")  # a pipeline of diffusers\n'
        f'image = pipeline(f"a photo of a {{name}} on a beach").images[0]\n```',
    ]
    if is_for_diffusers:
        files = "`learned_embeds.safetensors`"
        files += " and `learned_embeds_2.safetensors`" if len(manifest.magnitudes) > 1 else ""
        parts.append(
            f"Without dti, `load_textual_inversion` of diffusers takes {files}"
            + (f"; {note}." if note else ".")
        )
    parts.append(
        f"`dti export {own_file} --format comfyui --output NAME.safetensors` writes a file for "
        "ComfyUI, and `dti export --help` lists the other programs."
    )
    return "\n\n".join(parts) + "\n"


def _table(manifest: Manifest) -> list[str]:
    """Return the facts of the training as one table; nothing for a token that was not trained."""
    training = manifest.training
    if training is None:
        return []
    facts: dict[str, object] = {
        "started at the word": f"`{training.initializer}`",
        "training images": len(training.images),
        "steps": training.steps_done,
    }
    quality = training.quality
    if quality and quality.subject_score is not None and quality.prompt_score is not None:
        facts["subject score"] = f"{quality.subject_score:.3f}, by {quality.scorer}"
        facts["prompt score"] = f"{quality.prompt_score:.3f}, by {quality.scorer}"
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    return ["\n".join(["| | |", "|---|---|", *rows])]
