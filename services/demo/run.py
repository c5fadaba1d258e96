"""Runs the demo: a service of its own, subjects learned and generated over HTTP, scores, the page.

All of it takes a tenant's way: nothing is read of the service but what its API answers, and its
metrics, as an operator reads them.

The demo's subjects, from drawn images to tokens of the service.
"""

import json
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dti_engine.backbones.checkpoint import open_checkpoint
from dti_engine.demo.images import DemoScorer
from dti_engine.errors import GenerationFailedError, TrainingFailedError
from dti_engine.files import atomic_write, environment
from dti_engine.miniature.scorer import load_scorer
from dti_engine.miniature.world.subjects import HeldOutSubject, draw_subject, held_out_subjects
from dti_engine.recipes import miniature
from services.auth.keys import create_key
from services.cli.generate import PromptImages, generate_images
from services.client.client import Client
from services.client.config import ServerConfig
from services.client.schemas import Item
from services.client.uploads import bundle_parcel
from services.client.watch import Update
from services.demo.images import (
    files,
    generated_images,
    judged_generated_images,
    judged_strip,
    pairs,
    prompts,
    strip,
)
from services.demo.page import read as read_figures
from services.demo.page import render
from services.demo.results import Figure, Learned, Results
from services.local.service import LocalService, LocalServiceSettings, free_port
from services.storage.open import open_store

NUM_IMAGES = 5  # of each subject

OnUpdate = Callable[[Update], None]


def draw(look: HeldOutSubject, output: Path) -> list[str]:
    """Draw the subject's images; their files, relative to the output folder."""
    folder = references(look.name, output)
    draw_subject(look, folder, count=NUM_IMAGES)
    return [path.relative_to(output).as_posix() for path in sorted(folder.glob("*.png"))]


def references(name: str, output: Path) -> Path:
    """Folder of a subject's images."""
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


_READY = 180.0  # seconds; four processes load torch or Ray meanwhile


@dataclass(frozen=True)
class Settings:
    """steps: of training, the recipe's if None; seed: of the first prompt, from which others count
    on.
    """

    steps: int | None = None
    generation_steps: int = 25
    seed: int = 0


@dataclass(frozen=True)
class Watch:
    """What a caller is told: the stage that begins, and what happens to the job."""

    on_stage: Callable[[str], None] = lambda stage: None
    on_update: OnUpdate = lambda update: None


@dataclass(frozen=True)
class _Clock:
    """Announces stages, and keeps how long they took."""

    watch: Watch
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def __call__(self, stage: str) -> Generator[None]:
        self.watch.on_stage(stage)
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began


@dataclass(frozen=True)
class _Made:
    """What came of the service."""

    looks: Sequence[HeldOutSubject]
    items: Sequence[Item]
    generated_images: Sequence[Sequence[PromptImages]]
    strips: Sequence[Sequence[PromptImages]]
    figures: Sequence[Figure]


def run(output: Path, settings: Settings, watch: Watch) -> Results:
    """All files go to `output`: `gallery.html` shows what came of it, `results.json` has every
    number; the store is a new folder in it. The service is stopped, whatever happens.

    Raises: NotReadyError, TrainingFailedError, GenerationFailedError, ClientError, OutputError.
    """
    clock = _Clock(watch)
    steps = settings.steps or miniature().steps
    with clock("draw the subjects"):
        looks = held_out_subjects("demo")
        drawn = {look.name: draw(look, output) for look in looks}
    with _serving(output, clock) as service:
        made = _use(service, looks, output, steps, settings, clock)
    with clock("score the images"):
        everything = [one for part in (*made.generated_images, *made.strips) for one in part]
        judge = DemoScorer(
            load_scorer(open_checkpoint("miniature").folder / "scorer.safetensors"),
            {name: list(generated_images(paths, output).values()) for name, paths in drawn.items()},
            generated_images(
                [file for one in everything for file in files(one, output).values()], output
            ),
        )
        subjects = [
            Learned(
                name=look.name,
                placeholder=look.placeholder,
                initializer=look.class_word,
                token=item.token or "",
                report=item.report or {},
                references=drawn[look.name],
                generated_images=judged_generated_images(judge, look, wanted, output),
            )
            for look, item, wanted in zip(looks, made.items, made.generated_images, strict=True)
        ]
        strips = [
            judged_strip(judge, *pair, wanted, output)
            for pair, wanted in zip(pairs(looks), made.strips, strict=True)
        ]
    results = Results(
        subjects=subjects,
        strips=strips,
        scale=judge.scale(),
        figures=made.figures,
        settings={
            "training steps": steps,
            "generating steps": settings.generation_steps,
            "seed": settings.seed,
            "model": "miniature",
        },
        seconds=clock.seconds,
        environment=environment(torch.device("cpu")),
    )
    document = json.dumps(results.document(), indent=2)
    atomic_write(output / "results.json", document.encode())
    atomic_write(output / "gallery.html", render(results, output).encode())
    return results


@contextmanager
def _serving(output: Path, clock: _Clock) -> Generator[LocalService]:
    """As `dti serve` does, on a store of its own."""
    store = tempfile.mkdtemp(prefix="store-", dir=output)
    with ExitStack() as stopping:
        with clock("start the service"):
            service = LocalService(
                LocalServiceSettings(store=str(Path(store).absolute()), port=free_port())
            )
            stopping.enter_context(service)
            # After this, so before that: the last that is entered is the first that is left.
            stopping.callback(clock.watch.on_stage, "stop the service")
            service.wait_until_ready(_READY)
        yield service


def _use(
    service: LocalService,
    looks: Sequence[HeldOutSubject],
    output: Path,
    steps: int,
    settings: Settings,
    clock: _Clock,
) -> _Made:
    key = create_key(open_store(service.settings.store), "demo", "dti demo-service").credential
    seed, generation_steps = settings.seed, settings.generation_steps
    with Client.at(ServerConfig(service.url, key)) as client:
        learning = f"learn {len(looks)} subjects"
        with clock(learning):
            items = learn(client, looks, output, steps=steps, on_update=clock.watch.on_update)
        generated_images = [
            prompts(look, output, seed=seed, steps=generation_steps) for look in looks
        ]
        strips = [strip(*pair, output, seed=seed, steps=generation_steps) for pair in pairs(looks)]
        of_prompts = [one for part in generated_images for one in part]
        of_blends = [one for part in strips for one in part]
        for doing, wanted in (
            (f"generate them into prompts, {len(of_prompts)} images", of_prompts),
            (f"generate the ways between them, {len(of_blends)} images", of_blends),
        ):
            with clock(doing):
                generated = generate_images(client, wanted, steps=generation_steps)
            if len(generated) < len(wanted):
                raise GenerationFailedError(f"{len(wanted) - len(generated)} images failed")
    with clock("read the metrics"):
        figures = read_figures(
            *service.metrics_urls,
            images=len(of_prompts) + len(of_blends),
            subjects=len(looks),
            seconds=clock.seconds[learning],
        )
    return _Made(looks, items, generated_images, strips, figures)
