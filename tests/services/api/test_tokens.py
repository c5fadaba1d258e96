"""Tokens are listed, downloaded and deleted."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.exporters import convert
from dti_engine.artifacts.manifest import ImportedOrigin
from dti_engine.config import ExportFormat
from dti_engine.text.tokens import LearnedToken
from services.ledger import aliases
from services.ledger.deletion import delete_item
from services.ledger.ids import token_id


def _list(site: Any, query: str = "", tenant: str = "acme", limit: int = 200) -> list[str]:
    """Ids on all pages."""
    found, cursor = list[str](), ""
    while cursor is not None:
        after = f"&cursor={cursor}" if cursor else ""
        answer = site.get(f"/v1/tokens?limit={limit}{after}{query}", tenant)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["tokens"]) <= limit
        found += [token["token"] for token in page["tokens"]]
        cursor = page["next"]
    return found


def test_a_token_is_shown_with_its_manifest_and_downloaded(site: Any) -> None:
    job = site.make("rex", tags={"project": "pets"})
    site.work_off()
    [token] = site.tokens(job)
    view = site.get(f"/v1/tokens/{token}").json()
    file = site.get(f"/v1/tokens/{token}/file")
    assert view["sha256"] == hashlib.sha256(file.content).hexdigest()
    assert file.headers["etag"] == f'"{view["sha256"]}"'
    assert (view["alias"], view["job"], view["index"], view["size"]) == (
        "rex",
        job,
        0,
        len(file.content),
    )
    assert view["tags"] == {"project": "pets"}
    artifact = Artifact.from_bytes(file.content)
    assert view["manifest"] == artifact.manifest.model_dump(mode="json")


def test_tokens_are_found_by_alias_by_tag_and_by_both(site: Any) -> None:
    pets = site.make("rex", "ada", tags={"project": "pets", "colour": "a:b"})
    site.work_off()
    toys = site.make("rex", "bear", tags={"project": "toys"})
    site.work_off()
    rex, ada = site.tokens(pets)
    toy_rex, bear = site.tokens(toys)
    assert _list(site) == [toy_rex, bear, rex, ada]
    assert _list(site, "&alias=rex") == [toy_rex, rex]
    assert _list(site, "&alias=nobody") == []
    assert _list(site, "&tag=project:pets") == [rex, ada]
    assert _list(site, "&tag=colour:a:b") == [rex, ada]
    assert _list(site, "&tag=project:p") == []
    assert _list(site, "&alias=rex&tag=project:pets") == [rex]
    assert _list(site, "", "other") == _list(site, "&alias=rex", "other") == []


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_join_without_gap_or_repetition(site: Any, limit: int) -> None:
    jobs = [site.make("same", *(f"{number}-{n}" for n in range(3))) for number in range(3)]
    site.work_off(lambda attempt: "no" if attempt.item.name == "1-1" else "")
    every = [token for job in reversed(jobs) for token in site.tokens(job)]
    assert len(every) == 11
    assert _list(site, limit=limit) == every
    assert _list(site, "&alias=same", limit=limit) == [t for t in every if t.endswith("00000")]


def test_a_long_search_continues_on_the_next_page(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.api.tokens import index as token_index

    monkeypatch.setattr(token_index.TokenIndex.__init__, "__defaults__", (2,))
    tagged = site.make("rex", tags={"a": "b"})
    for _ in range(5):
        site.make("other")
    site.work_off()
    for _ in range(3):
        # Hints of tokens that never came to be, of newer jobs.
        aliases.add(site.store, "acme", "rex", token_id(site.ledger.ids.job(), 0, 0))
    first = site.get("/v1/tokens?tag=a:b").json()
    assert first["tokens"] == []
    assert first["next"]
    assert _list(site, "&tag=a:b") == site.tokens(tagged)
    assert _list(site, "&alias=rex", limit=1) == site.tokens(tagged)


def test_a_deleted_token_is_gone_everywhere_and_audited(site: Any) -> None:
    job = site.make("rex", "ada")
    site.work_off()
    rex, ada = site.tokens(job)
    for _ in range(2):
        assert site.ask("DELETE", f"/v1/tokens/{rex}").status_code == 204
    for path in ("", "/file"):
        assert site.get(f"/v1/tokens/{rex}{path}").status_code == 410
    assert _list(site) == [ada]
    assert _list(site, "&alias=rex") == []
    assert site.get(f"/v1/training-jobs/{job}/items/0").json()["state"] == "deleted"
    entries = site.get("/v1/audit").json()["entries"]
    assert [(entry["action"], entry["what"]) for entry in entries] == [("token.delete", rex)] * 2
    assert entries[0]["by"] == site.keys["acme"].split("_")[1]
    [page] = [site.get("/v1/audit?limit=1").json()]
    rest = site.get(f"/v1/audit?limit=1&cursor={page['next']}").json()
    assert [page["entries"][0], rest["entries"][0]] == entries
    assert rest["next"] is None


def test_an_attempt_that_ends_after_the_deletion_brings_nothing_back(site: Any) -> None:
    job = site.make("rex")
    worker = site.worker()
    [attempt] = worker.claim(1)
    delete_item(site.ledger, "acme", job, 0)
    aliases.add(site.store, "acme", "rex", token := token_id(job, 0, 0))
    with pytest.raises(Exception, match="has ended as deleted"):
        attempt.succeed(b"secret")
    assert site.get(f"/v1/tokens/{token}").status_code == 410
    assert _list(site, "&alias=rex") == _list(site) == []


def test_unknown_tokens_are_not_found(site: Any) -> None:
    job = site.make("rex", "bad", "later")
    worker = site.worker()
    for attempt in worker.claim(2):
        attempt.fail("no", retry=False)
    worker.end()
    for token in ("x", "tok_x", token_id(job, 0, 1), token_id(job, 0, 3), token_id(job, 5, 0)):
        for path in ("", "/file"):
            assert site.get(f"/v1/tokens/{token}{path}").status_code == 404
    for token in ("x", token_id(job, 0, 3), token_id(job, 5, 0)):
        assert site.ask("DELETE", f"/v1/tokens/{token}").status_code == 404
    assert site.get("/v1/audit").json()["entries"] == []


def _stored(site: Any, widths: dict[str, int]) -> tuple[str, Artifact]:
    """Store a token of these widths; return its id and its content."""
    rows = {name: torch.randn(2, width) for name, width in widths.items()}
    token = LearnedToken("<my-rex>", rows, "eos")
    origin = ImportedOrigin(format_name="test", pooling="eos", files={})
    artifact = Artifact.of(token, model="tiny", fingerprint="0" * 64, origin=origin)
    job = site.make("rex")
    [attempt] = site.worker().claim(1)
    attempt.succeed(artifact.to_bytes())
    return site.tokens(job)[0], artifact


def test_a_token_is_served_in_the_formats_of_other_programs(site: Any) -> None:
    token, artifact = _stored(site, {"text_encoder": 768})
    for format_name in get_args(ExportFormat):
        answer = site.get(f"/v1/tokens/{token}/file?format={format_name}")
        assert answer.status_code == 200, answer.text
        expected = convert(artifact, Path("my-rex.safetensors"), format_name)
        assert answer.content == expected.contents[Path("my-rex.safetensors")]
        assert answer.headers["content-disposition"] == 'attachment; filename="my-rex.safetensors"'
        assert answer.headers["x-prompt-name"] == expected.prompt_name
        assert answer.headers.get("x-note") == expected.note
        assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
        assert answer.headers["cache-control"] == "no-store"


def test_a_pair_of_files_is_served_part_by_part(site: Any) -> None:
    token, artifact = _stored(site, {"text_encoder": 768, "text_encoder_2": 1280})
    path = f"/v1/tokens/{token}/file?format=diffusers"
    found = {
        Path(answer.headers["content-disposition"].split('"')[1]): answer.content
        for answer in (site.get(f"{path}&part={part}") for part in (1, 2))
    }
    assert found == convert(artifact, Path("my-rex.safetensors"), "diffusers").contents
    refused = site.get(path)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "?part"
    assert "request part=1 and part=2" in refused.json()["detail"]


def test_a_part_that_does_not_exist_is_refused(site: Any) -> None:
    token, _ = _stored(site, {"text_encoder": 768})
    for query in ("part=2", "format=comfyui&part=2", "part=0", "part=3"):
        assert site.get(f"/v1/tokens/{token}/file?{query}").status_code == 422
    assert site.get(f"/v1/tokens/{token}/file?part=1").status_code == 200


@pytest.mark.parametrize(
    ("widths", "query", "reason"),
    [
        ({"gemma": 2304}, "comfyui", "onetrainer takes it"),
        ({"text_encoder": 128}, "a1111", "does not take"),
        ({"text_encoder": 768}, "pt", "'onetrainer'"),
    ],
)
def test_a_format_that_does_not_take_the_token_is_refused(
    site: Any, widths: dict[str, int], query: str, reason: str
) -> None:
    token, _ = _stored(site, widths)
    answer = site.get(f"/v1/tokens/{token}/file?format={query}")
    assert answer.status_code == 422
    assert reason in answer.text
    assert answer.json()["errors"][0]["pointer"] == "?format"


@pytest.mark.parametrize(
    "payload", [b"", b"12345678", b"\x02\x00\x00\x00\x00\x00\x00\x00{}", b"\xff" * 40]
)
def test_a_file_of_another_kind_has_no_manifest(site: Any, payload: bytes) -> None:
    job = site.make("rex")
    worker = site.worker()
    [attempt] = worker.claim(1)
    attempt.succeed(payload)
    [token] = site.tokens(job)
    assert site.get(f"/v1/tokens/{token}").json()["manifest"] is None
    assert site.get(f"/v1/tokens/{token}/file").content == payload
    refused = site.get(f"/v1/tokens/{token}/file?format=comfyui")
    assert refused.status_code == 422
    assert "no token file" in refused.json()["detail"]


def test_the_nodes_of_comfyui_load_the_newest_token_of_a_subject(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = Path(__file__).parents[3] / "integrations/comfyui/__init__.py"
    spec = importlib.util.spec_from_file_location("comfyui_pack", pack)
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    node = module.NODE_CLASS_MAPPINGS["DTILoadServiceToken"]
    widths = {"text_encoder": 768, "text_encoder_2": 1280}
    with site.served() as url:
        monkeypatch.setenv("DTI_SERVER", url)
        monkeypatch.setenv("DTI_API_KEY", site.keys["acme"])
        for _ in range(2):
            token, artifact = _stored(site, widths)
            aliases.add(site.store, "acme", "rex", token)
            assert node.IS_CHANGED("rex") == token
            (found,) = node().load(" rex ")
            rows = artifact.token.embeddings
            assert torch.equal(found["clip_l"], rows["text_encoder"])
            assert torch.equal(found["clip_g"], rows["text_encoder_2"])
        sana, _ = _stored(site, {"gemma": 2304})
        with pytest.raises(ValueError, match="onetrainer takes it"):
            node().load(sana)
