"""Makes the miniature's weights from nothing: `python -m dti_engine.miniature.recipe --work DIR`.

Stages, each resumable: pictures, autoencoder, text encoder, scorer, denoiser, export. The work folder holds pictures
and checkpoints; the finished model goes to `weights/` in the ordinary diffusers layout, with a model card.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from dti_engine.miniature import autoencoder, denoiser, scorer, text
from dti_engine.miniature.dataset import SHARD, pictures, to_pixels
from dti_engine.miniature.loop import Schedule, fit
from dti_engine.miniature.scorer_training import make_scorer_loss

SEED = 1


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything. The two sizes differ in data, steps and the denoiser's channels only."""

    num_shards: int
    autoencoder_shards: int
    denoiser_shards: int
    channels: tuple[int, int]
    autoencoder: Schedule
    reader: Schedule
    scorer: Schedule
    denoiser: Schedule
    autoencoder_batch: int
    reader_batch: int
    scorer_batch: int
    denoiser_batch: int

    @property
    def num_pictures(self) -> int:
        return self.num_shards * SHARD


SIZES = {
    "cpu": Size(
        num_shards=16,
        autoencoder_shards=4,
        denoiser_shards=10,
        channels=(64, 160),
        autoencoder=Schedule(steps=2200, lr=2e-3, decay_share=0.4, ema=0.995),
        reader=Schedule(steps=1200, lr=1e-3, decay_share=0.4, ema=0.995),
        scorer=Schedule(steps=2400, lr=2e-3, decay_share=0.5, ema=0.99),
        denoiser=Schedule(steps=12_000, lr=8e-4, warmup=200, decay_share=0.25, ema=0.999),
        autoencoder_batch=16,
        reader_batch=128,
        scorer_batch=96,
        denoiser_batch=32,
    ),
    "gpu": Size(
        num_shards=48,
        autoencoder_shards=16,
        denoiser_shards=48,
        channels=(128, 256),
        autoencoder=Schedule(steps=12_000, lr=1e-3, decay_share=0.4, ema=0.998),
        reader=Schedule(steps=6_000, lr=1e-3, decay_share=0.4, ema=0.998),
        scorer=Schedule(steps=4_000, lr=2e-3, decay_share=0.5, ema=0.99),
        denoiser=Schedule(steps=40_000, lr=6e-4, warmup=500, decay_share=0.3, ema=0.9995),
        autoencoder_batch=64,
        reader_batch=256,
        scorer_batch=256,
        denoiser_batch=256,
    ),
}

Report = Callable[[str, int, int, dict[str, float]], None]


class Recipe:
    """One run of the recipe in a work folder. Each stage returns its finished part, training it first if need be."""

    def __init__(self, size: Size, work: Path, device: torch.device, on_step: Report) -> None:
        self.size, self.work, self.device, self.on_step = size, work, device, on_step
        work.mkdir(parents=True, exist_ok=True)

    def pictures(self) -> np.ndarray:
        return pictures(self.work, self.size.num_shards,
                        lambda k: self.on_step("pictures", k + 1, self.size.num_shards, {}))  # fmt: skip

    def autoencoder(self) -> AutoencoderKL:
        torch.manual_seed(SEED)
        vae = autoencoder.new_autoencoder().to(self.device)
        drawn = self.pictures()
        seen = drawn[: self.size.autoencoder_shards * SHARD]
        loss_of = autoencoder.make_autoencoder_loss(
            vae, seen, self.size.autoencoder_batch, self.device
        )
        fit("autoencoder", vae, loss_of, self.size.autoencoder, self.work, on_step=self.on_step)
        autoencoder.set_scaling(vae, to_pixels(drawn[:1024]).to(self.device))
        return vae.requires_grad_(False)

    def tokenizer(self) -> CLIPTokenizer:
        return text.new_tokenizer(text.world_words())

    def text_encoder(self) -> CLIPTextModel:
        torch.manual_seed(SEED + 1)
        tokenizer = self.tokenizer()
        reader = text.Reader(text.new_text_encoder(tokenizer)).to(self.device)
        captions = text.Captions(tokenizer, self.size.num_pictures)
        loss_of = text.make_reader_loss(reader, captions, self.size.reader_batch, self.device)
        fit("reader", reader, loss_of, self.size.reader, self.work, on_step=self.on_step)
        text.zero_unseen_rows(reader.encoder, captions)
        return reader.encoder.requires_grad_(False)

    def scorer(self) -> scorer.Scorer:
        torch.manual_seed(SEED + 2)
        network = scorer.Scorer().to(self.device)
        loss_of = make_scorer_loss(
            network, self.autoencoder(), self.pictures(), self.size.scorer_batch, self.device
        )
        fit("scorer", network, loss_of, self.size.scorer, self.work, on_step=self.on_step)
        return network.requires_grad_(False)

    def denoiser(self) -> UNet2DConditionModel:
        torch.manual_seed(SEED + 3)
        tokenizer, encoder, vae = self.tokenizer(), self.text_encoder(), self.autoencoder()
        num_seen = self.size.denoiser_shards * SHARD
        captions = text.Captions(tokenizer, num_seen)
        latents = autoencoder.encode_all(
            vae, self.pictures()[:num_seen], self.work / "latents.pt", self.device
        )
        hidden = denoiser.encode_captions(encoder, captions, self.work / "hidden.pt", self.device)
        empty = tokenizer([""], padding="max_length", max_length=text.LENGTH, return_tensors="pt")[
            "input_ids"
        ]
        with torch.no_grad():
            unnamed = encoder(empty.to(self.device)).last_hidden_state[0].cpu()
        unet = denoiser.new_denoiser(self.size.channels).to(self.device)
        loss_of = denoiser.make_denoiser_loss(
            unet, latents, hidden, unnamed, self.size.denoiser_batch, self.device
        )
        fit("denoiser", unet, loss_of, self.size.denoiser, self.work, on_step=self.on_step)
        return unet.requires_grad_(False)

    def export(self, folder: Path) -> None:
        """The whole model in the ordinary diffusers layout, and the scorer beside it."""
        pipeline = StableDiffusionPipeline(
            vae=self.autoencoder().cpu(),
            text_encoder=self.text_encoder().cpu(),
            tokenizer=self.tokenizer(),
            unet=self.denoiser().cpu(),
            scheduler=denoiser.new_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(folder)
        scorer.save_scorer(self.scorer().cpu(), folder / "scorer.safetensors")


def _print_step(name: str, step: int, steps: int, figures: dict[str, float]) -> None:
    if step % 50 == 0 or step == steps:
        shown = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
        print(f"{time.strftime('%H:%M:%S')}  {name} {step}/{steps}  {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for pictures and checkpoints (1 to 5 GB)"
    )
    parser.add_argument(
        "--size", choices=SIZES, default="gpu" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights")
    parser.add_argument("--stage", choices=("autoencoder", "text_encoder", "scorer", "denoiser", "export"),
                        default="export", help="stop after this stage")  # fmt: skip
    parser.add_argument("--denoiser-steps", type=int, help="another length than the size's")
    options = parser.parse_args()
    size = SIZES[options.size]
    if options.denoiser_steps:
        size = replace(size, denoiser=replace(size.denoiser, steps=options.denoiser_steps))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = Recipe(size, options.work, device, _print_step)
    if options.stage == "export":
        recipe.export(options.out)
    else:
        getattr(recipe, options.stage)()


if __name__ == "__main__":
    main()
