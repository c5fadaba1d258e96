"""The prompts that subjects are painted in. Loads no torch.

40 for an object and 40 for what lives: the 25 of the DreamBooth dataset, without the class noun
behind the subject, and 15 complex ones. Those are ours: the paper's are published only in code.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from dti_engine.errors import ConfigurationError

_FILE = Path(__file__).with_name("prompts.json")
_MAX_PROMPTS = 1000

# The paper's are cat and dog, all that lives in the DreamBooth dataset.
_LIVING = frozenset((
    "animal", "bear", "bird", "boy", "cat", "child", "cow", "dog", "duck", "girl", "horse",
    "kitten", "man", "monkey", "mouse", "person", "puppy", "rabbit", "woman",
))  # fmt: skip


def is_living(class_noun: str) -> bool:
    """By its last word: a `stuffed animal` is no animal."""
    words = class_noun.lower().split()
    return bool(words) and words[-1] in _LIVING and words[0] not in ("stuffed", "toy", "plush")


def prompt_set(name: str) -> tuple[str, ...]:
    """`object` or `live`: 40 prompts with `{}` for the subject."""
    sets = json.loads(_FILE.read_text(encoding="utf-8"))
    return (*sets["dreambooth"][name], *sets["complex"][name])


def read_prompts(path: Path) -> tuple[str, ...]:
    """One prompt a line, each with `{}` once; empty lines and lines that begin with # are passed
    over.

    Raises: ConfigurationError, which names the first line at fault, or says that there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read prompts in {str(path)!r}: {error}") from error
    found: list[str] = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        if line.count("{}") != 1 or "<" in line or line in found:
            raise ConfigurationError(
                f"line {number} of {str(path)!r} must be a prompt with {{}} once, for the subject, "
                f"no <placeholder>, and not there twice; got {line!r:.80}"
            )
        found.append(line)
    if not 1 <= len(found) <= _MAX_PROMPTS:
        raise ConfigurationError(
            f"{str(path)!r} has {len(found)} prompts; give 1 to {_MAX_PROMPTS}, one a line"
        )
    return tuple(found)


def spread(prompts: Sequence[str], count: int) -> tuple[str, ...]:
    """So many of them, from first to last at equal distances; all, if there are no more."""
    if count >= len(prompts):
        return tuple(prompts)
    return tuple(prompts[index * len(prompts) // count] for index in range(count))
