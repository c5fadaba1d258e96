"""The sizes of the recipe, for two CPU cores or for a GPU."""

from dataclasses import dataclass

from dti_engine.miniature.training.loop import Schedule


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
