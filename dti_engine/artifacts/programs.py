"""The programs that tokens are exported to, and what their loaders take. Loads no torch.

Each program takes the tokens of some families of models, told by the text encoders and their
widths, under keys of its own. Most of them call a token by the name of its file, so this name must
be one that a prompt of the program can say.

Source: diffusers loaders/textual_inversion.py; ComfyUI comfy/sd1_clip.py; A1111 webui
modules/textual_inversion and modules/sd_hijack_clip.py; kohya sd-scripts gen_img.py and
sdxl_train_textual_inversion.py; OneTrainer modules/modelSetup; InvokeAI
backend/textual_inversion.py and app/util/ti_utils.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dti_engine.config import ExportFormat, Pooling
from dti_engine.errors import ArtifactError

CLIP_KEYS: Final[Mapping[str, str]] = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
"""diffusers' names of CLIP encoders -> the keys of files with both."""

GEMMA: Final = "gemma"
"""The text encoder of SANA, and OneTrainer's key for its rows."""

SINGLE_KEY: Final = "emb_params"  # of one encoder: kohya, which the others read
ONETRAINER_KEY: Final = "emp_params"  # of one encoder, spelled so in OneTrainer
A1111_KEY: Final = "string_to_param"

EXPORT_KEY: Final = "dti_export"
"""The header entry of an exported safetensors file with our manifest, by which it is read again."""


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models, told by its text encoders and the width of each."""

    name: str
    widths: Mapping[str, int]

    def __str__(self) -> str:
        """Return the name and the widths, as errors tell them."""
        return f"{self.name} ({' + '.join(map(str, self.widths.values()))})"


SD1 = Family("Stable Diffusion 1", {"text_encoder": 768})
SD2 = Family("Stable Diffusion 2", {"text_encoder": 1024})
SDXL = Family("SDXL", {"text_encoder": 768, "text_encoder_2": 1280})
SANA = Family("SANA", {GEMMA: 2304})
FAMILIES = (SD1, SD2, SDXL, SANA)
_CLIP_FAMILIES = (SD1, SD2, SDXL)


@dataclass(frozen=True, slots=True)
class Program:
    """A program that generates images with tokens, and the names that its prompts can say.

    sayable: the names of files that a prompt can mention; None if the file's name does not matter.
    call: how a prompt mentions the file `{}`. pooling: where it pools a prompt of SDXL.
    """

    title: str
    families: tuple[Family, ...]
    pooling: Pooling
    suffixes: tuple[str, ...] = (".safetensors",)
    sayable: re.Pattern[str] | None = None
    call: str = "{}"


_WORD = re.compile(r"\w[\w.-]*")
PROGRAMS: Final[Mapping[ExportFormat, Program]] = {
    "diffusers": Program("diffusers", _CLIP_FAMILIES, "legacy"),
    "comfyui": Program("ComfyUI", _CLIP_FAMILIES, "eos", sayable=_WORD, call="embedding:{}"),
    "a1111": Program(
        "A1111",
        _CLIP_FAMILIES,
        "eos",
        suffixes=(".pt", ".safetensors"),
        sayable=re.compile(r"\w([\w. -]*\w)?"),
    ),
    "kohya": Program("kohya sd-scripts", _CLIP_FAMILIES, "eos", sayable=_WORD),
    "onetrainer": Program("OneTrainer", FAMILIES, "legacy"),
    "invokeai": Program(
        "InvokeAI",
        _CLIP_FAMILIES,
        "legacy",
        sayable=re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"),
        call="<{}>",
    ),
}


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """The files of an export: path -> encoder -> the key of its tensor.

    prompt_name: how a prompt of the program mentions the token. note: what its user has to know or
    to do; None if nothing. is_pickle: whether the only file is A1111's own, a pickle in which the
    tensor stands below its key.
    """

    files: Mapping[Path, Mapping[str, str]]
    prompt_name: str
    note: str | None = None
    is_pickle: bool = False


def plan_export(
    path: Path,
    format_name: ExportFormat,
    placeholder: str,
    shapes: Mapping[str, tuple[int, int]],
    *,
    pooling: Pooling | None,
) -> ExportPlan:
    """Return the files of a token in the format of a program, the first at `path`.

    shapes: encoder -> (n, d) of its rows. pooling: that of training; None if the model pools
    nothing. diffusers gets a second file beside it for SDXL.

    Raises: ArtifactError if the program takes no tokens of this model, would not find the file, or
        cannot say its name.
    """
    program = PROGRAMS[format_name]
    _require_family(format_name, placeholder, shapes)
    _require_suffix(path, program, is_pair=len(shapes) == 2)
    _require_name(path, program)
    if format_name in ("a1111", "kohya"):
        _require_equal_counts(program, placeholder, shapes)
    files = {path: _keys(format_name, shapes)}
    if format_name == "diffusers":
        names = (path, path.with_stem(f"{path.stem}_2"))
        files = {
            name: {each: placeholder} for name, each in zip(names, sorted(shapes), strict=False)
        }
    notes = (_pooling_note(program, pooling), _naming_note(format_name, path.stem, placeholder))
    called = placeholder if program.sayable is None else program.call.format(path.stem)
    note = "; ".join(filter(None, notes)) or None
    return ExportPlan(files, called, note, is_pickle=path.suffix == ".pt")


def find_family(widths: Mapping[str, int]) -> Family | None:
    """Return the family whose text encoders have these widths; None if no published one has.

    One encoder of Gemma's width is SANA's under any name, as no CLIP has that width.
    """
    if list(widths.values()) == list(SANA.widths.values()):
        return SANA
    return next((each for each in FAMILIES if dict(each.widths) == dict(widths)), None)


def takes(format_name: ExportFormat, widths: Mapping[str, int]) -> bool:
    """Return whether a program takes tokens of a model whose text encoders have these widths."""
    family = find_family(widths)
    if format_name == "diffusers" and family is None:
        # The pipeline that the user loads may have a CLIP of any width.
        return set(widths) in ({"text_encoder"}, set(CLIP_KEYS))
    return family in PROGRAMS[format_name].families


def _require_family(
    format_name: ExportFormat, placeholder: str, shapes: Mapping[str, tuple[int, int]]
) -> None:
    widths = {encoder: width for encoder, (_, width) in shapes.items()}
    if takes(format_name, widths):
        return
    family = find_family(widths)
    made_for = f"of {family}" if family else f"for encoders of the widths {widths}"
    takers = [each for each in PROGRAMS if takes(each, widths)]
    cure = f"--format {' or '.join(takers)} takes it" if takers else "keep our own file"
    raise ArtifactError(
        f"{placeholder} is a token {made_for}, which {PROGRAMS[format_name].title} does not take; "
        f"{cure}. {_takers()}"
    )


def _takers() -> str:
    """Return a sentence that says which models' tokens each program takes."""
    by_models: dict[str, list[str]] = {}
    for program in PROGRAMS.values():
        models = ", ".join(map(str, program.families))
        by_models.setdefault(models, []).append(program.title)
    return "; ".join(f"{', '.join(titles)}: {models}" for models, titles in by_models.items())


def _require_suffix(path: Path, program: Program, *, is_pair: bool) -> None:
    # A1111 reads the two encoders of SDXL from safetensors as other programs write them.
    suffixes = program.suffixes[-1:] if is_pair else program.suffixes
    if path.suffix not in suffixes:
        raise ArtifactError(
            f"{program.title} would not find {str(path)!r}; end it in {' or '.join(suffixes)}"
        )


def _require_name(path: Path, program: Program) -> None:
    if program.sayable is None or program.sayable.fullmatch(path.stem):
        return
    better = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._") or "token"
    raise ArtifactError(
        f"{program.title} calls a token by its file's name, and no prompt can say {path.stem!r}: "
        "spaces, commas, colons and brackets end a name or change its weight. Use letters, digits, "
        f"'.', '-' and '_', such as --output {path.with_stem(better)}"
    )


def _require_equal_counts(
    program: Program, placeholder: str, shapes: Mapping[str, tuple[int, int]]
) -> None:
    counts = {encoder: count for encoder, (count, _) in shapes.items()}
    if len(set(counts.values())) > 1:
        raise ArtifactError(
            f"{placeholder} has {counts} vectors, and {program.title} takes the same number for "
            "both encoders; comfyui, diffusers and onetrainer take it"
        )


def _keys(format_name: ExportFormat, shapes: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    if set(shapes) == set(CLIP_KEYS):
        return dict(CLIP_KEYS)
    ((encoder, (_, width)),) = shapes.items()
    if format_name == "onetrainer":
        return {encoder: GEMMA if find_family({encoder: width}) is SANA else ONETRAINER_KEY}
    return {encoder: SINGLE_KEY}


def _pooling_note(program: Program, pooling: Pooling | None) -> str | None:
    """Return what to do if the program pools a prompt elsewhere than training did."""
    if pooling is None or pooling == program.pooling:
        return None
    if program.pooling == "eos":
        return (
            f"{program.title} pools a prompt at its end; this token was trained with pooling at "
            f"the token, so images may differ from ours: train with --set pooling=eos for it"
        )
    if program.title == "diffusers":
        return (
            "diffusers would pool a prompt at the token; this one was trained with pooling at the "
            "end: set pipeline.text_encoder_2.text_model.eos_token_id = "
            "pipeline.tokenizer_2.eos_token_id"
        )
    return (
        f"{program.title} pools a prompt at the token; this one was trained with pooling at the "
        "end, so images may differ from ours: train with --set pooling=legacy for it"
    )


def _naming_note(format_name: ExportFormat, stem: str, placeholder: str) -> str | None:
    """Return what a user has to know about the token's name in the program."""
    match format_name:
        case "a1111" if stem.isalpha():
            return (
                f"A1111 puts the token wherever a prompt has the word {stem!r}; a file name that "
                f"is no word, such as {stem}-dti, leaves the word its meaning"
            )
        case "kohya" if stem.isalpha():
            return (
                f"kohya's scripts refuse a name that is in the vocabulary, as common words are; if "
                f"{stem!r} is, rename the file, for example to {stem}-dti"
            )
        case "comfyui":
            return (
                f"in a prompt, put a space before embedding:{stem}, and a space or comma after it"
            )
        case "onetrainer":
            return f"type {placeholder} as the placeholder of the embedding in OneTrainer"
        case _:
            return None
