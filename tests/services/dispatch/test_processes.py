"""Dispatchers and an engine of the miniature as processes, with a folder as their store."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import ImportedOrigin
from dti_engine.backbones import load_backbone
from dti_engine.generation.pipeline import ImageRequest, generate
from dti_engine.text.tokens import LearnedToken
from services.api.generation_jobs.build import build_generation_job
from services.api.generation_jobs.schemas import GenerationJobRequest
from services.auth.tenants import Limits
from services.contracts.jobs import JobItem, JobRequest
from services.contracts.models import MINIATURE
from services.ledger import aliases
from services.ledger.ids import token_id
from services.ledger.ledger import Ledger
from services.ledger.queries import list_attempts, list_items, read_image, view_job
from services.ledger.recovery import Recovery
from services.ledger.submissions import submit
from services.ledger.worker import WorkerSession
from services.local.service import free_port
from services.settings import ApiSettings, LedgerSettings
from services.storage.directory import DirectoryStore

pytestmark = pytest.mark.slow

SECONDS = 240
"""Two busy cores, and a process that loads torch."""

LEASE = 3


@contextmanager
def process(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "DTI_ENGINE_SECRET": "hush", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        started = subprocess.Popen(
            [sys.executable, "-m", *arguments], env=environment, stdout=file, stderr=file
        )
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(30)
            finally:
                started.kill()


def until(holds: Callable[[], Any], log: Path) -> None:
    ends = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < ends, log.read_text()[-2000:]
        time.sleep(0.1)


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/miniature/healthz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def token_file(token: LearnedToken, fingerprint: str) -> bytes:
    origin = ImportedOrigin(format_name="test", pooling="eos", files={})
    artifact = Artifact.of(token, model="miniature", fingerprint=fingerprint, origin=origin)
    return artifact.to_bytes()


def learn(ledger: Ledger, file: bytes) -> None:
    """Store a token as a training job would."""
    request = JobRequest(pool="miniature", items=(JobItem(name="rex"),))
    job = submit(ledger, "acme", "learn", request).job
    worker = WorkerSession(ledger, "miniature")
    worker.begin()
    [attempt] = worker.claim(1)
    aliases.add(ledger.store, "acme", "rex", token_id(job, 0, 0))
    attempt.succeed(file)
    worker.end()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    settings = LedgerSettings(lease_s=LEASE, poll_interval_s=0.1)
    return Ledger.open(DirectoryStore(tmp_path / "store"), settings)


def test_after_a_dispatcher_is_killed_another_ends_every_image_once(
    ledger: Ledger, tmp_path: Path
) -> None:
    backbone = load_backbone("miniature")
    rows = {name: torch.randn(1, each.dim) for name, each in backbone.text_encoders.items()}
    file = token_file(LearnedToken("<rex>", rows, "eos"), backbone.fingerprint)
    learn(ledger, file)
    job_request = GenerationJobRequest.model_validate(
        {
            "prompts": ["a photo of a <dog> on a beach"],
            "placeholder": "<dog>",
            "tokens": ["rex", "nobody"],
            "seeds": {"first": 3, "count": 12},
            "steps": 3,
        }
    )
    request = build_generation_job(job_request, Limits(), MINIATURE, ApiSettings()).request
    job = submit(ledger, "acme", "generate", request).job
    port = free_port()
    engines = f"http://127.0.0.1:{port}/engines"
    store = ("--store", str(tmp_path / "store"))
    options = (
        *store,
        "--engines-url",
        engines,
        "--lease-s",
        str(LEASE),
        "--poll-interval-s",
        "0.1",
        "--max-in-flight",
        "4",
    )

    def counts() -> Any:
        Recovery(ledger).recover()
        return view_job(ledger, "acme", job).counts

    with ExitStack() as stack:
        begin = stack.enter_context
        log = tmp_path / "engine.log"
        begin(process(log, "services.inference", "run", *store, "--port", str(port)))
        until(lambda: is_up(engines), log)
        first = begin(process(tmp_path / "first.log", "services.dispatch", *options))
        until(lambda: counts().ended, tmp_path / "first.log")
        os.kill(first.pid, signal.SIGKILL)
        log = tmp_path / "second.log"
        second = begin(process(log, "services.dispatch", *options))
        until(lambda: view_job(ledger, "acme", job).counts.total == counts().ended, log)
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0
    assert (counts().succeeded, counts().failed) == (12, 12)
    items = list_items(ledger, "acme", job).items
    assert all("no token of a subject 'nobody'" in item.reason for item in items[12:])
    ends = [each.cause for item in items for each in list_attempts(ledger, "acme", job, item.index)]
    assert set(ends) <= {"succeeded", "failed", "lost"}
    assert (ends.count("succeeded"), ends.count("failed")) == (12, 12)
    image = Image.open(io.BytesIO(read_image(ledger, "acme", job, 1).payload))
    token = {"<dog>": Artifact.from_bytes(file).token}
    with_token = ImageRequest("a photo of a <dog> on a beach", 4, token)
    without_token = ImageRequest("a photo of a dog on a beach", 4)
    here, without = generate(backbone, [with_token, without_token], steps=3)
    assert distance(image, here) < 1 < distance(image, without)


def distance(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference in levels.

    It is not 0, because the engine's process has other threads and rounds differently.
    """
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())
