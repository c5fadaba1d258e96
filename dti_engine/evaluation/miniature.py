"""The miniature's domain: held-out subjects of its own world, read by its own scorer.

The ceiling is the world's own drawing of a subject in a prompt's scene, through the autoencoder:
the best that the model could generate.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from PIL import Image

from dti_engine import __version__
from dti_engine.backbones.interface import Backbone
from dti_engine.config import Method, TrainConfig
from dti_engine.evaluation import aggregate
from dti_engine.evaluation import protocol as protocols
from dti_engine.evaluation.domain import Domain, DrawImages
from dti_engine.evaluation.encoder_effects import Effects, effects
from dti_engine.evaluation.protocol import METHODS, MiniatureProtocol
from dti_engine.evaluation.report import contact_sheet
from dti_engine.evaluation.results import MiniatureResults, SettingResult
from dti_engine.evaluation.rows import (
    EvaluationImage,
    TableRow,
    TokenKey,
    frontier_rows,
    lengthened_rows,
    main_rows,
    settings_rows,
)
from dti_engine.evaluation.store import EvaluationStore, ImageScore
from dti_engine.evaluation.study import OnProgress, Study, ignore_progress
from dti_engine.files import atomic_write, environment
from dti_engine.images.decode import load_images
from dti_engine.images.png import plain_png
from dti_engine.images.tensors import to_tensor
from dti_engine.miniature.scorer import ScoredImage, Scorer, read
from dti_engine.miniature.world.drawing import draw
from dti_engine.miniature.world.scenes import Figure, Scene, figure
from dti_engine.miniature.world.subjects import (
    HeldOutSubject,
    WorldPrompt,
    draw_subject,
    evaluation_prompts,
    held_out_subjects,
)
from dti_engine.miniature.world.vocabulary import Look, describe
from dti_engine.subject import Subject

NUM_REFERENCES = 5  # photos of each subject
_NUM_SHOWN, _CELL_PX = 3, 112  # subjects on the contact sheet, and the size of its images


def scene(prompt: WorldPrompt, look: Look, *, seed: str) -> Scene:
    """Return the scene that the prompt asks for, with `look` as its subject.

    What the prompt leaves open is plain. Place, size and mirroring vary with the seed, as in
    photos.
    """
    rng, asked = random.Random(seed), prompt.asked
    figures: list[Figure] = []
    for place in ("left", "centre", "right"):
        if place == prompt.place:
            shown = look
        elif f"{place}.kind" in asked:
            colour = asked[f"{place}.primary"]
            shown = Look(asked[f"{place}.kind"], colour, colour, "plain")
        else:
            continue
        figures.append(figure(shown, place, asked.get(f"{place}.accessory", "none"), rng))
    return Scene(tuple(figures), asked["background"], asked["style"], rng.random())


def through_autoencoder(backbone: Backbone, scenes: Sequence[Scene]) -> list[Image.Image]:
    """Return drawings of the scenes, encoded and decoded, in the model's image size."""
    side = backbone.image_size
    drawn = [draw(each).resize((side, side), Image.Resampling.LANCZOS) for each in scenes]
    pixels = backbone.decode_latents(backbone.encode_images(to_tensor(drawn)).mean)
    levels = ((pixels + 1) * 127.5).round().clamp(0, 255).byte().cpu()
    return [Image.fromarray(each.permute(1, 2, 0).contiguous().numpy()) for each in levels]


class MiniatureDomain(Domain):
    """Held-out subjects, whose photos are drawn to the store and read back from there."""

    def __init__(
        self,
        backbone: Backbone,
        scorer: Scorer,
        subjects: Sequence[HeldOutSubject],
        store: EvaluationStore,
        *,
        seed: int,
    ) -> None:
        """Prepare; `seed` is the base of all seeds of training and noise."""
        self._backbone, self._scorer, self._store, self._seed = backbone, scorer, store, seed
        self._subjects = {subject.name: subject for subject in subjects}
        self._prompts = evaluation_prompts()
        self._references: dict[str, list[ScoredImage]] = {}

    def draw_references(self) -> None:
        """Draw the photos of all subjects."""
        for name, subject in self._subjects.items():
            draw_subject(subject, self._store.references(name), count=NUM_REFERENCES)

    def photos(self, subject: str) -> list[Image.Image]:
        """Return the subject's photos."""
        return [photo.image for photo in load_images(self._store.references(subject))]

    def prompts(self, subject: str) -> list[str]:
        return [prompt.template for prompt in self._prompts]

    def placeholder(self, subject: str) -> str:
        return self._subjects[subject].placeholder

    def class_word(self, subject: str) -> str:
        return self._subjects[subject].class_word

    def prompt(self, image: EvaluationImage) -> str:
        if image.row.kind in ("description", "drawing"):
            look = self._subjects[image.subject].look
            return self._prompts[image.prompt].template.replace("a {}", describe(look))
        return super().prompt(image)

    def training_subject(
        self, subject: str, training_seed: int, config: TrainConfig, *, id: str
    ) -> Subject:
        return Subject(
            id=id,
            images=load_images(self._store.references(subject)),
            placeholder=self.placeholder(subject),
            initializer=self.class_word(subject),
            seed=protocols.training_seed(self._seed, subject, training_seed),
        )

    def noise_seed(self, image: EvaluationImage) -> int:
        return protocols.image_seed(self._seed, image.subject, image.prompt, image.image_seed)

    def drawer(self, row: TableRow) -> DrawImages | None:
        return self._draw if row.kind == "drawing" else None

    def _draw(self, images: Sequence[EvaluationImage]) -> list[Image.Image]:
        scenes = [
            scene(
                self._prompts[image.prompt],
                self._subjects[image.subject].look,
                seed=str(self.noise_seed(image)),
            )
            for image in images
        ]
        return through_autoencoder(self._backbone, scenes)

    def score(
        self, images: Sequence[EvaluationImage], pixels: Sequence[Image.Image]
    ) -> list[ImageScore]:
        scores: list[ImageScore] = []
        for image, of_image in zip(images, pixels, strict=True):
            prompt = self._prompts[image.prompt]
            # One by one, so that a score does not depend, not even by rounding, on its batch.
            (reading,) = read(self._scorer, [of_image])
            likenesses = [
                reading.likeness(reference, place=prompt.place)
                for reference in self._read_references(image.subject)
            ]
            scores.append(
                ImageScore.of(
                    image,
                    subject_score=fmean(likenesses),
                    prompt_score=reading.shows(prompt.asked),
                )
            )
        return scores

    def _read_references(self, subject: str) -> list[ScoredImage]:
        if subject not in self._references:
            self._references[subject] = read(self._scorer, self.photos(subject))
        return self._references[subject]


class MiniatureStudy:
    """The study of the miniature: settings first, on subjects of their own, then everything else.

    Each method is evaluated with its best setting.
    """

    def __init__(
        self,
        backbone: Backbone,
        scorer: Scorer,
        protocol: MiniatureProtocol,
        folder: Path,
        *,
        weights_sha256: str,
        on_progress: OnProgress = ignore_progress,
    ) -> None:
        """Open the folder; `weights_sha256` says which weights are evaluated.

        Raises:
            ConfigurationError: The folder holds another evaluation.
        """
        tuning = held_out_subjects("settings")[: protocol.num_settings_subjects]
        subjects = held_out_subjects("evaluation")[: protocol.num_subjects]
        # All that scores depend on, apart from the machine.
        identity = {
            "domain": "miniature",
            "engine_version": __version__,
            "protocol": protocol.model_dump(mode="json"),
            "weights_sha256": weights_sha256,
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "prompts": [asdict(prompt) for prompt in evaluation_prompts()],
            "looks": {subject.name: asdict(subject.look) for subject in (*tuning, *subjects)},
        }
        self.store = EvaluationStore(folder, identity)
        self._backbone, self._protocol = backbone, protocol
        self._tuning = [subject.name for subject in tuning]
        self._subjects = [subject.name for subject in subjects]
        self._domain = MiniatureDomain(
            backbone, scorer, [*tuning, *subjects], self.store, seed=protocol.seed
        )
        self._study = Study(
            backbone,
            self._domain,
            protocol,
            self.store,
            batch_size=protocol.batch_size,
            on_progress=on_progress,
        )

    def count_work(self) -> tuple[int, int]:
        """Return the numbers of tokens and images of the study, finished ones included."""
        protocol = self._protocol
        settings = [row for rows in settings_rows(protocol).values() for row in rows]
        # Which settings will be chosen is not known yet, and does not matter for the count.
        any_choice: dict[Method, int] = {method: 0 for method in METHODS}  # all take equal work
        images = [
            *self._study.images(settings, self._tuning, num_training_seeds=1, num_image_seeds=1),
            *self._images(any_choice),
        ]
        num_final = len(METHODS) * len(self._subjects) * protocol.num_training_seeds
        return len(settings) * len(self._tuning) + num_final, len({image.key for image in images})

    def run(self) -> MiniatureResults:
        """Do what is missing, write sheet.png to the folder, and return all results.

        Raises:
            TrainingFailedError, SubjectError: A token cannot be trained.
            ConfigurationError: The text encoder is not of CLIP's kind, so its effects cannot be
                measured.
        """
        prompts = self._domain.prompts(self._subjects[0])
        # First, because it may refuse the model.
        measured = effects(
            self._backbone, prompts, [self._domain.class_word(name) for name in self._subjects]
        )
        self._domain.draw_references()
        settings = self._choose_settings()
        chosen: dict[Method, int] = {s.method: s.index for s in settings if s.is_chosen}
        self._train(frontier_rows(self._protocol, chosen), self._subjects)
        for activity, images in self._activities(chosen).items():
            self._study.generate(f"generate {activity}", images)
        self._save_sheet(main_rows(self._protocol, chosen))
        return self._results(chosen, settings, measured, prompts)

    def _choose_settings(self) -> list[SettingResult]:
        """Evaluate every setting on subjects that no result is reported on."""
        rows = settings_rows(self._protocol)
        self._train(rows, self._tuning, num_training_seeds=1)
        images = self._study.images(
            [row for of_method in rows.values() for row in of_method],
            self._tuning,
            num_training_seeds=1,
            num_image_seeds=1,
        )
        self._study.generate("generate settings", images)
        lengths = {
            row: self._study.lengths(row, self._tuning, num_training_seeds=1)
            for of_method in rows.values()
            for row in of_method
        }
        scores = self._study.scores(images)
        return aggregate.settings(scores, rows, self._tuning, self._protocol, lengths)

    def _train(
        self,
        rows: Mapping[Method, Sequence[TableRow]],
        subjects: Sequence[str],
        *,
        num_training_seeds: int | None = None,
    ) -> None:
        """Train the tokens of these rows; one run serves those that differ in steps only."""
        for method, of_method in rows.items():
            keys: dict[str, list[TokenKey]] = {}
            for row in of_method:
                if row.token:
                    keys.setdefault(row.token.name, []).append(row.token)
            for name, of_run in keys.items():
                setting = int(name.removeprefix(f"{method}-"))
                self._study.train(
                    f"train {method} {setting}",
                    of_run,
                    self._protocol.settings[method][setting],
                    subjects,
                    num_slots=self._protocol.num_slots,
                    num_training_seeds=num_training_seeds,
                )

    def _activities(self, chosen: Mapping[Method, int]) -> dict[str, list[EvaluationImage]]:
        """Return activity -> the images of the chosen settings that it generates."""
        protocol, subjects = self._protocol, self._subjects
        on_frontier = [row for rows in frontier_rows(protocol, chosen).values() for row in rows]
        return {
            "subjects": self._study.images(main_rows(protocol, chosen), subjects),
            "frontier": self._study.images(on_frontier, subjects, num_image_seeds=1),
            "lengths": self._study.images(
                lengthened_rows(protocol, chosen),
                subjects,
                num_training_seeds=1,
                num_image_seeds=1,
            ),
        }

    def _images(self, chosen: Mapping[Method, int]) -> list[EvaluationImage]:
        return [image for images in self._activities(chosen).values() for image in images]

    def _save_sheet(self, rows: Sequence[TableRow]) -> None:
        shown = self._subjects[:_NUM_SHOWN]
        sheet = contact_sheet(
            self.store,
            rows,
            {name: self._domain.photos(name) for name in shown},
            dict(enumerate(self._domain.prompts(shown[0]))),
            cell_px=_CELL_PX,
            # Nearest: smoothing would show more detail than was generated.
            resample=Image.Resampling.NEAREST,
        )
        atomic_write(self.store.folder / "sheet.png", plain_png(sheet))

    def _lengths(self, row: TableRow) -> dict[str, float]:
        named_by_vectors = row.token is not None or row.kind == "class_word"
        return self._study.lengths(row, self._subjects) if named_by_vectors else {}

    def _results(
        self,
        chosen: Mapping[Method, int],
        settings: Sequence[SettingResult],
        measured: Effects,
        prompts: Sequence[str],
    ) -> MiniatureResults:
        protocol, names = self._protocol, self._subjects
        rows, on_frontier = main_rows(protocol, chosen), frontier_rows(protocol, chosen)
        # By key, because activities overlap: the last point of the frontier is a row of the main
        # table, and its images must not count twice.
        scores = self._study.scores({image.key: image for image in self._images(chosen)}.values())
        samples = {row: aggregate.per_subject(scores, row, names) for row in rows}
        frontier = aggregate.frontier(
            scores,
            on_frontier,
            names,
            {row: self._lengths(row) for of_method in on_frontier.values() for row in of_method},
        )
        return MiniatureResults(
            model=self._backbone.name,
            protocol=protocol.model_dump(mode="json"),
            subjects=names,
            prompts=prompts,
            num_images=len(self.store.scores),
            num_tokens=self.store.count_tokens(protocol.steps),
            settings=settings,
            rows=[
                aggregate.row_result(
                    row, scores, names, lengths=self._lengths(row), num_prompts=len(prompts)
                )
                for row in rows
            ],
            differences=aggregate.differences(samples),
            frontier=frontier,
            aims=aggregate.aims({row.kind: samples[row] for row in rows}, frontier),
            lengths=aggregate.length_points(scores, lengthened_rows(protocol, chosen), names),
            effects=measured,
            seconds=self.store.note_time(),
            environment=environment(
                self._backbone.device, model=self._backbone.name, dtype=self._backbone.dtype
            ),
        )
