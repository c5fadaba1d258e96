"""`dti push`: the folder that it writes, and a server that speaks as the Hub does."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from dti_engine import load_token
from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.importers import read_foreign
from dti_engine.artifacts.manifest import Quality, ValidationImage
from dti_engine.cli.app import app
from dti_engine.images.png import save_image

OID = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """The part of the Hub that makes a repository and takes a commit of small files."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.broken_status = 0
        """The status of every answer; 0: as it should be."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hub, path = self.server, self.path.partition("?")[0]
        if hub.broken_status:
            self._send(hub.broken_status, {"error": "broken"})
        elif self.headers.get("Authorization") != "Bearer hf_right":
            self._send(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            yaml.safe_load(json.loads(body)["content"].split("---")[1])
            self._send(200, {"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._send(200, {"files": files})
        elif "/commit/" in path:
            self._commit("/".join(path.split("/")[3:5]), body)
        else:
            self._send(404, {"error": path})

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].split("/")
        if parts[1:3] == ["api", "models"]:
            self._send(200, {"id": "/".join(parts[3:5]), "sha": OID, "siblings": []})
        else:
            self._send(404, {"error": self.path})

    def _create(self, order: dict[str, Any]) -> None:
        if order["organization"] != "me":
            self._send(403, {"error": "You don't have the rights"})
            return
        name = f"me/{order['name']}"
        url = {"url": f"{self.server.url}/{name}", "id": name, "name": name}
        if name in self.server.repositories:
            self._send(409, {"error": "You already created this model repo"} | url)
            return
        self.server.repositories[name] = {}
        if order.get("visibility") == "private" or order.get("private"):
            self.server.private.add(name)
        self._send(200, url)

    def _commit(self, name: str, body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                content = base64.b64decode(value["content"])
                self.server.repositories[name][value["path"]] = content
        url = f"{self.server.url}/{name}/commit/{OID}"
        self._send(200, {"commitUrl": url, "commitOid": OID})

    def _send(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    # What HF_ENDPOINT sets; the library reads it once, when it is imported.
    for module in (huggingface_hub.constants, huggingface_hub.hf_api.constants):
        monkeypatch.setattr(module, "ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def rex(tmp_path: Path, artifact_of: Callable[..., Artifact]) -> Path:
    """Return the token of a run with two validation images, trained from a photo named Anna."""
    images = tuple(
        ValidationImage(prompt=f"a <rex> {place}", seed=seed, subject_score=0.5, prompt_score=0.75)
        for seed, place in enumerate(("on a beach: at night", "in 'snow'"))
    )
    quality = Quality(scorer="paper", images=images, subject_score=0.5, prompt_score=0.75)
    artifact = artifact_of(
        {"text_encoder": torch.randn(2, 768)}, quality=quality, images={"Anna.jpg": "0" * 64}
    )
    path = tmp_path / "tokens" / "rex.safetensors"
    artifact.save(path)
    for index in range(2):
        image = Image.new("RGB", (8, 8))
        save_image(image, tmp_path / f"tokens/validation/rex/{index}.png", {"prompt": "a", "n": 1})
    (tmp_path / "tokens/validation/rex/reference.jpg").write_bytes(b"Anna's photo")
    return path


def dti(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "200"})


def push(file: Path, *arguments: object, repository: str = "me/rex-token") -> Result:
    return dti("push", file, repository, "--license", "cc-by-4.0", *arguments)


def metadata_of(card: bytes) -> dict[str, Any]:
    return yaml.safe_load(card.decode().split("---")[1])


def test_a_dry_run_writes_the_folder_and_sends_nothing(rex: Path, hub: Hub, tmp_path: Path) -> None:
    done = push(rex, "--dry-run", "--output", tmp_path / "card", "--base-model", "org/model")
    assert done.exit_code == 0, done.output
    written = {
        str(path.relative_to(tmp_path / "card"))
        for path in (tmp_path / "card").rglob("*")
        if path.is_file()
    }
    assert written == {
        "README.md",
        "learned_embeds.safetensors",
        "previews/0.png",
        "previews/1.png",
        "rex-token.safetensors",
    }
    card = (tmp_path / "card/README.md").read_bytes()
    assert metadata_of(card) == {
        "base_model": "org/model",
        "library_name": "diffusers",
        "license": "cc-by-4.0",
        "pipeline_tag": "text-to-image",
        "tags": ["textual-inversion", "text-to-image", "diffusers", "dti"],
        "instance_prompt": "a photo of <rex>",
        "widget": [
            {"text": "a <rex> on a beach: at night", "output": {"url": "previews/0.png"}},
            {"text": "a <rex> in 'snow'", "output": {"url": "previews/1.png"}},
        ],
    }
    text = card.decode()
    for said in ("2 vectors", "`dog`", "| steps | 400 |", "0.500, by paper", "load_token(pipeline"):
        assert said in text
    assert hub.repositories == {}


def test_the_published_files_are_the_token(rex: Path, tmp_path: Path) -> None:
    assert push(rex, "--dry-run", "--output", tmp_path / "card").exit_code == 0
    token = Artifact.load(rex).token
    own = Artifact.load(tmp_path / "card/rex-token.safetensors")
    theirs = read_foreign(tmp_path / "card/learned_embeds.safetensors")
    for found in (own.token.embeddings, theirs.embeddings):
        assert torch.equal(found["text_encoder"], token.embeddings["text_encoder"])
    assert load_token.__name__ in (tmp_path / "card/README.md").read_text()


def test_nothing_of_the_training_images_is_published(rex: Path, tmp_path: Path) -> None:
    push(rex, "--dry-run", "--output", tmp_path / "card")
    for path in (tmp_path / "card").rglob("*"):
        assert path.is_dir() or b"Anna" not in path.read_bytes(), path


@pytest.mark.parametrize("private", [True, False])
def test_a_token_is_published_in_a_new_repository(rex: Path, hub: Hub, private: bool) -> None:
    done = push(rex, *(["--private"] if private else []))
    assert done.exit_code == 0, done.output
    assert f"{hub.url}/me/rex-token" in done.stdout
    files = hub.repositories["me/rex-token"]
    assert sorted(files) == [
        "README.md",
        "learned_embeds.safetensors",
        "previews/0.png",
        "previews/1.png",
        "rex-token.safetensors",
    ]
    assert Artifact.from_bytes(files["rex-token.safetensors"]).token.placeholder == "<rex>"
    assert ("me/rex-token" in hub.private) == private


def test_a_repository_that_exists_is_replaced_on_request_only(rex: Path, hub: Hub) -> None:
    hub.repositories["me/rex-token"] = {}
    refused = push(rex)
    assert refused.exit_code == 2
    assert "is on the Hub already; give another name, or --update" in refused.stderr
    assert hub.repositories["me/rex-token"] == {}
    assert push(rex, "--update").exit_code == 0
    assert "README.md" in hub.repositories["me/rex-token"]


def test_without_a_login_the_command_says_how(
    rex: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in ("hf_wrong", None):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        else:
            monkeypatch.delenv("HF_TOKEN")
        done = push(rex)
        assert done.exit_code == 2
        assert "run `hf auth login`, or set HF_TOKEN" in done.stderr


def test_an_account_of_others_is_refused(rex: Path, hub: Hub) -> None:
    done = push(rex, repository="others/rex")
    assert done.exit_code == 2
    assert "your account may not write to 'others'" in done.stderr


def test_a_hub_that_fails_or_is_away_is_a_failure(rex: Path, hub: Hub) -> None:
    hub.broken_status = 500
    failed = push(rex)
    assert (failed.exit_code, "failed with status 500" in failed.stderr) == (1, True)
    hub.shutdown()
    hub.server_close()
    away = push(rex)
    assert (away.exit_code, "cannot be reached" in away.stderr) == (1, True)
    assert "--dry-run" in away.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("rex", "--license", "mit"), "write OWNER/NAME"),
        (("me/rex", "--license", "My Licence"), "write an id of the Hub"),
        (("me/rex", "--license", "mit", "--base-model", "./sd15"), "--base-model is './sd15'"),
        (("me/rex", "--license", "mit", "--output", "x"), "--output is the folder of --dry-run"),
    ],
)
def test_wrong_arguments_are_refused(rex: Path, arguments: tuple[str, ...], reason: str) -> None:
    done = dti("push", rex, *arguments)
    assert done.exit_code == 2
    assert reason in done.stderr


def test_a_dry_run_replaces_nothing_of_others(rex: Path, tmp_path: Path) -> None:
    card = tmp_path / "card" / "README.md"
    card.parent.mkdir()
    card.write_text("mine")
    refused = push(rex, "--dry-run", "--output", card.parent)
    assert refused.exit_code == 2
    assert card.read_text() == "mine"
    assert len(list(card.parent.iterdir())) == 1
    assert push(rex, "--dry-run", "--output", card.parent, "--force").exit_code == 0


def test_a_token_of_sana_has_no_file_for_diffusers(
    tmp_path: Path, artifact_of: Callable[..., Artifact]
) -> None:
    path = tmp_path / "rex.safetensors"
    artifact_of({"gemma": torch.randn(1, 2304)}).save(path)
    assert push(path, "--dry-run", "--output", tmp_path / "card").exit_code == 0
    assert sorted(each.name for each in (tmp_path / "card").iterdir()) == [
        "README.md",
        "rex-token.safetensors",
    ]
    assert "load_textual_inversion" not in (tmp_path / "card/README.md").read_text()
