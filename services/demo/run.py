"""The service's demo: a service of its own, subjects learned and generated over HTTP, the page.

It works as a tenant does: everything comes from the API, apart from the metrics, which are read as
an operator reads them.
"""

import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dti_engine.backbones.checkpoint import open_checkpoint
from dti_engine.demo.images import (
    BLEND,
    STRIP_TEMPLATE,
    DemoScorer,
    draw_references,
    prompt_files,
    reference_folder,
    strip_files,
    strip_fractions,
)
from dti_engine.demo.results import DemoResults, DemoSubject, render, save_results
from dti_engine.demo.run import StageClock
from dti_engine.errors import GenerationFailedError, TrainingFailedError
from dti_engine.files import atomic_write, environment
from dti_engine.miniature.scorer import load_scorer
from dti_engine.miniature.world.subjects import HeldOutSubject, demo_prompts, held_out_subjects
from dti_engine.recipes import miniature
from services.auth.keys import create_key
from services.cli.generate import PromptImages, generate_images
from services.client.client import Client
from services.client.config import ServerConfig
from services.client.schemas import Item
from services.client.uploader import bundle_content
from services.client.watch import Update
from services.demo.figures import ServiceFigure, read_figures
from services.local.service import LocalService, LocalServiceSettings, free_port
from services.storage.open import open_store


def prompt_requests(
    subject: HeldOutSubject, output: Path, *, seed: int, steps: int
) -> list[PromptImages]:
    """Return the subject in every prompt; each prompt has one seed for all subjects."""
    return [
        PromptImages(
            {
                "prompt": prompt.template.replace("{}", subject.placeholder),
                "tokens": {subject.placeholder: subject.name},
                "steps": steps,
            },
            {seed + i: output / file},
        )
        for i, (file, prompt) in enumerate(
            zip(prompt_files(subject.name), demo_prompts(), strict=True)
        )
    ]


def pairs(subjects: Sequence[HeldOutSubject]) -> list[tuple[HeldOutSubject, HeldOutSubject]]:
    """Return each subject once, paired with its neighbour."""
    return list(zip(subjects[::2], subjects[1::2], strict=False))


def strip_requests(
    first: HeldOutSubject, second: HeldOutSubject, output: Path, *, seed: int, steps: int
) -> list[PromptImages]:
    """Return equal steps on the sphere between two subjects, which the endpoint blends."""
    return [
        PromptImages(
            {
                "prompt": STRIP_TEMPLATE.replace("{}", BLEND),
                "blends": {BLEND: {"a": first.name, "b": second.name, "t": t}},
                "steps": steps,
            },
            {seed: output / file},
        )
        for file, t in zip(strip_files(first.name, second.name), strip_fractions(), strict=True)
    ]


OnUpdate = Callable[[Update], None]

_READY_TIMEOUT_S = 180.0  # four processes load torch or Ray meanwhile


@dataclass(frozen=True)
class DemoServiceSettings:
    """Settings of a run; `steps` of training are the recipe's by default, `seed` is of prompt 0."""

    steps: int | None = None
    generation_steps: int = 25
    seed: int = 0


@dataclass(frozen=True)
class ServiceDemoCallbacks:
    """Callbacks for the stage that begins and for updates of the training job."""

    on_stage: Callable[[str], None] = lambda stage: None
    on_update: OnUpdate = lambda update: None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSubject(DemoSubject):
    """A subject that the service has learned."""

    report: Mapping[str, Any]  # as the service returns it


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDemoResults(DemoResults):
    """A run of the service."""

    figures: Sequence[ServiceFigure]
    settings: Mapping[str, Any]


def run(
    output: Path, settings: DemoServiceSettings, callbacks: ServiceDemoCallbacks
) -> ServiceDemoResults:
    """Run the demo and write everything to `output`.

    `gallery.html` shows the results, `results.json` has every number; the store is a new folder
    there. The service is stopped at the end, also after an error.

    Raises:
        NotReadyError: The service does not start.
        TrainingFailedError, GenerationFailedError: A subject or an image failed.
        ClientError: The service refuses a request.
        OutputError: A file cannot be written.
    """
    clock = StageClock(callbacks.on_stage)
    steps = settings.steps or miniature().steps
    subjects = held_out_subjects("demo")
    with clock("draw the subjects"):
        references = {subject.name: draw_references(subject, output) for subject in subjects}
    with _serving(output, clock) as service:
        items, figures = _use(service, subjects, output, steps, settings, clock, callbacks)
    with clock("score the images"):
        scorer = _read_images(subjects, references, output)
        scored = [
            ServedSubject(
                name=subject.name,
                placeholder=subject.placeholder,
                initializer=subject.class_word,
                token=item.token or "",
                report=item.report or {},
                references=references[subject.name],
                images=scorer.score_prompts(
                    subject, prompt_files(subject.name), seed=settings.seed
                ),
            )
            for subject, item in zip(subjects, items, strict=True)
        ]
        strips = [
            scorer.score_strip(first.name, second.name, seed=settings.seed)
            for first, second in pairs(subjects)
        ]
    results = ServiceDemoResults(
        subjects=scored,
        strips=strips,
        scale=scorer.scale(),
        figures=figures,
        settings={
            "training steps": steps,
            "denoising steps": settings.generation_steps,
            "seed": settings.seed,
            "model": "miniature",
        },
        seconds=clock.seconds,
        environment=environment(torch.device("cpu")),
    )
    save_results(results, output)
    page = render(results, output, Path(__file__).parent)
    atomic_write(output / "gallery.html", page.encode())
    return results


def learn(
    client: Client,
    subjects: Sequence[HeldOutSubject],
    output: Path,
    *,
    steps: int,
    on_update: OnUpdate,
) -> list[Item]:
    """Train all subjects as one job, and return its items in their order.

    Raises:
        TrainingFailedError: A subject was not learned.
        ClientError: The service refuses a request.
    """
    bundles = [bundle_content(reference_folder(each.name, output)) for each in subjects]
    client.upload(bundles)
    items = [
        {
            "id": subject.name,
            "bundle": bundle.sha256,
            "placeholder": subject.placeholder,
            "initializer": subject.class_word,
        }
        for subject, bundle in zip(subjects, bundles, strict=True)
    ]
    job = client.submit({"subjects": items, "overrides": {"steps": steps}}, "demo")
    for update in client.watch(job.job):
        on_update(update)
    trained = list(client.items(job.job))
    for item in trained:
        if item.token is None:
            raise TrainingFailedError(f"{item.id} was not learned ({item.state}): {item.reason}")
    return trained


@contextmanager
def _serving(output: Path, clock: StageClock) -> Generator[LocalService]:
    """Run a service as `dti serve` does, on a store of its own."""
    store = tempfile.mkdtemp(prefix="store-", dir=output)
    with ExitStack() as stopping:
        with clock("start the service"):
            service = LocalService(
                LocalServiceSettings(store=str(Path(store).absolute()), port=free_port())
            )
            stopping.enter_context(service)
            # Entered after the service, so it runs before the service stops.
            stopping.callback(clock.on_stage, "stop the service")
            service.wait_until_ready(_READY_TIMEOUT_S)
        yield service


def _use(
    service: LocalService,
    subjects: Sequence[HeldOutSubject],
    output: Path,
    steps: int,
    settings: DemoServiceSettings,
    clock: StageClock,
    callbacks: ServiceDemoCallbacks,
) -> tuple[list[Item], list[ServiceFigure]]:
    """Train and generate over HTTP; return the job's items and the figures of the service."""
    key = create_key(open_store(service.settings.store), "demo", "dti demo-service").credential
    how = {"seed": settings.seed, "steps": settings.generation_steps}
    prompts = [each for subject in subjects for each in prompt_requests(subject, output, **how)]
    blends = [each for pair in pairs(subjects) for each in strip_requests(*pair, output, **how)]
    learning = f"learn {len(subjects)} subjects"
    with Client.at(ServerConfig(service.url, key)) as client:
        with clock(learning):
            items = learn(client, subjects, output, steps=steps, on_update=callbacks.on_update)
        with clock(f"generate them in prompts, {len(prompts)} images"):
            _generate(client, prompts, settings.generation_steps)
        with clock(f"generate blends of them, {len(blends)} images"):
            _generate(client, blends, settings.generation_steps)
    with clock("read the metrics"):
        figures = read_figures(
            *service.metrics_urls,
            num_images=len(prompts) + len(blends),
            num_subjects=len(subjects),
            seconds=clock.seconds[learning],
        )
    return items, figures


def _generate(client: Client, requests: Sequence[PromptImages], steps: int) -> None:
    generated = generate_images(client, requests, steps=steps, replace=True)
    if len(generated) < len(requests):
        raise GenerationFailedError(f"{len(requests) - len(generated)} images failed")


def _read_images(
    subjects: Sequence[HeldOutSubject], references: Mapping[str, Sequence[str]], output: Path
) -> DemoScorer:
    def read(file: str) -> Image.Image:
        with Image.open(output / file) as image:
            return image.convert("RGB")

    files = [file for subject in subjects for file in prompt_files(subject.name)]
    files += [
        file for first, second in pairs(subjects) for file in strip_files(first.name, second.name)
    ]
    return DemoScorer(
        load_scorer(open_checkpoint("miniature").folder / "scorer.safetensors"),
        {name: [read(file) for file in of_subject] for name, of_subject in references.items()},
        {file: read(file) for file in files},
    )
