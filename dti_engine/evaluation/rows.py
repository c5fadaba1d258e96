"""Rows of the tables, the tokens behind them, and the images of each row. Loads no torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dti_engine.config import Method, TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.protocol import METHODS, MiniatureProtocol
from dti_engine.recipes import cross_init, standard_ti


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A trained token per subject and training seed.

    `name` is also the name of a folder, such as "ti-2" or "dti-kappa-5e-05".
    """

    name: str
    steps: int | None = None  # a snapshot after that many steps; None: the end of training


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table, and the token that names the subject in its prompts, if one does.

    `kind` says what the row is compared as, `name` is unique and also the name of a folder.
    """

    kind: str
    name: str
    title: str
    token: TokenKey | None = None
    length: float | None = None  # in m*, to which the token is rescaled; None: its own length


@dataclass(frozen=True, slots=True)
class EvaluationImage:
    """An image to be generated and scored."""

    row: TableRow
    subject: str
    prompt: int  # index into the subject's prompts
    image_seed: int  # counted from 0, as `training_seed`
    training_seed: int = 0

    @property
    def key(self) -> str:
        """The unique name of the image, also its path."""
        seeds = f"training{self.training_seed}-image{self.image_seed}"
        return f"{self.row.name}/{self.subject}/prompt{self.prompt:02}-{seeds}"


def row_images(
    row: TableRow,
    num_prompts: Mapping[str, int],
    *,
    num_training_seeds: int,
    num_image_seeds: int,
) -> Iterator[EvaluationImage]:
    """Yield all images of a row; `num_prompts` maps each subject to the number of its prompts.

    A row without a token depends on no training seed, so it is generated for the first alone.
    """
    for subject, count in num_prompts.items():
        for training_seed in range(num_training_seeds if row.token else 1):
            for prompt in range(count):
                for image_seed in range(num_image_seeds):
                    yield EvaluationImage(row, subject, prompt, image_seed, training_seed)


# The miniature

MINIATURE_TITLES: Mapping[str, str] = {
    "class_word": "class word (floor)",
    "description": "full description in words",
    "drawing": "drawn, through the autoencoder (ceiling)",
    "ti": "standard TI",
    "ti_rescaled": "TI, rescaled to m*",
    "dti": "DTI",
}
"""Kind of row -> title, in the order of the main table."""

LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # in m*; TI reaches 50 on SDXL


def setting_token(method: Method, setting: int, steps: int) -> TokenKey:
    """Return the key of a method's token; `setting` indexes the protocol's settings."""
    return TokenKey(f"{method}-{setting}", steps)


def token_row(kind: str, token: TokenKey, length: float | None = None) -> TableRow:
    """Return the row of one token; only rows of kind "lengthened" may differ in length alone."""
    setting = token.name.partition("-")[2]
    name = f"{kind}-{setting}-{token.steps}"
    if kind == "lengthened":
        name = f"{name}-x{length:g}"
    return TableRow(kind, name, MINIATURE_TITLES.get(kind, kind), token, length)


def untrained_row(kind: str) -> TableRow:
    """Return a row of the miniature without a token."""
    return TableRow(kind, kind, MINIATURE_TITLES[kind])


def settings_rows(protocol: MiniatureProtocol) -> dict[Method, list[TableRow]]:
    """Return one row for every setting of both methods, after all training steps."""
    return {
        method: [
            token_row(method, setting_token(method, index, protocol.steps))
            for index in range(len(protocol.settings[method]))
        ]
        for method in METHODS
    }


def frontier_rows(
    protocol: MiniatureProtocol, chosen: Mapping[Method, int]
) -> dict[Method, list[TableRow]]:
    """Return the rows of each method's chosen setting after increasing numbers of steps."""
    return {
        method: [
            token_row(method, setting_token(method, chosen[method], steps))
            for steps in protocol.snapshots
        ]
        for method in METHODS
    }


def main_rows(protocol: MiniatureProtocol, chosen: Mapping[Method, int]) -> list[TableRow]:
    """Return the rows of the main table, with the chosen settings."""
    ti = setting_token("ti", chosen["ti"], protocol.steps)
    dti = setting_token("dti", chosen["dti"], protocol.steps)
    return [
        *map(untrained_row, ("class_word", "description", "drawing")),
        token_row("ti", ti),
        token_row("ti_rescaled", ti, length=1.0),
        token_row("dti", dti),
    ]


def lengthened_rows(protocol: MiniatureProtocol, chosen: Mapping[Method, int]) -> list[TableRow]:
    """Return the rows of DTI's tokens at other lengths, their directions unchanged."""
    dti = setting_token("dti", chosen["dti"], protocol.steps)
    return [token_row("lengthened", dti, length) for length in LENGTHS]


# Photographs

PHOTOGRAPH_METHODS: Mapping[str, str] = {
    "word": "class noun (floor)",
    "ti": "TI",
    "ti-rescaled": "TI-rescaled",
    "cross-init": "CrossInit",
    "dti": "DTI",
}
"""Method -> title, in the order of the table."""


def parse_methods(names: Sequence[str]) -> list[str]:
    """Return the methods in the order of the table.

    Raises:
        ConfigurationError: A name is unknown; the message lists the known ones.
    """
    if unknown := sorted(set(names) - set(PHOTOGRAPH_METHODS)):
        raise ConfigurationError(
            f"unknown method {', '.join(map(repr, unknown))}; "
            f"known methods are {', '.join(PHOTOGRAPH_METHODS)}"
        )
    return [name for name in PHOTOGRAPH_METHODS if name in names]


def photograph_rows(methods: Sequence[str], kappas: Sequence[float]) -> list[TableRow]:
    """Return one row per method; DTI gets one per kappa, if any, instead of the recipe's."""
    rows: list[TableRow] = []
    for method in methods:
        title = PHOTOGRAPH_METHODS[method]
        if method == "word":
            rows.append(TableRow("class_word", method, title))
        elif method == "ti-rescaled":
            rows.append(TableRow("ti_rescaled", method, title, TokenKey("ti"), length=1.0))
        elif method == "dti" and kappas:
            for kappa in dict.fromkeys(kappas):
                name = _kappa_name(kappa)
                rows.append(TableRow("dti", name, f"DTI, κ = {kappa:g}", TokenKey(name)))
        else:
            rows.append(TableRow(method.replace("-", "_"), method, title, TokenKey(method)))
    return rows


def photograph_configs(
    rows: Sequence[TableRow], config: TrainConfig, kappas: Sequence[float]
) -> dict[str, TrainConfig]:
    """Return token name -> training config of every token in the rows; `config` is DTI's."""
    known = {"ti": standard_ti(config), "cross-init": cross_init(config), "dti": config}
    known |= {_kappa_name(kappa): config.changed(kappa=kappa) for kappa in kappas}
    return {row.token.name: known[row.token.name] for row in rows if row.token}


def _kappa_name(kappa: float) -> str:
    return f"dti-kappa-{kappa:g}"
