"""Validation of new tokens on the worker that learned them: images are generated and scored."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from dti_engine import devices
from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import DTIError
from dti_engine.quality.flags import with_flags
from dti_engine.quality.token_scorers import TokenScorer
from dti_engine.quality.validation import TokenValidator, ValidationCandidate
from services.training.batch import WorkerSlot


class ValidationRunner:
    """Validates the tokens of one worker, across its sessions."""

    def __init__(self, backbone: Backbone, scorer: TokenScorer | None) -> None:
        self._backbone, self._scorer = backbone, scorer
        self._validators: dict[int, TokenValidator] = {}
        """By the number of validation images; each caches the images of its prompts' words."""

    def validate(
        self,
        learned: Sequence[tuple[WorkerSlot, Artifact]],
        on_step: Callable[[], None] = lambda: None,
    ) -> list[Artifact]:
        """Return the artifacts with their quality in their manifests.

        A token that cannot be validated is returned as it is, and its slot gets a warning: it has
        been learned, and may be good all the same.
        """
        try:
            return [self._flag(slot, artifact) for slot, artifact in self._score(learned, on_step)]
        except (DTIError, RuntimeError, MemoryError) as error:
            # Any other error of torch is a bug or a failed device, which is no token's fault.
            if not isinstance(error, DTIError) and not devices.is_out_of_memory(error):
                raise
            if len(learned) > 1:  # one token with which the model overflows, perhaps: which?
                return [self.validate([each], on_step)[0] for each in learned]
            slot, artifact = learned[0]
            slot.warnings.append(f"could not be validated: {error}")
            return [artifact]

    def _score(
        self, learned: Sequence[tuple[WorkerSlot, Artifact]], on_step: Callable[[], None]
    ) -> list[tuple[WorkerSlot, Artifact]]:
        scored = dict[int, Artifact]()
        for count in {slot.loaded.job.validation_images for slot, _ in learned} - {0}:
            group = [
                (i, *each)
                for i, each in enumerate(learned)
                if each[0].loaded.job.validation_images == count
            ]
            candidates = [
                ValidationCandidate(artifact, slot.loaded.references, slot.loaded.class_noun)
                for _, slot, artifact in group
            ]
            validations = self._validator(count).validate(candidates, on_step=on_step)
            for (i, _, artifact), validation in zip(group, validations, strict=True):
                manifest = artifact.manifest.with_origin(quality=validation.quality)
                scored[i] = replace(artifact, manifest=manifest)
        return [(slot, scored.get(i, artifact)) for i, (slot, artifact) in enumerate(learned)]

    def _flag(self, slot: WorkerSlot, artifact: Artifact) -> Artifact:
        if not slot.loaded.job.validation_images:
            return artifact
        # By itself: its neighbours are chance, and may be other tenants'.
        return with_flags({"": artifact}, self._backbone)[""]

    def _validator(self, count: int) -> TokenValidator:
        if count not in self._validators:
            self._validators[count] = TokenValidator(self._backbone, self._scorer, num_images=count)
        return self._validators[count]
