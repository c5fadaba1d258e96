"""The domain of photographs: bundles of images, scored by DINOv2 and SigLIP as in the paper."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from PIL import Image
from torch import Tensor

from dti_engine import __version__
from dti_engine.backbones.interface import Backbone
from dti_engine.config import CaptionFamily, TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation import aggregate
from dti_engine.evaluation.domain import Domain
from dti_engine.evaluation.protocol import PhotographProtocol, evenly_spaced
from dti_engine.evaluation.report import contact_sheet
from dti_engine.evaluation.results import PhotographResults, SubjectFacts
from dti_engine.evaluation.rows import EvaluationImage, TableRow, TokenKey
from dti_engine.evaluation.store import EvaluationStore, ImageScore
from dti_engine.evaluation.study import OnProgress, Study
from dti_engine.files import atomic_write, environment
from dti_engine.images.bundles.bundle import load_bundle
from dti_engine.images.bundles.sidecars import SubjectWords
from dti_engine.images.decode import SubjectImage
from dti_engine.images.png import plain_png
from dti_engine.scorers.dinov2 import Dinov2, likeness, masked
from dti_engine.scorers.siglip import Siglip, scored_text
from dti_engine.subject import Subject
from dti_engine.text.encoder import initializer_rows

_NUM_SHOWN, _NUM_SHOWN_PROMPTS, _CELL_PX = 3, 8, 192  # of the contact sheet


@dataclass(frozen=True, slots=True)
class PhotographedSubject:
    """A bundle, its words and its prompts.

    Photographs stay in the bundle, because those of all subjects need not fit into memory.
    """

    name: str
    path: Path
    placeholder: str
    initializer: str
    class_noun: str  # replaces the token where prompts are scored
    captions: CaptionFamily | None  # that the bundle asks for; None: the recipe's
    num_vectors: int | None
    prompts: tuple[str, ...]  # with {}
    photos: tuple[tuple[str, str], ...]  # file name, and sha256 of the file
    num_masks: int

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        name: str,
        placeholder: str,
        initializer: str,
        num_vectors: int | None,
        class_noun: str | None,
        captions: CaptionFamily | None,
        prompts: Sequence[str],
    ) -> Self:
        """Read the bundle; without a class noun, the initializer takes its place.

        Raises:
            InvalidBundleError: The bundle is refused.
        """
        words = SubjectWords.of([placeholder], [initializer])
        photos = load_bundle(path, words=words).images
        return cls(
            name=name,
            path=path,
            placeholder=placeholder,
            initializer=initializer,
            class_noun=class_noun or initializer,
            captions=captions,
            num_vectors=num_vectors,
            prompts=tuple(prompts),
            photos=tuple((photo.name, photo.sha256) for photo in photos),
            num_masks=sum(photo.mask is not None for photo in photos),
        )

    @property
    def is_masked(self) -> bool:
        """Return whether every photograph has a mask."""
        return self.num_masks == len(self.photos)

    def images(self) -> Sequence[SubjectImage]:
        """Read the photographs. Raises: InvalidBundleError if the bundle is refused by now."""
        words = SubjectWords.of([self.placeholder], [self.initializer])
        return load_bundle(self.path, words=words).images

    def document(self) -> dict[str, Any]:
        """Return everything that scores depend on, hence not the path."""
        facts = asdict(self)
        return {name: value for name, value in facts.items() if name not in ("path", "name")}


@dataclass(frozen=True, eq=False)
class _References:
    """DINOv2 features (R, d) of a subject's photographs."""

    plain: Tensor
    masked: Tensor | None  # None unless all have masks


class PhotographDomain(Domain):
    """Photographed subjects; the class noun takes the token's place where prompts are scored."""

    def __init__(
        self,
        subjects: Sequence[PhotographedSubject],
        protocol: PhotographProtocol,
        dinov2: Dinov2,
        siglip: Siglip,
    ) -> None:
        self.subjects = {subject.name: subject for subject in subjects}
        self._protocol, self._dinov2, self._siglip = protocol, dinov2, siglip
        self._references: dict[str, _References] = {}

    def prompts(self, subject: str) -> Sequence[str]:
        return self.subjects[subject].prompts

    def placeholder(self, subject: str) -> str:
        return self.subjects[subject].placeholder

    def class_word(self, subject: str) -> str:
        return self.subjects[subject].class_noun

    def training_subject(
        self, subject: str, training_seed: int, config: TrainConfig, *, id: str
    ) -> Subject:
        """Return the subject without its masks, which are for scoring alone, as in the paper.

        All subjects are trained alike: a bundle decides on captions and number of vectors only.
        """
        found = self.subjects[subject]
        return Subject(
            id=id,
            images=[replace(photo, mask=None) for photo in found.images()],
            placeholder=found.placeholder,
            initializer=found.initializer,
            seed=self._protocol.training_seed(training_seed),
            num_vectors=found.num_vectors,
            config=config.changed(captions=found.captions) if found.captions else config,
        )

    def noise_seed(self, image: EvaluationImage) -> int:
        return image.image_seed

    def score(
        self, images: Sequence[EvaluationImage], pixels: Sequence[Image.Image]
    ) -> list[ImageScore]:
        features = self._dinov2.features(pixels)
        texts = [
            scored_text(self.prompts(image.subject)[image.prompt], self.class_word(image.subject))
            for image in images
        ]
        prompt_scores = self._siglip.scores(pixels, texts)
        scores: list[ImageScore] = []
        for index, image in enumerate(images):
            references, own = self._read_references(image.subject), features[index : index + 1]
            scores.append(
                ImageScore.of(
                    image,
                    subject_score=likeness(own, references.plain)[0],
                    prompt_score=prompt_scores[index].probability,
                    masked_subject_score=None
                    if references.masked is None
                    else likeness(own, references.masked)[0],
                    prompt_cosine=prompt_scores[index].cosine,
                )
            )
        return scores

    def _read_references(self, subject: str) -> _References:
        if subject not in self._references:
            photos = self.subjects[subject].images()
            on_black = None
            if self.subjects[subject].is_masked:
                on_black = self._dinov2.features([masked(photo) for photo in photos])
            plain = self._dinov2.features([photo.image for photo in photos])
            self._references[subject] = _References(plain, on_black)
        return self._references[subject]


def identity(
    backbone: Backbone,
    protocol: PhotographProtocol,
    subjects: Sequence[PhotographedSubject],
    scorers_sha256: Sequence[str],
    *,
    weights_sha256: str,
) -> dict[str, object]:
    """Return everything that scores depend on, apart from the machine.

    Methods are left out, because none depends on another: they may be added later.
    """
    return {
        "domain": "photographs",
        "engine_version": __version__,
        "protocol": protocol.model_dump(mode="json"),
        "weights_sha256": weights_sha256,
        "scorers": list(scorers_sha256),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "subjects": {subject.name: subject.document() for subject in subjects},
    }


class PhotographStudy:
    """The study of photographs: every method with its recipe, on every subject."""

    def __init__(
        self,
        backbone: Backbone,
        domain: PhotographDomain,
        protocol: PhotographProtocol,
        store: EvaluationStore,
        *,
        batch_size: int,
        scorers: Mapping[str, str],
    ) -> None:
        """Prepare; `scorers` maps the name of each scorer to the sha256 of its weights.

        Raises:
            ConfigurationError: There are fewer than 2 subjects.
            TokenError: A text encoder does not know a class noun or initializer.
        """
        if len(domain.subjects) < 2:
            raise ConfigurationError(
                f"intervals are over subjects, and there is {len(domain.subjects)}; give a folder "
                "of at least 2 bundles"
            )
        for subject in domain.subjects.values():  # now, instead of after hours of training
            for encoder in backbone.text_encoders.values():
                initializer_rows(encoder, subject.class_noun)
                initializer_rows(encoder, subject.initializer)
        self._backbone, self._domain, self._protocol = backbone, domain, protocol
        self._names, self._scorers = list(domain.subjects), scorers
        self.store = store
        self._study = Study(backbone, domain, protocol, store, batch_size=batch_size)

    def num_untrained(self, token_name: str) -> int:
        """Return how many tokens of this name are still to be trained."""
        return self._study.num_untrained(TokenKey(token_name), self._names)

    def num_missing(self, rows: Sequence[TableRow]) -> int:
        """Return how many images of these rows are still to be generated."""
        return sum(self._study.num_missing(group) for group in self._groups(rows))

    def run(
        self,
        rows: Sequence[TableRow],
        configs: Mapping[str, TrainConfig],
        *,
        num_slots: int,
        max_vectors: int,
        on_progress: OnProgress,
    ) -> PhotographResults:
        """Do what is missing, write sheet.png to the folder, and return the results of the rows.

        `configs` maps the name of each token to its training config.

        Raises:
            TrainingFailedError, SubjectError: A token cannot be trained; the others are kept.
            ConfigurationError: A scored image was removed.
        """
        self._study.on_progress = on_progress
        for name, config in configs.items():
            self._study.train(
                f"train {name}",
                [TokenKey(name)],
                config,
                self._names,
                num_slots=num_slots,
                max_vectors=max_vectors,
                uses_checkpoints=True,
            )
        self._study.generate("generate", *self._groups(rows))
        self._save_sheet(rows)
        return self._results(rows, configs)

    def _groups(self, rows: Sequence[TableRow]) -> list[list[EvaluationImage]]:
        """Return the images row by row: a batch across rows would change with the methods."""
        return [self._study.images([row], self._names) for row in rows]

    def _save_sheet(self, rows: Sequence[TableRow]) -> None:
        """Show the first subjects that share the prompts of the first one."""
        subjects = list(self._domain.subjects.values())
        prompts = subjects[0].prompts
        alike = [subject for subject in subjects if subject.prompts == prompts][:_NUM_SHOWN]
        sheet = contact_sheet(
            self.store,
            rows,
            {subject.name: [photo.image for photo in subject.images()] for subject in alike},
            {
                prompts.index(prompt): prompt
                for prompt in evenly_spaced(prompts, _NUM_SHOWN_PROMPTS)
            },
            cell_px=_CELL_PX,
        )
        atomic_write(self.store.folder / "sheet.png", plain_png(sheet))

    def _results(
        self, rows: Sequence[TableRow], configs: Mapping[str, TrainConfig]
    ) -> PhotographResults:
        subjects, names = list(self._domain.subjects.values()), self._names
        is_masked = all(subject.is_masked for subject in subjects)
        scores = self._study.scores(image for group in self._groups(rows) for image in group)
        samples = {row: aggregate.per_subject(scores, row, names) for row in rows}
        return PhotographResults(
            model=self._backbone.name,
            protocol=self._protocol.model_dump(mode="json"),
            scorers=self._scorers,
            subjects=[
                SubjectFacts(s.name, s.class_noun, len(s.photos), s.num_masks, s.prompts)
                for s in subjects
            ],
            is_masked=is_masked,
            configs={name: config.model_dump(mode="json") for name, config in configs.items()},
            rows=[
                aggregate.row_result(row, scores, names, lengths=self._study.lengths(row, names))
                for row in rows
            ],
            differences=aggregate.differences(samples, is_masked=is_masked),
            seconds=self.store.note_time(),
            environment=environment(
                self._backbone.device, model=self._backbone.name, dtype=self._backbone.dtype
            ),
        )
