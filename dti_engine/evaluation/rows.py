"""What is compared, row by row: a name for the subject in a prompt, or the subject itself drawn."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from dti_engine.config import Method
from dti_engine.evaluation.protocol import METHODS, Protocol
from dti_engine.miniature.world.captions import describe
from dti_engine.miniature.world.subjects import HeldOutSubject, WorldPrompt, evaluation_prompts

Kind: TypeAlias = Literal["class_word", "description", "drawing", "ti", "ti_rescaled", "dti"]

TITLES: dict[Kind, str] = {
    "class_word": "class word (floor)",
    "description": "full description in words",
    "drawing": "drawn, through the autoencoder (ceiling)",
    "ti": "standard TI",
    "ti_rescaled": "TI, rescaled to m*",
    "dti": "DTI",
}
_METHOD: dict[Kind, Method] = {"ti": "ti", "ti_rescaled": "ti", "dti": "dti"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table; a learned one says with which setting, and after how many steps."""

    kind: Kind
    setting: int = 0  # index into the protocol's settings of its method
    steps: int = 0

    @property
    def method(self) -> Method | None:
        """How its token was learned, if it has one."""
        return _METHOD.get(self.kind)

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.setting}-{self.steps}" if self.method else self.kind

    def prompt(self, asked: WorldPrompt, subject: HeldOutSubject) -> str:
        """The prompt as this row words it; a drawing shows what a description would ask for."""
        if self.method:
            return asked.template.replace("{}", subject.placeholder)
        if self.kind == "class_word":
            return asked.template.replace("{}", subject.class_word)
        return asked.template.replace("a {}", describe(subject.look))


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture to be scored."""

    row: Row
    subject: HeldOutSubject
    prompt: int  # index into `evaluation_prompts`
    image_seed: int  # counted from 0, as the other
    training_seed: int = 0

    @property
    def key(self) -> str:
        """Its name among all pictures, also as a path."""
        seeds = f"training{self.training_seed}-image{self.image_seed}"
        return f"{self.row.name}/{self.subject.name}/prompt{self.prompt}-{seeds}"


def settings_rows(protocol: Protocol) -> list[Row]:
    """Every setting of both methods, after all its steps."""
    return [
        Row(method, index, protocol.steps)
        for method in METHODS
        for index in range(len(protocol.settings[method]))
    ]


def final_rows(protocol: Protocol, chosen: Mapping[Method, int]) -> list[Row]:
    """The rows of the main table, with the chosen settings."""
    untrained: tuple[Kind, ...] = ("class_word", "description", "drawing")
    trained: tuple[Kind, ...] = ("ti", "ti_rescaled", "dti")
    return [
        *(Row(kind) for kind in untrained),
        *(Row(kind, chosen[_METHOD[kind]], protocol.steps) for kind in trained),
    ]


def frontier_rows(protocol: Protocol, chosen: Mapping[Method, int]) -> dict[Method, list[Row]]:
    """The chosen setting of each method after more and more steps."""
    return {
        method: [Row(method, chosen[method], steps) for steps in protocol.snapshots]
        for method in METHODS
    }


def shots(
    row: Row, subjects: Sequence[HeldOutSubject], num_training_seeds: int, num_image_seeds: int
) -> Iterator[Shot]:
    """All pictures of a row: every subject in every prompt, from every seed."""
    for subject in subjects:
        for training_seed in range(num_training_seeds if row.method else 1):
            for prompt in range(len(evaluation_prompts())):
                for image_seed in range(num_image_seeds):
                    yield Shot(row, subject, prompt, image_seed, training_seed)
