"""Folders of runs, written by hand, so that everything in them is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import radians
from pathlib import Path

import pytest
import torch
from PIL import Image

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import Quality, ValidationImage
from dti_engine.cli.run_log import FILE, EventLog, read_events
from dti_engine.quality.run_folder import RunFolder
from dti_engine.quality.run_log import RunHistory
from dti_engine.quality.summary import RunReport, collect_report
from dti_engine.recipes import miniature


@dataclass
class HandMadeRun:
    """A folder, and what can be put into it."""

    root: Path
    artifact_of: Callable[..., Artifact]

    def add(
        self,
        name: str,
        *,
        scores: tuple[float, float] | None = (0.6, 0.9),
        flags: Sequence[str] = (),
        is_validated: bool = True,
        angle_deg: float = 30.0,
        has_images: bool = True,
        prompt: str = "a photo of a <rex>",
        **facts: object,
    ) -> Path:
        """Save a token that was validated with two images, and return its file."""
        subject, obeyed = scores or (None, None)
        shown = [
            ValidationImage(prompt=prompt, seed=seed, subject_score=subject, prompt_score=obeyed)
            for seed in range(2)
        ]
        quality = Quality(
            scorer="miniature scorer" if scores else None,
            images=tuple(shown),
            subject_score=subject,
            prompt_score=obeyed,
            word_subject_score=0.3 if scores else None,
            flags=tuple(flags),
        )
        figures = {"loss": 0.25, "fixed_loss": 0.2, "prior_angle_rad": radians(angle_deg)}
        known = {"quality": quality if is_validated else None, "metrics": figures, "steps_done": 40}
        known["config"] = miniature().changed(steps=400)
        artifact = self.artifact_of({"text_encoder": torch.ones(1, 4)}, **(known | facts))
        folder = RunFolder(self.root)
        artifact.save(folder.token(name))
        if is_validated and has_images:
            folder.save_reference(name, Image.new("RGB", (8, 8), "red"))
            for seed in range(2):
                Image.new("RGB", (8, 8), "blue").save(folder.image(name, seed))
        return folder.token(name)

    def log(self, event: str, **fields: object) -> None:
        """One more line of run.jsonl."""
        EventLog(self.root, on_lost=lambda reason: None).write(event, **fields)

    def summary(self) -> RunReport:
        """Return the summary of a folder, with its log if there is one."""
        log = self.root / FILE
        return collect_report(
            self.root, RunHistory.of(read_events(log)) if log.exists() else RunHistory()
        )


@pytest.fixture
def hand_made(tmp_path: Path, artifact_of: Callable[..., Artifact]) -> HandMadeRun:
    return HandMadeRun(tmp_path, artifact_of)
