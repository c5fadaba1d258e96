"""A model's folder in the diffusers layout: `model_index.json` and one folder per part.

Parts are read one by one, so a folder needs only those that its family uses. Only safetensors files
are read, since a pickle can run code.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dti_engine import devices
from dti_engine.backbones.registry import FAMILIES, catalogue
from dti_engine.errors import ModelLoadError

MINIATURE = Path(__file__).parents[1] / "miniature" / "weights"

# A short name or hub id; a revision is a tag, a commit or a branch, which may contain slashes.
_HUB_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")
# Only these parts are downloaded: a repository may hold 60 GB more, such as the same weights in one
# file, in half precision or for other programs, and parts that no family uses.
_HUB_PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "unet")
_INDEX = "model_index.json"
_HUB_FILES = [_INDEX, "scheduler/*.json"] + [
    f"{part}/*.{suffix}"
    for part in (*_HUB_PARTS, "vae")
    for suffix in ("json", "txt", "model", "safetensors")
]
_HUB_IGNORED = [f"*.{variant}{end}*" for variant in ("fp16", "bf16", "non_ema") for end in ".-"]

_VARIANT = re.compile(r"\.(?P<name>fp16|bf16)[.-]")

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=nn.Module)


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder; `index` is its model_index.json, with the classes of pipeline and parts."""

    name: str
    folder: Path
    index: Mapping[str, Any]

    @property
    def pipeline(self) -> str:
        """Return the class name of the diffusers pipeline that the weights belong to."""
        return str(self.index.get("_class_name"))

    def config(self, part: str) -> dict[str, Any]:
        """Return the part's config.json.

        Raises:
            ModelLoadError: It cannot be read.
        """
        return self.read(part, lambda folder: json.loads((folder / "config.json").read_text()))

    def read(self, part: str, reader: Callable[[Path], T]) -> T:
        """Return the result of calling `reader` with the part's folder.

        Raises:
            ModelLoadError: The folder is missing, or `reader` fails.
        """
        folder = self.folder / part
        if not folder.is_dir():
            raise ModelLoadError(
                f"checkpoint {self.name!r} has no folder {part!r}; download it again, whole"
            )
        try:
            return reader(folder)
        # What both libraries raise for a damaged folder. Anything else is a bug of ours, which
        # keeps its traceback.
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as cause:
            raise ModelLoadError(
                f"part {part!r} of checkpoint {self.name!r} cannot be read: "
                f"{str(cause).rstrip('. ')}. Download it again, with its .safetensors files"
            ) from cause

    def model(
        self,
        model_class: type[ModelT],
        part: str,
        *,
        device: torch.device,
        dtype: torch.dtype | None,
        **options: Any,
    ) -> ModelT:
        """Return a part as an instance of this class, frozen; dtype None: as stored.

        Raises:
            ModelLoadError: It is missing, of another class, damaged or incomplete, or memory runs
                out.
        """
        # Before any weight is read: `from_pretrained` of another class would load what fits by
        # name, fill the rest with random numbers, and only log that.
        _, found = self.index.get(part) or (None, None)
        if found != model_class.__name__:
            raise ModelLoadError(
                f"part {part!r} of checkpoint {self.name!r} is a {found}; {self.pipeline} is "
                f"supported with a {model_class.__name__}"
            )
        from_pretrained: Callable[..., tuple[ModelT, dict[str, Any]]]
        from_pretrained = cast(Any, model_class).from_pretrained  # transformers and diffusers alike
        dtype = dtype or self.read(part, _stored_dtype)
        # Local alone: a file that is missing here must be an error, and never a download of another
        # version of it. Safetensors alone: a pickle could run code.
        options |= {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
        options["variant"] = _variant(self.folder / part)
        model, report = self.read(
            part, lambda folder: from_pretrained(folder, output_loading_info=True, **options)
        )
        # Both libraries initialise missing weights at random, and only log it.
        if missing := sorted(report["missing_keys"]):
            raise ModelLoadError(
                f"part {part!r} of checkpoint {self.name!r} lacks {len(missing)} weights, such as "
                f"{missing[0]!r}; download it again"
            )
        try:
            # Frozen: autograd then keeps only what the way back to the learned rows needs.
            return model.to(device).eval().requires_grad_(False)
        except RuntimeError as cause:
            if not devices.is_out_of_memory(cause):
                raise
            raise ModelLoadError(
                f"memory runs out on {device} while {part!r} of {self.name!r} is loaded; "
                "`dti models` lists how much memory models need"
            ) from cause


def open_checkpoint(weights: str | Path) -> ModelFolder:
    """Open a model by folder, short name or hub id; models of the hub are downloaded once.

    A short name is "miniature" or one of the catalogue. It has priority over a folder of the same
    name, which can be given as a path, "./sdxl". Hub ids and short names may end in "@revision".

    Raises:
        ModelLoadError: There is no such model, it is not in the diffusers layout, or its family is
            not supported.
    """
    name, folder = _locate(weights)
    return ModelFolder(name, folder, _read_index(str(weights), folder))


def require_downloadable(name: str) -> None:
    """Raise ModelLoadError unless a name is a short name or a hub id. Asks nobody."""
    found = _HUB_NAME.fullmatch(name)
    if name == "miniature" or (found and (found["name"] in catalogue() or "/" in found["name"])):
        return
    raise ModelLoadError(
        f"{name!r} is no name of `dti models` ({', '.join(['miniature', *catalogue()])}), and no "
        "hub id such as 'stabilityai/stable-diffusion-xl-base-1.0'"
    )


def _stored_dtype(folder: Path) -> torch.dtype:
    """Return the dtype of the largest weight in a part's files; its config may state another.

    Raises:
        OSError: There are no weight files.
    """
    sizes: list[tuple[int, str]] = []
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                each = tensors.get_slice(name)
                sizes.append((math.prod(each.get_shape()), each.get_dtype()))
    if not sizes:
        raise OSError("it has no .safetensors files")
    # The largest weight decides: norms often stay in float32 beside 16-bit matrices.
    return {"BF16": torch.bfloat16, "F16": torch.float16}.get(max(sizes)[1], torch.float32)


def _variant(folder: Path) -> str | None:
    """Return the variant of a part's weight files if all have one, else None."""
    variants = {_VARIANT.search(path.name) for path in folder.glob("*.safetensors")}
    # A file without a variant belongs to the complete set, which has priority.
    names = {found["name"] if found else None for found in variants}
    return None if None in names else min(filter(None, names), default=None)


def _read_index(name: str, folder: Path) -> dict[str, Any]:
    try:
        index = dict(json.loads((folder / _INDEX).read_text()))
    except (OSError, ValueError, TypeError) as cause:
        raise ModelLoadError(
            f"{name!r} has no readable {_INDEX}; give a folder in the diffusers layout (convert a "
            "single .safetensors file first)"
        ) from cause
    if (pipeline := index.get("_class_name")) not in FAMILIES:
        raise ModelLoadError(
            f"checkpoint {name!r} is for {pipeline}; supported are {', '.join(sorted(FAMILIES))}"
        )
    return index


def _locate(weights: str | Path) -> tuple[str, Path]:
    """Return the name by which users know the model, and its folder."""
    if weights == "miniature":
        if not MINIATURE.is_dir():
            raise ModelLoadError(
                "the miniature's weights are not in this installation; install the package with "
                "its data, or make them with `python -m dti_engine.miniature.recipe`"
            )
        return "miniature", MINIATURE
    # A `Path` is always a folder, also if it looks like a hub id.
    found = _HUB_NAME.fullmatch(weights) if isinstance(weights, str) else None
    if found and (known := catalogue().get(found["name"])) and known.hub_id:
        return known.hub_id, _download(known.hub_id, found["revision"])
    folder = Path(weights).expanduser()
    if folder.exists():
        return folder.resolve().name, folder
    if found and "/" in found["name"]:
        return found["name"], _download(found["name"], found["revision"])
    raise ModelLoadError(
        f"there are no weights at {str(weights)!r}; give a folder in the diffusers layout, a name "
        f"of `dti models` ({', '.join(['miniature', *catalogue()])}), or a hub id such as "
        "'stabilityai/stable-diffusion-xl-base-1.0', with '@revision' if need be"
    )


def _download(hub_id: str, revision: str | None) -> Path:
    # The index is checked first, so that an unsupported model costs no download of gigabytes.
    _read_index(hub_id, _fetch(hub_id, revision, [_INDEX]))
    folder = _fetch(hub_id, revision, _HUB_FILES)
    if any(folder.glob("*/*.safetensors")):
        return folder
    return _fetch(hub_id, revision, _HUB_FILES, ignored=[])  # there are only variants


def _fetch(
    hub_id: str, revision: str | None, files: list[str], *, ignored: list[str] = _HUB_IGNORED
) -> Path:
    import huggingface_hub  # not needed where weights are local

    try:
        snapshot = huggingface_hub.snapshot_download(
            hub_id, revision=revision, allow_patterns=files, ignore_patterns=ignored
        )
    # All errors: a connection that breaks in the middle of a file is one of the HTTP library, which
    # is another one in each version of the hub's client.
    except Exception as cause:
        requested = f"{hub_id}@{revision}" if revision else hub_id
        raise ModelLoadError(
            f"{requested!r} is not a folder, and downloading it failed: {str(cause).rstrip('. ')}. "
            f"{_remedy(hub_id)}"
        ) from cause
    return Path(snapshot)


def _remedy(hub_id: str) -> str:
    for model in catalogue().values():
        if hub_id in model.former_ids:
            return (
                f"Its publisher has withdrawn it; {model.name!r} is a copy of it ({model.hub_id}). "
                "Or give a folder with its weights"
            )
    return (
        "Check the name, the revision and the network. For a gated or private model, accept its "
        "terms on its page and log in with `hf auth login`. For a withdrawn one, give a mirror, or "
        "a folder with its weights"
    )


def require_rows(name: str, tokenizer: Sized, table: Tensor) -> None:
    """Check that a text encoder's table has a row for every token of its tokenizer.

    More rows are valid: tables are padded to round sizes.

    Raises:
        ModelLoadError: It has fewer rows.
    """
    if len(tokenizer) > len(table):
        raise ModelLoadError(
            f"the tokenizer of {name!r} knows {len(tokenizer)} tokens and its model {len(table)}; "
            "they do not belong together, or tokens were added to one alone"
        )
