"""Seeds of training and painting: each subject has its own, and all methods and rows the same.

Were they shared by subjects, luck with them would not average out over subjects, and an interval
found by resampling subjects would be too short. Shared by rows, they make the rows pairs.
"""

import hashlib


def training_seed(first: int, subject: str, number: int) -> int:
    """Of the subject's training `number`, counted from 0; `first` is the evaluation's own seed."""
    return _seed("training", first, subject, number)


def image_seed(first: int, subject: str, prompt: int, number: int) -> int:
    """Of the subject's picture `number` in a prompt, whatever names the subject there."""
    return _seed("image", first, subject, prompt, number)


def _seed(*names: str | int) -> int:
    """32 bits that depend on nothing else, neither the process nor the machine."""
    digest = hashlib.sha256(" ".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:4])
