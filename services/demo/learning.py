"""The demo's subjects, from drawn pictures to tokens of the service."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dti_engine.errors import TrainingFailedError
from dti_engine.miniature.world.subjects import HeldOutSubject, draw_subject
from services.client.answers import Item
from services.client.client import Client
from services.client.parcels import bundle_parcel
from services.client.watching import Update

NUM_PICTURES = 5  # of each subject

OnUpdate = Callable[[Update], None]


def draw(look: HeldOutSubject, output: Path) -> list[str]:
    """Draw the subject's pictures; their files, relative to the output folder."""
    folder = references(look.name, output)
    draw_subject(look, folder, count=NUM_PICTURES)
    return [path.relative_to(output).as_posix() for path in sorted(folder.glob("*.png"))]


def references(name: str, output: Path) -> Path:
    """Folder of a subject's pictures."""
    return output / "subjects" / name


def learn(
    client: Client,
    looks: Sequence[HeldOutSubject],
    output: Path,
    *,
    steps: int,
    on_update: OnUpdate,
) -> list[Item]:
    """All subjects as one job; its items, in their order.

    Raises: TrainingFailedError if one was not learned; ClientError.
    """
    parcels = [bundle_parcel(references(look.name, output)) for look in looks]
    client.upload(parcels)
    subjects = [
        {
            "id": look.name,
            "bundle": parcel.sha256,
            "placeholder": look.placeholder,
            "initializer": look.class_word,
        }
        for look, parcel in zip(looks, parcels, strict=True)
    ]
    job = client.submit({"subjects": subjects, "overrides": {"steps": steps}}, "demo")
    for update in client.watch(job.job):
        on_update(update)
    items = list(client.items(job.job))
    for item in items:
        if item.token is None:
            raise TrainingFailedError(f"{item.id} was not learned ({item.state}): {item.reason}")
    return items
