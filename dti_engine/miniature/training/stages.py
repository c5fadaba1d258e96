"""The stages of the recipe, and their sizes for two CPU cores or for a GPU.

Each part is trained when needed, or loaded from the work folder. The last stage exports the
miniature into a folder that diffusers opens.
"""

import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from dti_engine.files import atomic_write, environment
from dti_engine.miniature.examine import COUNT, examine, publish
from dti_engine.miniature.model_card import FACTS, write_card
from dti_engine.miniature.pipeline import to_pixels
from dti_engine.miniature.progress import Report
from dti_engine.miniature.scorer import Scorer, save_scorer
from dti_engine.miniature.training import text_encoder as text
from dti_engine.miniature.training.loop import (
    LossOf,
    Schedule,
    atomic_save,
    fit,
    images,
    read_progress,
    stored_tensor,
)
from dti_engine.miniature.training.networks import (
    EncodedWorld,
    encode_images,
    make_autoencoder_loss,
    make_denoiser_loss,
    make_scorer_loss,
    new_autoencoder,
    new_denoiser,
    new_scheduler,
    set_scaling,
)
from dti_engine.miniature.training.text_encoder import new_tokenizer, world_words


@dataclass(frozen=True, slots=True)
class Training:
    """The training of one part: its schedule, and the number of examples that it sees."""

    schedule: Schedule
    batch_size: int
    num_examples: int


@dataclass(frozen=True, slots=True)
class Size:
    """A size of the recipe: data, steps and batches; the model is the same in all sizes."""

    channels: tuple[int, int]
    autoencoder: Training
    reader: Training
    scorer: Training
    denoiser: Training

    @property
    def num_examples(self) -> int:
        """Return the number of examples that must be drawn."""
        trainings = (self.autoencoder, self.reader, self.scorer, self.denoiser)
        return max(training.num_examples for training in trainings)


SIZES = {
    "cpu": Size(
        channels=(64, 160),
        autoencoder=Training(
            Schedule(steps=2200, lr=2e-3, decay_share=0.4, ema=0.995),
            batch_size=16,
            num_examples=16_384,
        ),
        reader=Training(
            Schedule(steps=1200, lr=1e-3, decay_share=0.4, ema=0.995),
            batch_size=128,
            num_examples=65_536,
        ),
        scorer=Training(
            Schedule(steps=2400, lr=2e-3, decay_share=0.5, ema=0.99),
            batch_size=96,
            num_examples=65_536,
        ),
        denoiser=Training(
            Schedule(steps=12_000, lr=8e-4, warmup=200, decay_share=0.25, ema=0.999),
            batch_size=32,
            num_examples=40_960,
        ),
    ),
    "gpu": Size(
        channels=(64, 160),  # as on a CPU, since the model must generate there too
        autoencoder=Training(
            Schedule(steps=12_000, lr=1e-3, decay_share=0.4, ema=0.998),
            batch_size=64,
            num_examples=65_536,
        ),
        reader=Training(
            Schedule(steps=6_000, lr=1e-3, decay_share=0.4, ema=0.998),
            batch_size=256,
            num_examples=196_608,
        ),
        scorer=Training(
            Schedule(steps=4_000, lr=2e-3, decay_share=0.5, ema=0.99),
            batch_size=256,
            num_examples=196_608,
        ),
        denoiser=Training(
            Schedule(steps=40_000, lr=6e-4, warmup=500, decay_share=0.3, ema=0.9995),
            batch_size=256,
            num_examples=196_608,
        ),
    ),
}


SEED = 1
_TIMED_STAGES = ("images", "autoencoder", "reader", "scorer", "latents", "hidden", "denoiser")
_SCALING_IMAGES = 1024  # enough to estimate the deviation of latents

ModelT = TypeVar("ModelT", bound=nn.Module)


class Stages:
    """A run of the recipe; accessing a part trains whatever it needs that is not in `work`."""

    def __init__(self, size: Size, work: Path, device: torch.device, report: Report) -> None:
        self._size, self._work, self._device, self._report = size, work, device, report
        work.mkdir(parents=True, exist_ok=True)

    @cached_property
    def images(self) -> np.ndarray:
        """Return (N, SIZE, SIZE, 3) uint8; image i shows example i."""
        return images(
            self._work,
            self._size.num_examples,
            on_shard=lambda done, total: self._report("images", done, total, {}),
        )

    @cached_property
    def captions(self) -> text.Captions:
        """Return the captions; caption i is of example i."""
        return text.read_captions(self.tokenizer, self._size.num_examples)

    @cached_property
    def autoencoder(self) -> AutoencoderKL:
        vae = self._new(new_autoencoder, SEED)
        training = self._size.autoencoder
        loss_of = make_autoencoder_loss(
            vae, self.images[: training.num_examples], training.batch_size, self._device
        )
        self._fit("autoencoder", vae, loss_of, training)
        # After a resume too: the factor is in the model's config, which no checkpoint has.
        set_scaling(vae, to_pixels(self.images[:_SCALING_IMAGES]).to(self._device))
        return vae

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return new_tokenizer(world_words())

    @cached_property
    def text_encoder(self) -> CLIPTextModel:
        tokenizer, training = self.tokenizer, self._size.reader
        reader = self._new(lambda: text.Reader(text.new_text_encoder(tokenizer)), SEED + 1)
        captions = self.captions.first(training.num_examples)
        loss_of = text.make_reader_loss(reader, captions, training.batch_size, self._device)
        self._fit("reader", reader, loss_of, training)
        text.zero_unseen_rows(reader.encoder, captions.ids)
        return reader.encoder

    @cached_property
    def scorer(self) -> Scorer:
        scorer, training = self._new(Scorer, SEED + 2), self._size.scorer
        loss_of = make_scorer_loss(
            scorer,
            self.autoencoder,
            self.images[: training.num_examples],
            self.captions.answers,
            training.batch_size,
            self._device,
        )
        self._fit("scorer", scorer, loss_of, training)
        return scorer

    @cached_property
    def denoiser(self) -> UNet2DConditionModel:
        world = self._encoded_world()
        unet = self._new(lambda: new_denoiser(self._size.channels), SEED + 3)
        training = self._size.denoiser
        loss_of = make_denoiser_loss(unet, world, training.batch_size, self._device)
        self._fit("denoiser", unet, loss_of, training)
        return unet

    def _encoded_world(self) -> EncodedWorld:
        count = self._size.denoiser.num_examples

        def latents() -> Tensor:
            return encode_images(
                self.autoencoder,
                self.images[:count],
                self._device,
                on_images=lambda done: self._report("latents", done, count, {}),
            )

        def hidden() -> Tensor:
            return text.encode_captions(
                self.text_encoder,
                self.captions.ids[:count],
                self._device,
                on_captions=lambda done: self._report("hidden", done, count, {}),
            )

        return EncodedWorld(
            stored_tensor(self._work / "latents.pt", count, latents),
            stored_tensor(self._work / "hidden.pt", count, hidden),
            text.encode_empty(self.text_encoder, self.tokenizer, self._device),
        )

    def export(self, folder: Path, *, command: str) -> None:
        """Write the model, with the facts and the card that tell how `command` made it."""
        parts = Parts(
            self.autoencoder, self.text_encoder, self.tokenizer, self.denoiser, self.scorer
        )
        export(parts, folder)
        facts = {
            "command": command,
            "seed": SEED,
            "size": asdict(self._size),
            "stages": {name: read_progress(self._work, name) for name in _TIMED_STAGES},
            "commit": commit(),
            "environment": environment(self._device),
        }
        atomic_write(folder / FACTS, (json.dumps(facts, indent=2) + "\n").encode())
        write_card(folder)

    def examine(self, folder: Path) -> None:
        """Score the exported model, complete its card, and write a contact sheet into `work`."""
        examination = examine(
            folder,
            device=self._device,
            on_images=lambda done: self._report("examination", done, COUNT, {}),
        )
        publish(examination, folder, sheet=self._work / "sheet.png")

    def _new(self, make: Callable[[], ModelT], seed: int) -> ModelT:
        """Return a randomly initialised part, as the seed decides."""
        torch.manual_seed(seed)
        # The seed is set right before, so that a part is the same whichever others were trained in
        # this process or loaded.
        model = make()
        cast(nn.Module, model).to(self._device)  # diffusers hides the signature of `to`
        return model

    def _fit(self, name: str, model: nn.Module, loss_of: LossOf, training: Training) -> None:
        fit(name, model, loss_of, training.schedule, self._work, report=self._report)


@dataclass(frozen=True, eq=False)
class Parts:
    """The trained parts of a miniature."""

    autoencoder: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    denoiser: UNet2DConditionModel
    scorer: Scorer


def export(parts: Parts, folder: Path) -> None:
    """Write the model in the ordinary diffusers layout, and the scorer beside it."""
    build: Any = StableDiffusionPipeline  # its annotations require the optional parts
    pipeline = build(
        vae=parts.autoencoder,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.denoiser,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    save_scorer(parts.scorer, folder / "scorer.safetensors")
    for file in folder.rglob("*.safetensors"):
        halve(file)


def halve(file: Path) -> None:
    """Rewrite a file's weights in half precision.

    Only the file shrinks: configs still state float32, in which libraries compute, on CPUs too.
    Training ran in bfloat16, whose resolution of weights is coarser than half precision.
    """
    weights = load_file(file)
    halves = {key: w.half() if w.is_floating_point() else w for key, w in weights.items()}
    # transformers refuses a file without a format in its metadata.
    atomic_save(file, lambda unfinished: save_file(halves, unfinished, {"format": "pt"}))


_SOURCE = Path(__file__).parents[1]  # of the miniature, its world included


def commit() -> str | None:
    """Return the last commit that changed the miniature's source, or None where git has none."""
    try:
        revision = _git("log", "-1", "--format=%H", "--", "*.py")
        changed = _git("status", "--porcelain", "--", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    if not revision:
        return None
    return f"{revision}, with changes not yet committed" if changed else revision


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_SOURCE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
