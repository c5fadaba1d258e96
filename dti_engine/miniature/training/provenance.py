"""Which source made something."""

import subprocess
from pathlib import Path

_SOURCE = Path(__file__).parents[1]  # the miniature's, its world's too


def commit() -> str | None:
    """The last commit that changed the miniature's source; None where git does not know it."""
    try:
        revision = _git("log", "-1", "--format=%H", "--", "*.py")
        changed = _git("status", "--porcelain", "--", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    if not revision:
        return None
    return f"{revision}, with changes not yet committed" if changed else revision


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_SOURCE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
