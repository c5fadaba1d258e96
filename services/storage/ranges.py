"""Ranges of bytes, by S3's rules."""

from services.errors import InvalidRangeError


def is_range(start: int, length: int | None) -> bool:
    """Whether less than the whole object was asked for. Raises: InvalidRangeError."""
    if start < 0 or (length is not None and length < 1):
        raise InvalidRangeError(
            f"a range of {length} bytes from {start} was asked for: start at 0 or later, and take "
            "1 byte or more, or None for all that follow"
        )
    return start > 0 or length is not None


def check_range(key: str, size: int, start: int, length: int | None) -> None:
    """Raises: InvalidRangeError unless an object of `size` bytes has a byte in this range."""
    if is_range(start, length) and start >= size:
        raise beyond(key, start)


def beyond(key: str, start: int) -> InvalidRangeError:
    return InvalidRangeError(f"{key!r} has no byte {start}: it ends before; ask for its size first")
