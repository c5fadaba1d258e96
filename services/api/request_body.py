"""Parses JSON bodies, refuses repeated keys, and bounds the number of values.

A parsed body takes more memory than its bytes: an empty list of 3 bytes takes hundreds, and so does
each error. So the number of values is bounded before anything is parsed.
"""

import json
import re
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from services.api.problems import invalid_request

M = TypeVar("M", bound=BaseModel)

Location: TypeAlias = tuple[str | int, ...]
"""The place of an error, as pydantic gives it."""

_MIN_VALUES, _BYTES_PER_VALUE = 50_000, 24
"""The values that any body may have, and how many bytes one more takes: the digest of an image in a
job has 64.
"""

_MAX_ERRORS = 10_000
"""Errors that are told by their places. More would take more memory than the body."""

_NEXT_VALUE = re.compile(
    rb'[^",\[{]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^",\[{]*+)*+(?:[,\[{]|.+|\Z)', re.DOTALL
)
"""Everything up to a mark that begins a value or follows it, with whole strings; or up to the end,
so that no text makes this search twice.
"""


def parse_body(
    model: type[M],
    body: bytes,
    place: Callable[[Location], Location] = lambda loc: loc,
    *,
    prefix: Location = (),
    strict: bool = True,
) -> M:
    """Parse a JSON body. Call this off the event loop, because a large body takes a while.

    Args:
        model: The type of the request.
        body: The body.
        place: Translates the place of an error into that in the client's JSON.
        prefix: The place of the JSON in the request, if it is not the whole body.
        strict: Refuse a text such as "7" where a number is meant, instead of guessing.

    Raises:
        RequestValidationError: The body is not valid.
    """
    _check_values(body, prefix)
    try:
        parsed = model.model_validate_json(body, strict=strict)
    except ValidationError as error:
        raise RequestValidationError(_errors(error, place, prefix)) from error
    if repeated := find_repeated_key(body):
        *outer, name = repeated
        raise invalid_request(
            ("body", *prefix, *repeated),
            f"the key {name!r:.80} is given more than once in "
            f"{'one object' if outer else 'the body'}: give it once",
        )
    return parsed


def _check_values(body: bytes, prefix: Location) -> None:
    """Raise RequestValidationError if the body has more values than any request of its size."""
    limit = _MIN_VALUES + len(body) // _BYTES_PER_VALUE
    # Strings may have as many commas as they like. Counting all is fast, and is enough mostly.
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) <= limit:
        return
    if next(islice(_NEXT_VALUE.finditer(body), limit, None), None):
        raise invalid_request(
            ("body", *prefix),
            f"the body has more than {limit} values in its {len(body)} bytes, which no request "
            "needs: check how it was made",
        )


def _errors(
    error: ValidationError, place: Callable[[Location], Location], prefix: Location
) -> Sequence[Any]:
    count = error.error_count()
    if count > _MAX_ERRORS:
        reason = f"the body has {count} errors: correct its form, and the rest can be told"
        return [{"loc": ("body", *prefix), "msg": reason, "type": "refused"}]
    errors = error.errors(include_url=False)
    if count > 1:
        # pydantic leaves invalid items out and then reports that there are too few.
        errors = [each for each in errors if each["type"] != "too_short" or each["input"] == []]
    return [{**each, "loc": ("body", *prefix, *place(each["loc"]))} for each in errors]


def find_repeated_key(body: bytes) -> Location | None:
    """Return the place of the first key that valid JSON has twice in one object, or None.

    RFC 8259 leaves it open which of the two values counts, so that a proxy that checks requests and
    this service could each take another one.
    """
    found: Location | None = None

    def check(pairs: list[tuple[str, Any]]) -> Location | None:
        """Return the place below this object; objects are called from the inside out."""
        nonlocal found
        if found is None:
            if len(pairs) > 1 and len(dict(pairs)) < len(pairs):
                seen = set[str]()
                for name, _ in pairs:
                    if name in seen:
                        found = (name,)
                        break
                    seen.add(name)
            return found
        for name, value in pairs:
            if (below := _place_below(value)) is not None:
                found = (name, *below)
                return found
        return None

    # Each object becomes None, or the place of the key, so that no tree is held in memory.
    # Numbers stay text, because Python refuses those of many digits.
    tree = json.loads(body, object_pairs_hook=check, parse_int=str, parse_float=str)
    return None if found is None else _place_below(tree)


def _place_below(value: Any) -> Location | None:
    """Return the place of the key in a value that stands for an object or a list."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, list):
        for index, each in enumerate(value):
            if (below := _place_below(each)) is not None:
                return (index, *below)
    return None
