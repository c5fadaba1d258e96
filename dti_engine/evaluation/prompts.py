"""The prompts that photographed subjects are evaluated in. Loads no torch.

There are 40 for objects and 40 for living subjects: the 25 of the DreamBooth dataset, without the
class noun behind the subject, and 15 complex ones. The complex ones are ours: the paper's are
published only in code.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from dti_engine.errors import ConfigurationError

_FILE = Path(__file__).with_name("prompts.json")
_MAX_PROMPTS = 1000

# The paper's living subjects are cats and dogs, all that lives in the DreamBooth dataset.
_LIVING = frozenset((
    "animal", "bear", "bird", "boy", "cat", "child", "cow", "dog", "duck", "girl", "horse",
    "kitten", "man", "monkey", "mouse", "person", "puppy", "rabbit", "woman",
))  # fmt: skip


def is_living(class_noun: str) -> bool:
    """Return whether the last word of the noun names a living thing; a stuffed animal does not."""
    words = class_noun.lower().split()
    return bool(words) and words[-1] in _LIVING and words[0] not in ("stuffed", "toy", "plush")


def prompt_set(name: str) -> tuple[str, ...]:
    """Return the 40 prompts of the set "object" or "live", each with `{}` for the subject."""
    sets = json.loads(_FILE.read_text(encoding="utf-8"))
    return (*sets["dreambooth"][name], *sets["complex"][name])


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read a file of prompts, one per line, each with `{}` once.

    Empty lines and lines that begin with # are skipped.

    Raises:
        ConfigurationError: A line is invalid (the message names the first), or there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read prompts in {str(path)!r}: {error}") from error
    prompts: list[str] = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        if line.count("{}") != 1 or "<" in line or line in prompts:
            raise ConfigurationError(
                f"line {number} of {str(path)!r} must be a new prompt with {{}} exactly once, for "
                f"the subject, and without a <placeholder>; got {line!r:.80}"
            )
        prompts.append(line)
    if not 1 <= len(prompts) <= _MAX_PROMPTS:
        raise ConfigurationError(
            f"{str(path)!r} has {len(prompts)} prompts; give 1 to {_MAX_PROMPTS}, one per line"
        )
    return tuple(prompts)


def evenly_spaced(prompts: Sequence[str], count: int) -> tuple[str, ...]:
    """Return `count` prompts at equal distances, from the first on, or all if there are fewer."""
    if count >= len(prompts):
        return tuple(prompts)
    return tuple(prompts[index * len(prompts) // count] for index in range(count))
