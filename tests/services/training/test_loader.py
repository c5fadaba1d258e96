"""Loading of a claimed subject: what only its bundle.json tells is checked by the worker."""

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dti_engine.errors import SubjectError
from dti_engine.images.bundles.archives import OpenArchive
from dti_engine.images.bundles.bundle import Bundle, check_bundle
from dti_engine.images.bundles.sidecars import SubjectWords
from dti_engine.recipes import recipe
from services.contracts.jobs import JobItem, JobRequest
from services.contracts.training import TrainingItem, TrainingJobSpec
from services.ledger import uploads
from services.ledger.attempts import Attempt
from services.ledger.ledger import Ledger
from services.ledger.submissions import submit
from services.ledger.worker import WorkerSession
from services.settings import LedgerSettings
from services.storage.memory import MemoryStore
from services.training import loader
from services.training.loader import load_subject


def _bundle(description: dict[str, object], picture: Image.Image | None = None) -> bytes:
    image, file = io.BytesIO(), io.BytesIO()
    (picture or Image.new("RGB", (64, 64), "red")).save(image, "PNG")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("one.png", image.getvalue())
        archive.writestr("bundle.json", json.dumps(description))
    return file.getvalue()


def _claimed(store: MemoryStore, bundle: bytes, **spec_fields: Any) -> Attempt:
    ledger = Ledger.open(store, LedgerSettings(lease_s=60, poll_interval_s=0.001))
    sha256 = hashlib.sha256(bundle).hexdigest()
    uploads.write(store, "acme", sha256, io.BytesIO(bundle))
    spec = TrainingJobSpec(
        model="miniature",
        recipe="miniature",
        config=recipe("miniature").model_dump(mode="json"),
        max_steps=5000,
        **spec_fields,
    )
    item = JobItem(name="rex", work=TrainingItem(bundle=sha256).model_dump(mode="json"))
    request = JobRequest(pool="miniature", items=(item,), shared=spec.model_dump(mode="json"))
    submit(ledger, "acme", "key", request)
    worker = WorkerSession(ledger, "miniature", rng=random.Random(1))
    worker.begin()
    (attempt,) = worker.claim(1)
    return attempt


@pytest.mark.parametrize(("steps", "is_taken"), [(5000, True), (5001, False), (10**18, False)])
def test_a_bundle_may_ask_for_as_many_steps_as_the_service_takes(
    steps: int, is_taken: bool
) -> None:
    store = MemoryStore()
    bundle = _bundle({"initializer": "dog", "training": {"steps": steps}})
    attempt = _claimed(store, bundle)
    if is_taken:
        subject = load_subject(store, attempt, store.now()).subject
        assert subject.config is not None
        assert subject.config.steps == steps
    else:
        with pytest.raises(SubjectError, match="steps"):
            load_subject(store, attempt, store.now())


@pytest.mark.parametrize("photographs", ["learned", "refused", "forced"])
def test_photographs_are_learned_refused_or_forced(photographs: str) -> None:
    noise = Image.effect_noise((100, 100), 60).convert("RGB")
    bundle = _bundle({"initializer": "dog"}, noise.resize((300, 300), Image.Resampling.BICUBIC))
    store = MemoryStore()
    attempt = _claimed(store, bundle, photographs=photographs)
    if photographs == "refused":
        with pytest.raises(SubjectError, match="its images are photographs"):
            load_subject(store, attempt, store.now())
    else:
        forced = load_subject(store, attempt, store.now()).subject.forced
        assert len(forced) == (photographs == "forced")


def test_an_upload_has_no_name_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = list[int]()

    def check(source: OpenArchive, *, resolution: int, words: SubjectWords) -> Bundle:
        checked.append(os.fstat(source.file.fileno()).st_nlink)
        assert list(tmp_path.iterdir()) == []
        return check_bundle(source, resolution=resolution, words=words)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(loader, "check_bundle", check)
    store = MemoryStore()
    loaded = load_subject(store, _claimed(store, _bundle({"initializer": "dog"})), store.now())
    assert [image.name for image in loaded.subject.images] == ["one.png"]
    assert checked == [0]


KILLED = """
import hashlib, io, sys, time
from services.contracts.training import TrainingItem
from services.ledger import uploads
from services.storage.memory import MemoryStore
from services.training import loader

def check(source, **options):
    print("reading", flush=True)
    time.sleep(60)

bundle = sys.stdin.buffer.read()
store, sha256 = MemoryStore(), hashlib.sha256(bundle).hexdigest()
uploads.write(store, "acme", sha256, io.BytesIO(bundle))
loader.check_bundle = check
loader._read_bundle(store, "acme", TrainingItem(bundle=sha256), 64)
"""


@pytest.mark.slow  # a process that imports torch
def test_a_worker_that_is_killed_leaves_no_photo_behind(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdin
        assert worker.stdout
        worker.stdin.write(_bundle({}))
        worker.stdin.close()
        assert worker.stdout.readline() == b"reading\n"
        worker.send_signal(signal.SIGKILL)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
