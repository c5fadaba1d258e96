"""New tokens tried out on the worker that learned them: generated, scored, flagged."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.quality.flags import with_flags
from dti_engine.quality.token_scorers import TokenScorer
from dti_engine.quality.validation import TokenValidator, ValidationCandidate
from services.training.batch import WorkerSlot


class ValidationRunner:
    """Of one worker."""

    def __init__(self, backbone: Backbone, judge: TokenScorer | None) -> None:
        self._backbone, self._judge = backbone, judge
        self._examiners: dict[int, TokenValidator] = {}

    def tried(
        self,
        learned: Sequence[tuple[WorkerSlot, Artifact]],
        on_step: Callable[[], None] = lambda: None,
    ) -> list[Artifact]:
        """The artifacts with their quality in their manifests. One that cannot be tried out stays
        as it is, and its seat has a warning.
        """
        try:
            return [
                self._try(seat, artifact) for seat, artifact in self._generated(learned, on_step)
            ]
        except Exception as error:  # whatever it is, the token has been learned
            if len(learned) > 1:  # such as of a token with which the model overflows: whose is it?
                return [self.tried([each], on_step)[0] for each in learned]
            seat, artifact = learned[0]
            seat.warnings.append(f"could not be tried out: {error}")
            return [artifact]

    def _generated(
        self, learned: Sequence[tuple[WorkerSlot, Artifact]], on_step: Callable[[], None]
    ) -> list[tuple[WorkerSlot, Artifact]]:
        generated = dict[int, Artifact]()
        for count in {seat.prepared.order.validation_images for seat, _ in learned} - {0}:
            group = [
                (i, *each)
                for i, each in enumerate(learned)
                if each[0].prepared.order.validation_images == count
            ]
            candidates = [
                ValidationCandidate(artifact, seat.prepared.references, seat.prepared.class_noun)
                for _, seat, artifact in group
            ]
            trials = self._examiner(count).validate(candidates, on_step=on_step)
            for (i, _, artifact), trial in zip(group, trials, strict=True):
                manifest = artifact.manifest.with_origin(quality=trial.quality)
                generated[i] = replace(artifact, manifest=manifest)
        return [(seat, generated.get(i, artifact)) for i, (seat, artifact) in enumerate(learned)]

    def _try(self, seat: WorkerSlot, artifact: Artifact) -> Artifact:
        if not seat.prepared.order.validation_images:
            return artifact
        # By itself: who its neighbours were is chance, and may be other tenants'.
        return with_flags({"": artifact}, self._backbone)[""]

    def _examiner(self, count: int) -> TokenValidator:
        if count not in self._examiners:
            self._examiners[count] = TokenValidator(self._backbone, self._judge, num_images=count)
        return self._examiners[count]
