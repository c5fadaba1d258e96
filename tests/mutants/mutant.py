"""One mutant: a change of one place in the source, and the tests that must fail with it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A safeguard that is taken out."""

    name: str
    file: str
    original: str
    """The text of the safeguard, which stands exactly once in the file."""
    replacement: str
    tests: tuple[str, ...]
    """Tests as pytest takes them; one of them must fail."""

    def mutated(self, source: str) -> str:
        """Return the file without the safeguard. Raises: ValueError if it is not there once."""
        if (count := source.count(self.original)) != 1:
            raise ValueError(
                f"the original of mutant {self.name} stands {count} times in {self.file}, and must "
                "stand once: update tests/mutants"
            )
        return source.replace(self.original, self.replacement)

    def digest(self) -> str:
        """Return a digest of all that decides the outcome and is close to the mutant."""
        digest = hashlib.sha256(repr(self).encode())
        for file in (self.file, *(test.partition("::")[0] for test in self.tests)):
            digest.update((ROOT / file).read_bytes())
        return digest.hexdigest()
