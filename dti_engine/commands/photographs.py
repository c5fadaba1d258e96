"""The subjects of a study on photographs: a folder of bundles, and the prompts that suit each."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dti_engine.commands.subjects import Plan, plan
from dti_engine.commands.terminal import busy, warn
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.photographs.prompts import is_living, prompt_set, read_prompts, spread

if TYPE_CHECKING:
    from dti_engine.bundles.description import Description
    from dti_engine.evaluation.photographs.subjects import PhotographedSubject

_QUICK_SUBJECTS = _QUICK_PROMPTS = 4


def open_subjects(folder: Path, *, prompts: str, quick: bool) -> "list[PhotographedSubject]":
    """All that the folder holds, or none: a table over some of the subjects is another table.

    prompts: `auto`, `object`, `live` or a file's path. quick: a few subjects in a few prompts.

    Raises: ConfigurationError or InvalidBundleError, which says what is wrong.
    """
    from dti_engine.bundles.loading import read_description
    from dti_engine.evaluation.photographs.subjects import PhotographedSubject

    if not folder.is_dir():
        raise ConfigurationError(
            f"--subjects {str(folder)!r} is no folder; give one that holds a bundle per subject"
        )
    plans = plan([folder], None, [])
    if plans.refused:
        reasons = "".join(f"\n  {name}: {error}" for name, error in plans.refused.items())
        raise ConfigurationError(f"{len(plans.refused)} subjects refused:{reasons}")
    chosen = plans.subjects[:_QUICK_SUBJECTS] if quick else plans.subjects
    opened: list[PhotographedSubject] = []
    with busy(f"reading the photographs of {len(chosen)} subjects"):
        for each in chosen:
            said = read_description(each.path)
            opened.append(
                PhotographedSubject.open(
                    each.path,
                    name=each.name,
                    placeholder=each.placeholder,
                    initializer=each.initializer,
                    num_vectors=each.num_vectors,
                    class_noun=said.class_noun,
                    captions=said.kind,
                    prompts=_prompts(each, said, prompts, quick=quick),
                )
            )
    if len(opened) < 2:
        raise ConfigurationError(
            f"intervals are over subjects, and {str(folder)!r} has {len(opened)}; give a folder "
            "that holds at least 2 bundles"
        )
    for each in opened:
        if not each.is_masked and each.num_masks:
            warn(f"{each.name}: only {each.num_masks} of {len(each.photos)} photos have masks")
    return opened


def _prompts(each: Plan, said: "Description", name: str, *, quick: bool) -> Sequence[str]:
    """Raises: ConfigurationError if there is none that suits."""
    if name == "auto":
        if said.kind == "style":
            raise ConfigurationError(
                f"{each.name!r} is a style, for which there are no prompts here; give --prompts "
                "and a file of some, such as 'a house in the style of {}'"
            )
        is_alive = said.kind == "person" or is_living(said.class_noun or each.initializer)
        name = "live" if is_alive else "object"
    known = prompt_set(name) if name in ("object", "live") else read_prompts(Path(name))
    return spread(known, _QUICK_PROMPTS) if quick else known
