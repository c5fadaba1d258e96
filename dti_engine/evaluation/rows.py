"""What is compared, row by row: a name for the subject in a prompt, or the subject itself drawn."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

from dti_engine.config import Method
from dti_engine.evaluation.protocol import METHODS, Protocol
from dti_engine.miniature.world.captions import describe
from dti_engine.miniature.world.subjects import HeldOutSubject, WorldPrompt, evaluation_prompts

Kind: TypeAlias = Literal[
    "class_word", "description", "drawing", "ti", "ti_rescaled", "dti", "lengthened"
]

TITLES: dict[Kind, str] = {
    "class_word": "class word (floor)",
    "description": "full description in words",
    "drawing": "drawn, through the autoencoder (ceiling)",
    "ti": "standard TI",
    "ti_rescaled": "TI, rescaled to m*",
    "dti": "DTI",
}

LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # |e| / m*; TI's on SDXL come to 50


@dataclass(frozen=True, slots=True)
class TokenKey:
    """Which token of a subject: by which method, with which of its settings, after how much."""

    method: Method
    setting: int  # index into the protocol's settings of the method
    steps: int


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table, and the token that names the subject in it, if one does."""

    kind: Kind
    token: TokenKey | None = None
    length: float | None = None  # times m*, that the token is given; None: its own

    @classmethod
    def of(cls, token: TokenKey) -> Self:
        """The row of this token as it was learned."""
        return cls(token.method, token)

    @property
    def name(self) -> str:
        token = self.token
        learned = f"{self.kind}-{token.setting}-{token.steps}" if token else self.kind
        return f"{learned}-x{self.length:g}" if self.kind == "lengthened" else learned

    def prompt(self, asked: WorldPrompt, subject: HeldOutSubject) -> str:
        """The prompt as this row words it; a drawing shows what a description would ask for."""
        if self.token:
            return asked.template.replace("{}", subject.placeholder)
        if self.kind == "class_word":
            return asked.template.replace("{}", subject.class_word)
        return asked.template.replace("a {}", describe(subject.look))


@dataclass(frozen=True, slots=True)
class EvaluationImage:
    """One image to be scored."""

    row: Row
    subject: HeldOutSubject
    prompt: int  # index into `evaluation_prompts`
    image_seed: int  # counted from 0, as the other
    training_seed: int = 0

    @property
    def key(self) -> str:
        """Its name among all images, also as a path."""
        seeds = f"training{self.training_seed}-image{self.image_seed}"
        return f"{self.row.name}/{self.subject.name}/prompt{self.prompt}-{seeds}"


def settings_tokens(protocol: Protocol) -> list[TokenKey]:
    """Every setting of both methods, after all its steps."""
    return [
        TokenKey(method, index, protocol.steps)
        for method in METHODS
        for index in range(len(protocol.settings[method]))
    ]


def frontier_tokens(
    protocol: Protocol, chosen: Mapping[Method, int]
) -> dict[Method, list[TokenKey]]:
    """The chosen setting of each method after more and more steps."""
    return {
        method: [TokenKey(method, chosen[method], steps) for steps in protocol.snapshots]
        for method in METHODS
    }


def final_rows(protocol: Protocol, chosen: Mapping[Method, int]) -> list[Row]:
    """The rows of the main table, with the chosen settings."""
    ti, dti = (TokenKey(method, chosen[method], protocol.steps) for method in ("ti", "dti"))
    untrained: tuple[Kind, ...] = ("class_word", "description", "drawing")
    return [*map(Row, untrained), Row.of(ti), Row("ti_rescaled", ti, length=1.0), Row.of(dti)]


def lengthened_rows(protocol: Protocol, chosen: Mapping[Method, int]) -> list[Row]:
    """What DTI has learned, at other lengths: the directions are the same."""
    dti = TokenKey("dti", chosen["dti"], protocol.steps)
    return [Row("lengthened", dti, length) for length in LENGTHS]


def shots(
    row: Row, subjects: Sequence[HeldOutSubject], num_training_seeds: int, num_image_seeds: int
) -> Iterator[EvaluationImage]:
    """All images of a row: every subject in every prompt, from every seed."""
    for subject in subjects:
        for training_seed in range(num_training_seeds if row.token else 1):
            for prompt in range(len(evaluation_prompts())):
                for image_seed in range(num_image_seeds):
                    yield EvaluationImage(row, subject, prompt, image_seed, training_seed)
