"""Training schedules and early stopping on the miniature, against 400 steps at a constant rate.

    python -m benchmarks.training.schedules [--subjects 6] [--seeds 5] [--work DIR] [--json FILE]

Each row is a schedule, with its mean number of steps and the mean subject and prompt scores of its
tokens in 8 prompts each, for n = 6 subjects (--subjects) with 5 seeds each (--seeds).

Differences from the reference, 400 steps at a constant rate, are paired: subjects, images, seeds,
draws, prompts and noise are the same. The 95 % intervals come from resampling subjects. The rates
were chosen on other subjects, those for tuning settings, so no schedule is fitted to these.

Finished work is kept in DIR, and a run that was stopped continues. All of it takes most of an hour
on two CPU cores.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.command_line import BenchmarkParser, write_json
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
class Schedule:
    """A row of the table: a run, and the step at which its token is taken.

    Step 0 is the step at which early stopping ends the run.
    """

    title: str
    run: str  # a key of RUNS
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
SCHEDULES = (
    Schedule(REFERENCE, "constant", 400),
    Schedule("constant, 200 steps", "constant", 200),
    Schedule("constant, 100 steps", "constant", 100),
    Schedule("constant and averaged, 200 steps", "averaged", 200),
    Schedule("constant and averaged, 100 steps", "averaged", 100),
    Schedule("the same, patience 2, gain 2 %", "averaged", 0, patience=2, min_improvement=0.02),
    Schedule("the same, patience 3, gain 2 %", "averaged", 0, patience=3, min_improvement=0.02),
    Schedule("cosine from 0.15, 200 steps", "cosine-200", 200),
    Schedule("cosine from 0.15, 100 steps", "cosine-100", 100),
    Schedule("cosine from 0.2, 50 steps", "cosine-50", 50),
)
KEEP_AT = range(20, 401, 20)


@dataclass(frozen=True)
class Run:
    """The training of one subject with one seed."""

    subject: HeldOutSubject
    seed: int

    @property
    def name(self) -> str:
        return f"{self.subject.name}-seed{self.seed}"


class WorkFolder:
    """The folder that keeps photos, tokens, losses and scores."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._scores = root / "scores.json"
        root.mkdir(parents=True, exist_ok=True)
        saved = self._scores.read_text() if self._scores.exists() else "{}"
        self.scores: dict[str, tuple[float, float]] = json.loads(saved)

    def photos(self, subject: HeldOutSubject) -> Path:
        return self.root / "photos" / subject.name

    def token(self, run: str, name: str, step: int) -> Path:
        return self.root / "tokens" / run / f"{name}-step{step}.safetensors"

    def losses(self, run: str, name: str) -> Path:
        """Return the file of the losses on the fixed batch."""
        return self.root / "tokens" / run / f"{name}.json"

    def add(self, key: str, scores: tuple[float, float]) -> None:
        self.scores[key] = scores
        self._scores.write_text(json.dumps(self.scores))


def train_missing(work: WorkFolder, backbone: Backbone, run: str, runs: Sequence[Run]) -> None:
    """Train the subjects of a run that have no file of losses yet; it is written last."""
    config = RUNS[run]
    missing = {each.name: each for each in runs if not work.losses(run, each.name).exists()}

    def keep(subject: Subject, artifact: Artifact) -> None:
        assert artifact.manifest.training
        artifact.save(work.token(run, subject.id, artifact.manifest.training.steps_done))

    subjects = (
        Subject(
            each.name,
            load_images(work.photos(each.subject)),
            each.subject.placeholder,
            each.subject.class_word,
            training_seed(0, each.subject.name, each.seed),
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
        losses = [training.first_fixed_loss]
        losses += [each.fixed_loss for each in result.metrics[every - 1 :: every]]
        work.losses(run, result.subject.id).write_text(json.dumps(losses))


def step_of(work: WorkFolder, schedule: Schedule, name: str) -> int:
    """Return the step at which the schedule takes its token of the named run."""
    if schedule.step:
        return schedule.step
    losses = json.loads(work.losses(schedule.run, name).read_text())
    for count in range(1, len(losses)):
        if has_converged(losses[: count + 1], schedule.rule):
            return count * schedule.rule.eval_every
    return schedule.rule.steps


def score_missing(
    work: WorkFolder, backbone: Backbone, scorer: TokenScorer, runs: Sequence[Run]
) -> None:
    """Score each token that a schedule takes and that has no scores yet: means over all prompts."""
    needed = {
        (schedule.run, each.name, step_of(work, schedule, each.name)): each
        for schedule in SCHEDULES
        for each in runs
    }
    missing = {key: each for key, each in needed.items() if _key(*key) not in work.scores}
    for (run, name, step), each in track(
        missing.items(), "generate and score", console=Console(stderr=True)
    ):
        token = Artifact.load(work.token(run, name, step)).token
        prompts = [
            ValidationPrompt(
                prompt.template,
                image_seed(0, each.subject.name, i, 0),
                prompt.asked,
                prompt.place,
            )
            for i, prompt in enumerate(evaluation_prompts())
        ]
        requests = [
            ImageRequest(prompt.text(token.placeholder), prompt.seed, {token.placeholder: token})
            for prompt in prompts
        ]
        images = generate(backbone, requests, steps=IMAGE_STEPS, batch_size=BATCH_SIZE)
        references = [each_image.image for each_image in load_images(work.photos(each.subject))]
        scores = scorer.score(images, prompts, references, each.subject.class_word)
        subject, prompt = np.mean(scores, axis=0)
        work.add(_key(run, name, step), (float(subject), float(prompt)))


def _key(run: str, name: str, step: int) -> str:
    return f"{run}/{name}/{step}"


def rows(
    work: WorkFolder, subjects: Sequence[HeldOutSubject], num_seeds: int
) -> Iterator[dict[str, object]]:
    """Yield a row per schedule: steps, scores, and the differences from the reference."""

    def samples(schedule: Schedule) -> Array:
        """Return (subjects, 3): subject score, prompt score and steps, as means over seeds."""
        means: list[list[float]] = []
        for subject in subjects:
            of_seeds: list[tuple[float, ...]] = []
            for seed in range(num_seeds):
                name = Run(subject, seed).name
                step = step_of(work, schedule, name)
                of_seeds.append((*work.scores[_key(schedule.run, name, step)], float(step)))
            means.append(np.mean(of_seeds, axis=0).tolist())
        return np.array(means)

    reference = samples(SCHEDULES[0])
    for schedule in SCHEDULES:
        values = samples(schedule)
        differences = values - reference
        yield {
            "title": schedule.title,
            "steps": float(values[:, 2].mean()),
            "subject_score": float(values[:, 0].mean()),
            "prompt_score": float(values[:, 1].mean()),
            "subject_difference": asdict(bootstrap(differences[:, 0])),
            "prompt_difference": asdict(bootstrap(differences[:, 1])),
        }


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_argument(
        "--subjects", type=int, default=6, help="of the 12 that no setting was tuned on"
    )
    parser.add_argument("--seeds", type=int, default=5, help="of training, for each subject")
    parser.add_argument("--work", type=Path, default=Path("schedules"), help="keeps finished work")
    options = parser.parse_args()
    device = find_device("auto")
    dtype = find_dtype("auto", device)
    backbone = load_backbone("miniature", device=device, dtype=dtype)
    scorer = find_scorer("miniature")
    assert scorer
    work, subjects = WorkFolder(options.work), held_out_subjects("evaluation")[: options.subjects]
    for subject in subjects:
        draw_subject(subject, work.photos(subject), count=NUM_IMAGES)
    runs = [Run(subject, seed) for seed in range(options.seeds) for subject in subjects]
    for run in reversed(RUNS):  # the short runs first
        train_missing(work, backbone, run, runs)
    score_missing(work, backbone, scorer, runs)

    results = list(rows(work, subjects, options.seeds))
    title = f"{len(subjects)} subjects, {options.seeds} seeds each, {dtype} on {device.type}"
    table = Table("", "steps", "subject", "prompt", "subject, against 400", "prompt, against 400",
                  title=title)  # fmt: skip
    for row in results:
        differences = (row["subject_difference"], row["prompt_difference"])
        shown = ["{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**each) for each in differences]
        scores = [f"{row['subject_score']:.3f}", f"{row['prompt_score']:.3f}"]
        table.add_row(row["title"], f"{row['steps']:.0f}", *scores, *shown)
    Console(width=150).print(table)
    document = {"environment": environment(device, dtype=dtype), "rows": results}
    write_json(options.json, document)


if __name__ == "__main__":
    main()
