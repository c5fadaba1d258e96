"""What is compared, row by row: a method, or a word, that names the subject in a prompt.

Loads no torch.

A subject of the evaluation: its bundle of photographs, its words, and what it is generated in.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dti_engine.config import CaptionFamily, TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.images.bundles.bundle import load_bundle
from dti_engine.images.decode import SubjectImage
from dti_engine.recipes import cross_init, standard_ti


@dataclass(frozen=True, slots=True)
class PhotographedSubject:
    """Its photographs stay in the bundle: those of all subjects need not fit into memory."""

    name: str
    path: Path
    placeholder: str
    initializer: str
    class_noun: str  # that stands for it where words are scored
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
        """class_noun None: the initializer. Raises: InvalidBundleError if the bundle is refused."""
        subject_images = load_bundle(path).images
        return cls(
            name=name,
            path=path,
            placeholder=placeholder,
            initializer=initializer,
            class_noun=class_noun or initializer,
            captions=captions,
            num_vectors=num_vectors,
            prompts=tuple(prompts),
            photos=tuple((each.name, each.sha256) for each in subject_images),
            num_masks=sum(each.mask is not None for each in subject_images),
        )

    @property
    def is_masked(self) -> bool:
        """Whether every photograph has a mask."""
        return self.num_masks == len(self.photos)

    def images(self) -> Sequence[SubjectImage]:
        """Raises: InvalidBundleError if the bundle is refused by now."""
        return load_bundle(self.path).images

    def document(self) -> dict[str, Any]:
        """All that scores depend on, so without the path."""
        facts = asdict(self)
        return {name: value for name, value in facts.items() if name not in ("path", "name")}


if TYPE_CHECKING:
    pass

METHODS: Mapping[str, str] = {
    "word": "class noun (floor)",
    "ti": "TI",
    "ti-rescaled": "TI-rescaled",
    "cross-init": "CrossInit",
    "dti": "DTI",
}
"""Method -> title."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table."""

    name: str  # also as a folder's
    title: str
    token: str | None = None  # name of its learned token, if it has one
    is_rescaled: bool = False  # to the vocabulary's mean length, in each text encoder

    @property
    def is_dti(self) -> bool:
        return self.token is not None and self.token.startswith("dti")


@dataclass(frozen=True, slots=True)
class EvaluationImage:
    """One image to be scored."""

    row: Row
    subject: "PhotographedSubject"
    prompt: int  # index into the subject's
    image_seed: int
    training_seed: int = 0  # counted from 0

    @property
    def template(self) -> str:
        return self.subject.prompts[self.prompt]

    @property
    def key(self) -> str:
        """Its name among all images, also as a path."""
        seeds = f"training{self.training_seed}-image{self.image_seed}"
        return f"{self.row.name}/{self.subject.name}/prompt{self.prompt:02}-{seeds}"


def parse_methods(names: Sequence[str]) -> list[str]:
    """In the order of the table. Raises: ConfigurationError that lists the known names."""
    if unknown := sorted(set(names) - set(METHODS)):
        raise ConfigurationError(
            f"no method {', '.join(map(repr, unknown))}; known are {', '.join(METHODS)}"
        )
    return [name for name in METHODS if name in names]


def table_rows(methods: Sequence[str], kappas: Sequence[float]) -> list[Row]:
    """A row per method; of DTI one per kappa, if there are any, in place of the recipe's."""
    rows: list[Row] = []
    for method in methods:
        if method == "word":
            rows.append(Row(method, METHODS[method]))
        elif method == "dti" and kappas:
            rows += [
                Row(_name(kappa), f"DTI, κ = {kappa:g}", _name(kappa))
                for kappa in dict.fromkeys(kappas)
            ]
        else:
            token = method.removesuffix("-rescaled")
            rows.append(Row(method, METHODS[method], token, is_rescaled=token != method))
    return rows


def training_configs(
    rows: Sequence[Row], config: TrainConfig, kappas: Sequence[float]
) -> dict[str, TrainConfig]:
    """Name of each learned token of the rows -> how it is trained, by the config of DTI."""
    known = {"ti": standard_ti(config), "cross-init": cross_init(config), "dti": config}
    known |= {_name(kappa): config.changed(kappa=kappa) for kappa in kappas}
    return {row.token: known[row.token] for row in rows if row.token}


def shots(
    row: Row,
    subjects: "Sequence[PhotographedSubject]",
    *,
    num_training_seeds: int,
    num_image_seeds: int,
) -> Iterator[EvaluationImage]:
    """All images of a row: every subject in all its prompts, from every seed."""
    for subject in subjects:
        for training_seed in range(num_training_seeds if row.token else 1):
            for prompt in range(len(subject.prompts)):
                for image_seed in range(num_image_seeds):
                    yield EvaluationImage(row, subject, prompt, image_seed, training_seed)


def _name(kappa: float) -> str:
    return f"dti-kappa-{kappa:g}"
