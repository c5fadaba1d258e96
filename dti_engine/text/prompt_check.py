"""What a model does not read of a text as its author means it: one check for every way in.

`dti generate`, `dti blend`, `dti train`, the training worker and the engine of a service call it.
Loads no torch.

Other programs give brackets and some words of a prompt a meaning. Here they would be read as
punctuation, so that a weight of 1.3 would be drawn as a number. In a prompt, what nobody writes by
chance is refused, and what may be plain English is a warning; in a caption, both are warnings.

Source of the syntax: A1111 modules/prompt_parser.py and extra_networks.py, ComfyUI
comfy/sd1_clip.py, compel's documentation.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

from dti_engine.config import PLACEHOLDER
from dti_engine.errors import TokenError

if TYPE_CHECKING:
    from torch import Tensor

    from dti_engine.text.encoder import TextEncoder

VectorCounts: TypeAlias = Mapping[str, Mapping[str, int]]
"""Placeholder -> encoder name -> number of positions that the token takes."""

_MENTION = re.compile(f"({PLACEHOLDER.pattern})")
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)"
_MAX_SHOWN = 8  # unknown words in one warning

# Each pattern takes time linear in the text, whatever the text is: services match requests.
_WEIGHT = re.compile(rf"[^\d\s(]\s*:\s*{_NUMBER}\s*\)|\d\s*:\s*\d*\.\d+\s*\)")
_REFUSED = (
    (re.compile(r"\)[-+]?\d*\.\d+"), "a weight, as InvokeAI and compel have"),
    (re.compile(r"\(\([^()]*\)\)|\[\[[^\[\]]*\]\]"), "a weight, as A1111 has"),
    (re.compile(r"<\s*(?:lora|lyco|lycoris|locon|hypernet)\s*:[^<>]*>", re.I), "an extra network"),
    (re.compile(r"\bembedding:\S+", re.I), "an embedding, as ComfyUI names it"),
    (
        re.compile(rf"\[[^\[\]]*[^\d\s\[\]]\s*:\s*{_NUMBER}\s*\]"),
        "a schedule of prompts, as A1111 has",
    ),
    (re.compile(r"\[[^\[\]|]*\|[^\[\]]*\]"), "alternating prompts, as A1111 has"),
)
_SUSPICIOUS = (
    (re.compile(r"\({2,}|\[[^\[\]]+\]|\{[^{}]+\}"), "brackets"),
    (re.compile(r"\\[()\[\]]"), "escaped brackets"),
    (re.compile(r"\w(?:\+\+|--)(?!\w)|\)[-+]+(?!\w)"), "signs of a weight"),
    (re.compile(r"(?:^|\s)--[a-z]+\b"), "options"),
    (re.compile(r"::\s?-?\d"), "a weight"),
    (re.compile(r"(?<!\w)(?:BREAK|AND)(?!\w)"), "keywords"),
    (re.compile(r"__\w+__"), "a wildcard"),
)


def require_plain(texts: Iterable[str]) -> None:
    """Refuse syntax of other programs that would be read as text.

    Raises: TokenError.
    """
    for text in texts:
        for syntax, meaning in _foreign_syntax(text):
            raise TokenError(
                f"prompt {text!r:.300} has {syntax!r:.60}: {meaning}. Here it would be read as "
                "plain words, so it is refused; leave out the brackets, colon and number, and "
                "write a token as <name>"
            )


def _foreign_syntax(text: str) -> Iterator[tuple[str, str]]:
    """Yield what only another program understands, with what it means there."""
    opened = text.find("(")
    if opened >= 0 and (found := _WEIGHT.search(text, opened)):
        start = text.rfind("(", 0, found.start() + 1)
        yield text[start : found.end()], "a weight, as A1111 and ComfyUI have"
    for pattern, meaning in _REFUSED:
        if found := pattern.search(text):
            yield found[0], meaning


def unmentioned(texts: Sequence[str], placeholders: Iterable[str]) -> list[str]:
    """Return a warning for each placeholder that no text mentions, with what may have been meant.

    texts: the prompts of a request, and their negative prompts.
    """
    warnings: list[str] = []
    mentioned = {piece for text in texts for piece in _MENTION.findall(text)}
    for placeholder in placeholders:
        if placeholder not in mentioned:
            near = _near_mention(texts, placeholder.strip("<>"))
            remedy = f"{placeholder} where it says {near!r}" if near else f"{placeholder} in it"
            warnings.append(
                f"no prompt mentions {placeholder}, so this token changes no image: write {remedy}"
            )
    return warnings


def syntax_warnings(label: str, text: str) -> list[str]:
    """Return a warning for each kind of syntax in a text that has a meaning elsewhere alone.

    label: what the text is, such as "the prompt".
    """
    plain = _MENTION.sub(" ", text)
    suspicious = [
        (found[0], meaning) for pattern, meaning in _SUSPICIOUS if (found := pattern.search(plain))
    ]
    return [
        f"{label} has {syntax!r:.60}: {meaning}; it has no meaning here, and is read as plain text"
        for syntax, meaning in (*_foreign_syntax(text), *suspicious)
    ]


def text_warnings(
    label: str, text: str, vectors: VectorCounts, encoders: Mapping[str, "TextEncoder"]
) -> list[str]:
    """Return what the model does not read of a text as it stands there; nothing if it reads all.

    label: what the text is, such as "the prompt".
    vectors: of the tokens that the text may mention.

    Raises: TokenError if the vocabulary cannot spell the text.
    """
    warnings = syntax_warnings(label, text)
    for name, count in truncated_pieces(text, vectors, encoders).items():
        warnings.append(f"{label} is too long: {name} does not read its last {count} word pieces")
    return [*warnings, *word_warnings(label, unknown_words(text, encoders))]


def word_warnings(label: str, unknown: Sequence[str]) -> list[str]:
    """Return a warning of a text's words that the model never learned, if there are any."""
    if not unknown:
        return []
    more = f" and {len(unknown) - _MAX_SHOWN} more" if len(unknown) > _MAX_SHOWN else ""
    return [
        f"{label} has words that the model never learned, so that they say nothing to it: "
        f"{', '.join(unknown[:_MAX_SHOWN])}{more}"
    ]


def words_beyond(text: str, vocabulary: Collection[str]) -> list[str]:
    """Return the words of a text that a vocabulary does not have; none if it is empty."""
    words = dict.fromkeys(re.findall(r"\w+", _MENTION.sub(" ", text)))
    return [word for word in words if vocabulary and word.lower() not in vocabulary]


def truncated_pieces(
    text: str, vectors: VectorCounts, encoders: Mapping[str, "TextEncoder"]
) -> dict[str, int]:
    """Return how many word pieces each encoder would truncate, by name, where there are any.

    Learned rows are never among them: `prompts.tokenize` rejects such texts.
    """
    truncated: dict[str, int] = {}
    for name, encoder in encoders.items():
        num_pieces = sum(
            vectors.get(piece, {}).get(name, 1) if index % 2 else len(encoder.segment_ids(piece))
            for index, piece in enumerate(_MENTION.split(text.strip()))
            if piece.strip()
        )
        # An empty prompt has only what every prompt has: begin and end, or begin alone.
        room = encoder.max_length - len(encoder.wrap_ids([]))
        if num_pieces > room:
            truncated[name] = num_pieces - room
    return truncated


def unknown_words(text: str, encoders: Mapping[str, "TextEncoder"]) -> list[str]:
    """Return the words with a piece whose row is zero in every encoder: it was never trained."""
    words = dict.fromkeys(re.findall(r"\w+", _MENTION.sub(" ", text)))
    untrained = [(encoder, rows) for encoder in encoders.values() if (rows := _untrained(encoder))]
    if len(untrained) < len(encoders):
        return []
    return [
        word
        for word in words
        if all(rows.intersection(encoder.segment_ids(f" {word}")) for encoder, rows in untrained)
    ]


def _near_mention(texts: Iterable[str], name: str) -> str | None:
    """Return what looks like a placeholder of this name, or its bare name, in one of the texts."""
    pattern = re.compile(
        rf"[<＜‹«〈\[{{(]?\s*(?<!\w){re.escape(name)}(?!\w)\s*[>＞›»〉\]}})]?", re.I
    )
    found = (pattern.search(text) for text in texts)
    return next((each[0].strip() for each in found if each), None)


_untrained_ids: WeakKeyDictionary["TextEncoder", frozenset[int]] = WeakKeyDictionary()


def _untrained(encoder: "TextEncoder") -> frozenset[int]:
    """Return the ids whose row is zero; found once, since a vocabulary never changes."""
    if encoder not in _untrained_ids:
        is_zero: Tensor = ~encoder.vocabulary().any(dim=-1)
        _untrained_ids[encoder] = frozenset(is_zero.nonzero().flatten().tolist())
    return _untrained_ids[encoder]
