"""Textual Inversion in a plain loop like diffusers' example scripts: the baseline of `subjects`.

The loop does what `textual_inversion.py` and `textual_inversion_sdxl.py` do by default:

- images are read from their files, resized and flipped for every sample, in the same process,
  and encoded by the autoencoder in every step;
- the placeholder is a new word of every tokenizer, and a new row of every embedding table; captions
  are tokenized for every sample, and padded to 77;
- AdamW (betas 0.9 and 0.999, decay 1e-2) over the whole table or tables, with gradients of the
  same size; after each step all other rows are restored from a copy;
- the text encoder is in float32 under autocast, the second one of SDXL in the dtype of the UNet, as
  is the autoencoder; denoiser and autoencoder are frozen, attention is torch's;
- a mean squared error against noise or velocity, at uniform times; one subject, a constant rate.

Differences from the scripts favour the loop, so that the engine is compared with the best case:
accelerate, progress, logs (the scripts wait for the device in every step to print the loss),
validation images and saving every 500 steps are left out. The batch is as large as the engine's;
the scripts' README accumulates 4 steps of one sample, which is slower. Gradient checkpointing, an
option of the scripts, is used only where memory is short. Images have the size of the crops, so
that reading them costs as little as possible.
"""

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

PLACEHOLDER = "<learned>"


class PlainLoop:
    """The training loop of one subject. It takes over the parts of a pipeline and changes them."""

    def __init__(
        self,
        pipeline: Any,
        images: Sequence[Path],
        captions: Sequence[str],
        *,
        initializer: str,
        resolution: int,
        batch_size: int,
        lr: float = 2e-3,
    ) -> None:
        """Prepare the loop.

        Args:
            pipeline: Stable Diffusion 1, 2 or XL, with all parts in the dtype of the UNet.
            images: The files of the subject's images.
            captions: Templates with `{}` for the placeholder.
            initializer: One word of the vocabulary, at whose row the new row starts.
            resolution: The side of the training images in pixels.
            batch_size: The samples of a step.
            lr: The learning rate; by default that of the scripts' README times the batch size.
        """
        self._unet, self._vae = pipeline.unet, pipeline.vae
        self._device, self._dtype = pipeline.unet.device, pipeline.unet.dtype
        self._resolution = resolution
        self._schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.encoders: list[Any] = [pipeline.text_encoder.float()]
        tokenizers = [pipeline.tokenizer]
        if getattr(pipeline, "text_encoder_2", None) is not None:
            self.encoders.append(pipeline.text_encoder_2)
            tokenizers.append(pipeline.tokenizer_2)
        self._row_numbers = [
            _add_placeholder(*each, initializer)
            for each in zip(self.encoders, tokenizers, strict=True)
        ]
        tables = [encoder.get_input_embeddings().weight for encoder in self.encoders]
        self.originals = [table.detach().clone() for table in tables]
        self._optimizer = torch.optim.AdamW(tables, lr=lr, betas=(0.9, 0.999), weight_decay=1e-2)
        data = _Samples(images, captions, tokenizers, resolution)
        self._batches = _endless(DataLoader(data, batch_size, shuffle=True, drop_last=True))

    def recompute(self) -> None:
        """Turn on gradient checkpointing, as an option of the scripts does."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # transformers renames the method
            for encoder in self.encoders:
                encoder.gradient_checkpointing_enable()
        self._unet.train()
        self._unet.enable_gradient_checkpointing()

    def step(self) -> Tensor:
        """Take one step and return the loss, without waiting for the device."""
        batch = next(self._batches)
        pixels = batch["pixels"].to(self._device, self._dtype)
        with torch.no_grad():
            latents = self._vae.encode(pixels).latent_dist.sample()
        latents = latents * self._vae.config.scaling_factor
        noise = torch.randn_like(latents)
        last = self._schedule.config.num_train_timesteps
        times = torch.randint(0, last, (len(latents),), device=self._device)
        noisy = self._schedule.add_noise(latents, noise, times)
        hidden, more = self._read(batch)
        output = self._unet(noisy, times, hidden, **more).sample
        target = noise
        if self._schedule.config.prediction_type == "v_prediction":
            target = self._schedule.get_velocity(latents, noise, times)
        loss = functional.mse_loss(output.float(), target.float())
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._restore()
        return loss.detach()

    def _read(self, batch: Any) -> tuple[Tensor, dict[str, Any]]:
        """Return the hidden states for the UNet, and its other arguments."""
        ids = [each.to(self._device) for each in batch["ids"]]
        if len(ids) == 1:
            with self._autocast():
                hidden = self.encoders[0](ids[0])[0]
            return hidden.to(self._dtype), {}
        with self._autocast():
            first = self.encoders[0](ids[0], output_hidden_states=True)
            second = self.encoders[1](ids[1], output_hidden_states=True)
        read = [each.hidden_states[-2].to(self._dtype) for each in (first, second)]
        sizes = batch["micro_conditioning"].to(self._device, self._dtype)
        added = {"text_embeds": second[0].to(self._dtype), "time_ids": sizes}
        return torch.cat(read, dim=-1), {"added_cond_kwargs": added}

    def _autocast(self) -> AbstractContextManager[Any]:
        is_mixed = self._dtype != torch.float32
        return torch.autocast(self._device.type, self._dtype if is_mixed else None, is_mixed)

    @torch.no_grad()
    def _restore(self) -> None:
        """Restore all rows but the new one, because AdamW's weight decay has moved them."""
        every = zip(self.encoders, self.originals, self._row_numbers, strict=True)
        for encoder, original, row in every:
            others = torch.ones(len(original), dtype=torch.bool)
            others[row] = False
            encoder.get_input_embeddings().weight[others] = original[others]


class _Samples(Dataset[dict[str, Any]]):
    """A dataset that repeats each image a hundred times, with a random caption each time."""

    def __init__(
        self,
        images: Sequence[Path],
        captions: Sequence[str],
        tokenizers: Sequence[Any],
        resolution: int,
    ) -> None:
        self._images, self._captions = images, captions
        self._tokenizers, self._resolution = tokenizers, resolution

    def __len__(self) -> int:
        return 100 * len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        size = self._resolution
        image = Image.open(self._images[index % len(self._images)]).convert("RGB")
        height, width = image.height, image.width
        # The image is squashed to a square, so the crop is all of it.
        image = image.resize((size, size), Image.Resampling.BICUBIC)
        if random.random() < 0.5:
            image = ImageOps.mirror(image)
        pixels = (np.array(image) / 127.5 - 1.0).astype(np.float32)
        text = random.choice(self._captions).format(PLACEHOLDER)
        return {
            "pixels": torch.from_numpy(pixels).permute(2, 0, 1),
            "micro_conditioning": torch.tensor([height, width, 0, 0, size, size]),
            "ids": [
                tokenizer(
                    text,
                    padding="max_length",
                    truncation=True,
                    max_length=tokenizer.model_max_length,
                    return_tensors="pt",
                ).input_ids[0]
                for tokenizer in self._tokenizers
            ],
        }


def _add_placeholder(encoder: Any, tokenizer: Any, initializer: str) -> int:
    """Add the placeholder as a word, and return its row, which starts at the initializer's."""
    (start,) = tokenizer(initializer, add_special_tokens=False)["input_ids"]
    tokenizer.add_tokens(PLACEHOLDER)
    number = tokenizer.convert_tokens_to_ids(PLACEHOLDER)
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    encoder.requires_grad_(False).train()
    table = encoder.get_input_embeddings().weight.requires_grad_()
    with torch.no_grad():
        table[number] = table[start]
    return number


def _endless(loader: DataLoader[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    while True:
        yield from loader
