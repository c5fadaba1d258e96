"""Carries out an evaluation: settings first, on subjects of their own, then all else with the best.

Whatever is done is kept, so one that was stopped goes on where it was.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeAlias

from dti_engine import __version__
from dti_engine.backbones.interface import Backbone
from dti_engine.config import Method
from dti_engine.evaluation import aggregate as figures
from dti_engine.evaluation.contact_sheet import contact_sheet
from dti_engine.evaluation.encoder_effects import effects
from dti_engine.evaluation.protocol import METHODS, Protocol
from dti_engine.evaluation.results import Results, Setting
from dti_engine.evaluation.rows import (
    EvaluationImage,
    Kind,
    Row,
    TokenKey,
    final_rows,
    frontier_tokens,
    lengthened_rows,
    settings_tokens,
    shots,
)
from dti_engine.evaluation.scoring import Examiner, draw_references
from dti_engine.evaluation.statistics import Array
from dti_engine.evaluation.store import Score, Store
from dti_engine.evaluation.training import Run, train_missing
from dti_engine.files import environment
from dti_engine.miniature.scorer import Scorer
from dti_engine.miniature.world.subjects import (
    HeldOutSubject,
    evaluation_prompts,
    held_out_subjects,
)

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Gets what is being done, how much of it is done, and how much of it there is."""

_NUM_SHOWN = 3  # subjects on the sheet


class Study:
    """One evaluation in one folder."""

    def __init__(
        self,
        backbone: Backbone,
        scorer: Scorer,
        protocol: Protocol,
        folder: Path,
        *,
        weights_sha256: str,
        on_progress: OnProgress = lambda doing, done, total: None,
    ) -> None:
        """weights_sha256 says which weights are evaluated: a folder holds the scores of one.

        Raises: ConfigurationError if the folder holds another evaluation.
        """
        self._tuned_on = held_out_subjects("settings")[: protocol.num_settings_subjects]
        self._subjects = held_out_subjects("evaluation")[: protocol.num_subjects]
        # All that scores depend on, and not on the machine.
        identity = {
            "engine_version": __version__,
            "protocol": protocol.model_dump(mode="json"),
            "weights_sha256": weights_sha256,
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "prompts": [asdict(prompt) for prompt in evaluation_prompts()],
            "looks": {each.name: asdict(each.look) for each in (*self._tuned_on, *self._subjects)},
        }
        self.store = Store(folder, identity)
        self._backbone, self._protocol, self._on_progress = backbone, protocol, on_progress
        self._examiner = Examiner(backbone, scorer, protocol, self.store)

    def amount(self) -> tuple[int, int]:
        """Tokens and images in all, those that are done already among them."""
        protocol = self._protocol
        seeds = protocol.num_training_seeds, protocol.num_image_seeds
        chosen: dict[Method, int] = {method: 0 for method in METHODS}  # all are as much work
        tried, learned = settings_tokens(protocol), frontier_tokens(protocol, chosen)
        keys = [key for of_method in learned.values() for key in of_method]
        num_runs = len(METHODS) * len(self._subjects) * seeds[0]
        images = [
            *_shots(map(Row.of, tried), self._tuned_on, (1, 1)),
            *_shots(final_rows(protocol, chosen), self._subjects, seeds),
            *_shots(map(Row.of, keys), self._subjects, (seeds[0], 1)),
            *_shots(lengthened_rows(protocol, chosen), self._subjects, (1, 1)),
        ]
        num_images = len({shot.key for shot in images})
        return len(tried) * len(self._tuned_on) + num_runs, num_images

    def run(self) -> Results:
        """Do what is not done yet, leave sheet.png in the folder, and say what came of all.

        Raises: TrainingFailedError or SubjectError if a token cannot be learned; ConfigurationError
            if the backbone's text encoder is not of a kind that can be looked into.
        """
        protocol, backbone = self._protocol, self._backbone
        prompts = [prompt.template for prompt in evaluation_prompts()]
        names = [subject.name for subject in self._subjects]
        words = [subject.class_word for subject in self._subjects]
        measured = effects(backbone, prompts, words)
        draw_references(self.store, [*self._tuned_on, *self._subjects])
        settings = self._settings()
        chosen: dict[Method, int] = {s.method: s.index for s in settings if s.is_chosen}
        rows, on_frontier = final_rows(protocol, chosen), frontier_tokens(protocol, chosen)
        learned = [key for of_method in on_frontier.values() for key in of_method]
        seeds = protocol.num_training_seeds, protocol.num_image_seeds
        self._train(learned, self._subjects, seeds[0])
        self._generate("subjects", rows, self._subjects, seeds)
        self._generate("frontier", map(Row.of, learned), self._subjects, (seeds[0], 1))
        lengthened = lengthened_rows(protocol, chosen)
        self._generate("lengths", lengthened, self._subjects, (1, 1))
        sheet = contact_sheet(self.store, rows, self._subjects[:_NUM_SHOWN])
        sheet.save(self.store.folder / "sheet.png")

        scores = self._scores(names)
        samples: dict[Kind, Array] = {
            row.kind: figures.per_subject(scores, row, names) for row in rows
        }
        frontier = figures.frontier(scores, on_frontier, names)
        return Results(
            protocol=protocol.model_dump(mode="json"),
            subjects=names,
            prompts=prompts,
            num_images=len(self.store.scores),
            num_tokens=self.store.num_tokens(protocol.steps),
            settings=settings,
            rows=[figures.row_result(scores, row, names, len(prompts)) for row in rows],
            differences=figures.differences(samples),
            frontier=frontier,
            aims=figures.aims(samples, frontier),
            lengths=figures.lengths(scores, lengthened, names),
            effects=measured,
            seconds=self.store.note_time(),
            environment=environment(
                self._backbone.device, model=self._backbone.name, dtype=self._backbone.dtype
            ),
        )

    def _settings(self) -> list[Setting]:
        """Every setting, tried on subjects that no result is told of."""
        tokens, subjects = settings_tokens(self._protocol), self._tuned_on
        self._train(tokens, subjects, num_seeds=1)
        self._generate("settings", map(Row.of, tokens), subjects, (1, 1))
        names = [subject.name for subject in subjects]
        return figures.settings(self._scores(names), tokens, names, self._protocol)

    def _scores(self, names: Sequence[str]) -> list[Score]:
        """Of these subjects only: a setting's row has the same name on all of them."""
        return [score for score in self.store.scores.values() if score.subject in names]

    def _train(
        self, tokens: Sequence[TokenKey], subjects: Sequence[HeldOutSubject], num_seeds: int
    ) -> None:
        """These tokens; one run for those that differ in steps only."""
        runs = [Run(subject, seed) for seed in range(num_seeds) for subject in subjects]
        alike: dict[tuple[Method, int], list[TokenKey]] = {}
        for key in tokens:
            alike.setdefault((key.method, key.setting), []).append(key)
        for (method, setting), of_one_run in alike.items():
            config = self._protocol.settings[method][setting]
            train_missing(
                self._backbone,
                self.store,
                config,
                of_one_run,
                runs,
                num_slots=self._protocol.num_slots,
                seed=self._protocol.seed,
                on_step=self._counter(f"train {method} {setting}", len(runs) * config.steps),
            )

    def _generate(
        self,
        what: str,
        rows: Iterable[Row],
        subjects: Sequence[HeldOutSubject],
        num_seeds: tuple[int, int],
    ) -> None:
        """Generate and score these rows; num_seeds: of training, of generating."""
        images = _shots(rows, subjects, num_seeds)
        counter = self._counter(f"generate {what}", len(images))
        self._examiner.score_missing(images, on_images=counter)

    def _counter(self, doing: str, total: int) -> Callable[[int], None]:
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            self._on_progress(doing, done, total)

        return count


def _shots(
    rows: Iterable[Row], subjects: Sequence[HeldOutSubject], num_seeds: tuple[int, int]
) -> list[EvaluationImage]:
    return [shot for row in rows for shot in shots(row, subjects, *num_seeds)]
