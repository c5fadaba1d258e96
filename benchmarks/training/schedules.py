"""When to stop: constant rates, decay, averaged directions and a stop rule, on the miniature.

    python -m benchmarks.training.schedules [--subjects 6] [--seeds 5] [--work DIR] [--json FILE]

Each row is a way to train, with how many steps it took and what its tokens score, in 8 prompts
each. Differences to the reference, 400 steps at a constant rate, are paired: the same subjects,
images, seeds, draws, prompts and noise; their 95 % intervals come from resampling subjects. Rates
were chosen on others, those that settings are for.

What is done is kept in DIR: a run that was stopped goes on. Takes most of an hour on two CPU cores.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.devices import find_device, find_dtype
from dti_engine.evaluation.protocol import image_seed, training_seed
from dti_engine.evaluation.statistics import Array, bootstrap
from dti_engine.files import environment
from dti_engine.generation.pipeline import ImageRequest, generate
from dti_engine.images.decode import load_images
from dti_engine.miniature.world.subjects import (
    HeldOutSubject,
    draw_subject,
    evaluation_prompts,
    held_out_subjects,
)
from dti_engine.quality.token_scorers import TokenScorer, ValidationPrompt, find_scorer
from dti_engine.recipes import miniature_constant
from dti_engine.training.loop import Subject, train
from dti_engine.training.schedules import has_converged

NUM_IMAGES, NUM_SLOTS, IMAGE_STEPS, BATCH_SIZE = 5, 6, 12, 16
CONSTANT = miniature_constant()
COSINE = CONSTANT.changed(schedule="cosine")
REFERENCE = "constant, 400 steps"


@dataclass(frozen=True)
class Way:
    """A way to train, and the step at which its token is taken; 0: where the rule stops it."""

    title: str
    run: str  # of RUNS, in which it is found
    step: int
    patience: int = 0
    min_improvement: float = 0.02

    @property
    def rule(self) -> TrainConfig:
        return RUNS[self.run].changed(patience=self.patience, min_improvement=self.min_improvement)


RUNS = {
    "constant": CONSTANT,
    "averaged": CONSTANT.changed(ema_decay=0.9, steps=200),
    "cosine-200": COSINE.changed(lr=0.15, steps=200),
    "cosine-100": COSINE.changed(lr=0.15, steps=100),
    "cosine-50": COSINE.changed(lr=0.2, steps=50),
}
WAYS = (
    Way(REFERENCE, "constant", 400),
    Way("constant, 200 steps", "constant", 200),
    Way("constant, 100 steps", "constant", 100),
    Way("constant and averaged, 200 steps", "averaged", 200),
    Way("constant and averaged, 100 steps", "averaged", 100),
    Way("the same, patience 2, gain 2 %", "averaged", 0, patience=2, min_improvement=0.02),
    Way("the same, patience 3, gain 2 %", "averaged", 0, patience=3, min_improvement=0.02),
    Way("cosine from 0.15, 200 steps", "cosine-200", 200),
    Way("cosine from 0.15, 100 steps", "cosine-100", 100),
    Way("cosine from 0.2, 50 steps", "cosine-50", 50),
)
KEEP_AT = range(20, 401, 20)


@dataclass(frozen=True)
class Run:
    """One subject from one seed."""

    look: HeldOutSubject
    seed: int

    @property
    def name(self) -> str:
        return f"{self.look.name}-seed{self.seed}"


class Work:
    """The folder in which all is kept."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._scores = root / "scores.json"
        root.mkdir(parents=True, exist_ok=True)
        kept = self._scores.read_text() if self._scores.exists() else "{}"
        self.scores: dict[str, tuple[float, float]] = json.loads(kept)

    def photos(self, look: HeldOutSubject) -> Path:
        return self.root / "photos" / look.name

    def token(self, run: str, name: str, step: int) -> Path:
        return self.root / "tokens" / run / f"{name}-step{step}.safetensors"

    def looks(self, run: str, name: str) -> Path:
        """Its losses on the fixed batch."""
        return self.root / "tokens" / run / f"{name}.json"

    def add(self, key: str, scores: tuple[float, float]) -> None:
        self.scores[key] = scores
        self._scores.write_text(json.dumps(self.scores))


def train_missing(work: Work, backbone: Backbone, run: str, runs: Sequence[Run]) -> None:
    """Tokens and looks of one of RUNS; a subject whose looks are there is done."""
    config = RUNS[run]
    missing = {each.name: each for each in runs if not work.looks(run, each.name).exists()}

    def keep(subject: Subject, artifact: Artifact) -> None:
        assert artifact.manifest.training
        artifact.save(work.token(run, subject.id, artifact.manifest.training.steps_done))

    subjects = (
        Subject(
            each.name,
            load_images(work.photos(each.look)),
            each.look.placeholder,
            each.look.class_word,
            training_seed(0, each.look.name, each.seed),
        )
        for each in missing.values()
    )
    results = train(
        backbone, subjects, config, num_slots=NUM_SLOTS, snapshot_steps=KEEP_AT, on_snapshot=keep
    )
    for result in track(results, f"train {run}", total=len(missing), console=Console(stderr=True)):
        assert result.artifact, result.error
        keep(result.subject, result.artifact)
        training = result.artifact.manifest.training
        assert training
        every = config.eval_every
        looks = [training.first_fixed_loss]
        looks += [each.fixed_loss for each in result.metrics[every - 1 :: every]]
        work.looks(run, result.subject.id).write_text(json.dumps(looks))


def step_of(work: Work, way: Way, name: str) -> int:
    """The step at which the token is taken."""
    if way.step:
        return way.step
    looks = json.loads(work.looks(way.run, name).read_text())
    for count in range(1, len(looks)):
        if has_converged(looks[: count + 1], way.rule):
            return count * way.rule.eval_every
    return way.rule.steps


def score_missing(work: Work, backbone: Backbone, scorer: TokenScorer, runs: Sequence[Run]) -> None:
    """Both scores of every token that some way takes, as means over all prompts."""
    wanted = {
        (way.run, each.name, step_of(work, way, each.name)): each for way in WAYS for each in runs
    }
    missing = {key: each for key, each in wanted.items() if _key(*key) not in work.scores}
    for (run, name, step), each in track(
        missing.items(), "generate and score", console=Console(stderr=True)
    ):
        token = Artifact.load(work.token(run, name, step)).token
        prompts = [
            ValidationPrompt(
                asked.template, image_seed(0, each.look.name, i, 0), asked.asked, asked.place
            )
            for i, asked in enumerate(evaluation_prompts())
        ]
        requests = [
            ImageRequest(prompt.text(token.placeholder), prompt.seed, {token.placeholder: token})
            for prompt in prompts
        ]
        subject_images = generate(backbone, requests, steps=IMAGE_STEPS, batch_size=BATCH_SIZE)
        references = [subject_image.image for subject_image in load_images(work.photos(each.look))]
        scores = scorer.score(subject_images, prompts, references, each.look.class_word)
        subject, prompt = np.mean(scores, axis=0)
        work.add(_key(run, name, step), (float(subject), float(prompt)))


def _key(run: str, name: str, step: int) -> str:
    return f"{run}/{name}/{step}"


def rows(
    work: Work, looks: Sequence[HeldOutSubject], num_seeds: int
) -> Iterator[dict[str, object]]:
    """A row per way: steps, scores, and the differences to the reference."""

    def samples(way: Way) -> Array:
        """(subjects, 3): subject score, prompt score, steps; means over seeds."""
        found: list[list[float]] = []
        for look in looks:
            of_seeds: list[tuple[float, ...]] = []
            for seed in range(num_seeds):
                name = Run(look, seed).name
                step = step_of(work, way, name)
                of_seeds.append((*work.scores[_key(way.run, name, step)], float(step)))
            found.append(np.mean(of_seeds, axis=0).tolist())
        return np.array(found)

    reference = samples(WAYS[0])
    for way in WAYS:
        mine = samples(way)
        differences = mine - reference
        yield {
            "title": way.title,
            "steps": float(mine[:, 2].mean()),
            "subject_score": float(mine[:, 0].mean()),
            "prompt_score": float(mine[:, 1].mean()),
            "subject_difference": asdict(bootstrap(differences[:, 0])),
            "prompt_difference": asdict(bootstrap(differences[:, 1])),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=6, help="of 12 that settings never saw")
    parser.add_argument("--seeds", type=int, default=5, help="of training, for each subject")
    parser.add_argument("--work", type=Path, default=Path("schedules"), help="what is done is here")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    device = find_device("auto")
    dtype = find_dtype("auto", device)
    backbone = load_backbone("miniature", device=device, dtype=dtype)
    scorer = find_scorer("miniature")
    assert scorer
    work, looks = Work(options.work), held_out_subjects("evaluation")[: options.subjects]
    for look in looks:
        draw_subject(look, work.photos(look), count=NUM_IMAGES)
    runs = [Run(look, seed) for seed in range(options.seeds) for look in looks]
    for run in reversed(RUNS):  # the short ones first
        train_missing(work, backbone, run, runs)
    score_missing(work, backbone, scorer, runs)

    found = list(rows(work, looks, options.seeds))
    title = f"{len(looks)} subjects, {options.seeds} seeds each, {dtype} on {device.type}"
    table = Table("", "steps", "subject", "prompt", "subject, against 400", "prompt, against 400",
                  title=title)  # fmt: skip
    for row in found:
        differences = (row["subject_difference"], row["prompt_difference"])
        shown = ["{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**each) for each in differences]
        scores = [f"{row['subject_score']:.3f}", f"{row['prompt_score']:.3f}"]
        table.add_row(row["title"], f"{row['steps']:.0f}", *scores, *shown)
    Console(width=150).print(table)
    if options.json:
        document = {"environment": environment(device, dtype=dtype), "rows": found}
        options.json.write_text(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
