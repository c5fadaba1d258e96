"""A canary that the real API and a real worker write is nowhere after an erasure."""

import hashlib
import io
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dti_engine.backbones.interface import Backbone
from services import logs
from services.api.app import create_app
from services.auth.keys import create_key
from services.contracts.models import MINIATURE
from services.errors import DeletedError, UnknownJobError
from services.inference.tokens.cache import TokenCache
from services.inference.tokens.loader import ModelSignature
from services.ledger.ledger import Ledger
from services.ledger.recovery import Recovery
from services.settings import LedgerSettings
from services.storage.directory import DirectoryStore

from .conftest import Workshop

CANARY = "canary7f3a9c"


def _found_in(folder: Path) -> list[str]:
    """Return the files below a folder whose path or bytes have the canary."""
    needle = CANARY.encode()
    return [
        str(path)
        for path in folder.rglob("*")
        if CANARY in str(path) or (path.is_file() and needle in path.read_bytes())
    ]


def _with_canary(bundle: bytes) -> bytes:
    file = io.BytesIO(bundle)
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = CANARY.encode()
    return file.getvalue()


class _Client:
    """A tenant's client of the real API."""

    def __init__(self, ledger: Ledger) -> None:
        self._key = create_key(ledger.store, "acme").credential
        self._http = TestClient(create_app(ledger, MINIATURE))

    def ask(self, method: str, path: str, **how: Any) -> Any:
        headers = {"Authorization": f"Bearer {self._key}", **how.pop("headers", {})}
        answer = self._http.request(method, path, headers=headers, **how)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def train(self, bundles: dict[str, bytes], steps: int) -> str:
        subjects: list[dict[str, Any]] = []
        for name, data in bundles.items():
            sha256 = hashlib.sha256(data).hexdigest()
            self.ask("PUT", f"/v1/uploads/{sha256}", content=data)
            placeholder = f"<{name}>"
            subjects.append({"id": name, "bundle": sha256, "placeholder": placeholder})
        body = {
            "subjects": subjects,
            "validation_images": 0,
            "overrides": {"steps": steps, "eval_every": 3},
        }
        headers = {"Idempotency-Key": f"train {sorted(bundles)} {steps}"}
        return self.ask("POST", "/v1/training-jobs", json=body, headers=headers)["job"]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder for all files of the service, temporary ones included."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "temporary").mkdir()
    before = tempfile.tempdir
    tempfile.tempdir = str(folder / "temporary")
    yield folder
    tempfile.tempdir = before


@pytest.mark.slow  # It trains.
def test_no_byte_of_an_erased_subject_is_left(
    folder: Path,
    bundles: dict[str, bytes],
    miniature_backbone: Backbone,
    capfd: pytest.CaptureFixture[str],
) -> None:
    logs.configure("worker")
    settings = LedgerSettings(lease_s=4, poll_interval_s=0.05)
    ledger = Ledger.open(DirectoryStore(folder / "store"), settings)
    workshop = Workshop(ledger, miniature_backbone, bundles)
    client = _Client(ledger)
    first, second, *_ = bundles.values()
    now = [0.0]
    cache = TokenCache(ledger, ModelSignature.of(miniature_backbone), clock=lambda: now[0])
    with workshop.working():
        learned = client.train({CANARY: _with_canary(first)}, steps=6)
        workshop.wait_until_ended(learned)
        running = client.train({CANARY: _with_canary(first), "tom": second}, steps=2000)
        workshop.wait_for(lambda: bool(ledger.heads(f"t/acme/jobs/{running}/checkpoints/")))
        token = cache.get("acme", CANARY)
        assert len(_found_in(folder)) >= 3

        receipt = client.ask("POST", "/v1/erasures", json={"subject": CANARY})

        # The worker notices at its next heartbeat.
        workshop.wait_for(lambda: not _found_in(folder))
        client.ask("POST", f"/v1/training-jobs/{running}/cancel")
        workshop.wait_until_ended(running)
    Recovery(ledger).sweep()
    assert receipt["counts"]["tokens"] == 1
    assert receipt["counts"]["items"] == 2
    assert _found_in(folder) == []
    logged = capfd.readouterr()
    assert CANARY not in logged.out + logged.err
    now[0] += 61
    for name in (CANARY, token.token):
        with pytest.raises((DeletedError, UnknownJobError)):
            cache.get("acme", name)
    now[0] += 300
    cache.forget_unused()
    assert cache.num_tokens == 0
