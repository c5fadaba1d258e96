"""The ComfyUI nodes: their interface, the arithmetic, and what ComfyUI finds in their prompts."""

import inspect
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.exporters import convert
from dti_engine.artifacts.manifest import ImportedOrigin
from dti_engine.text.tokens import LearnedToken, slerp_tokens
from tests.dti_engine.artifacts.loaders import load_comfyui, names_in_comfyui

SDXL = {"text_encoder": 768, "text_encoder_2": 1280}
TYPES = {"STRING", "FLOAT", "CLIP", "DTI_TOKEN"}


def learned(widths: dict[str, int], length: float) -> Artifact:
    rows = {name: length * torch.randn(2, width) for name, width in widths.items()}
    origin = ImportedOrigin(format_name="test", pooling="eos", files={})
    token = LearnedToken("<rex>", rows, "eos")
    return Artifact.of(token, model="tiny", fingerprint="0" * 64, origin=origin)


def exported(artifact: Artifact) -> bytes:
    (content,) = convert(artifact, Path("rex.safetensors"), "comfyui").contents.values()
    return content


def pair(count: int = 2) -> dict[str, Tensor]:
    return {"clip_l": torch.randn(count, 768), "clip_g": torch.randn(count, 1280)}


def test_every_node_has_comfyuis_interface(
    pack: ModuleType, nodes: dict[str, Any], embeddings: Path
) -> None:
    assert pack.NODE_DISPLAY_NAME_MAPPINGS.keys() == pack.NODE_CLASS_MAPPINGS.keys()
    for name, node in nodes.items():
        inputs = node.INPUT_TYPES()
        assert inputs.keys() <= {"required", "optional", "hidden"}
        assert isinstance(node.RETURN_TYPES, tuple)
        assert set(node.RETURN_TYPES) <= TYPES
        assert len(node.RETURN_NAMES) == len(node.RETURN_TYPES)
        assert node.CATEGORY
        # ComfyUI calls FUNCTION of a new object, and IS_CHANGED, with the inputs by name.
        parameters = [*inspect.signature(getattr(node(), node.FUNCTION)).parameters]
        assert parameters == list(inputs["required"]), name
        if hasattr(node, "IS_CHANGED"):
            assert [*inspect.signature(node.IS_CHANGED).parameters] == parameters
        for kind, *options in inputs["required"].values():
            assert isinstance(kind, list) or kind in TYPES
            assert all(isinstance(each, dict) for each in options)
            if kind == "FLOAT":
                assert options[0]["min"] <= options[0]["default"] <= options[0]["max"]


@pytest.mark.parametrize("widths", [{"text_encoder": 768}, SDXL])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_a_blend_is_that_of_the_engine(
    nodes: dict[str, Any],
    embeddings: Path,
    widths: dict[str, int],
    t: float,
) -> None:
    artifacts = [learned(widths, length) for length in (0.5, 2.0)]
    loaded = []
    for name, artifact in zip("ab", artifacts, strict=True):
        (embeddings / f"{name}.safetensors").write_bytes(exported(artifact))
        loaded += nodes["LoadFileToken"]().load(f"{name}.safetensors")
    (found,) = nodes["SlerpTokens"]().blend(*loaded, t)
    expected: LearnedToken = slerp_tokens(*(each.token for each in artifacts), t, placeholder="<x>")
    by_width = sorted(found.values(), key=lambda rows: rows.shape[-1])
    for rows, of_engine in zip(by_width, expected.embeddings.values(), strict=True):
        torch.testing.assert_close(rows, of_engine)


def test_nearly_equal_tokens_are_blended_without_a_hole(nodes: dict[str, Any]) -> None:
    a = pair()
    b = {key: rows * (1 + 1e-7) for key, rows in a.items()}
    (found,) = nodes["SlerpTokens"]().blend(a, b, 0.5)
    assert all(torch.allclose(found[key], rows, rtol=1e-5) for key, rows in a.items())


def test_tokens_that_do_not_fit_or_are_opposite_are_refused(nodes: dict[str, Any]) -> None:
    slerp = nodes["SlerpTokens"]().blend
    for other in (pair(1), {"emb_params": torch.randn(2, 768)}):
        with pytest.raises(ValueError, match="one model and number of vectors"):
            slerp(pair(), other, 0.5)
    a = pair()
    with pytest.raises(ValueError, match="opposite"):
        slerp(a, {key: -rows for key, rows in a.items()}, 0.5)


def test_the_magnitude_changes_lengths_only(nodes: dict[str, Any]) -> None:
    token = pair()
    (found,) = nodes["ScaleToken"]().scaled(token, 2.5)
    assert all(torch.equal(found[key], 2.5 * rows) for key, rows in token.items())


class Encoder:
    """A text encoder of ComfyUI, as `_word_rows` reads it."""

    def __init__(self, width: int, pad: int) -> None:
        self.special_tokens = {"start": 1, "end": 2, "pad": pad}
        self.table = torch.nn.Embedding(9, width)
        self.transformer = SimpleNamespace(get_input_embeddings=lambda: self.table)


def clip_of(**widths: int) -> Any:
    encoders = {
        f"clip_{key}": Encoder(width, 2 if key == "l" else 0) for key, width in widths.items()
    }

    def tokenize(text: str) -> dict[str, list[list[tuple[int, float]]]]:
        ids = [5, 6] if text.strip() else []
        return {
            key: [
                [
                    (each, 1.0)
                    for each in (1, *ids, 2, *[encoders[f"clip_{key}"].special_tokens["pad"]] * 3)
                ]
            ]
            for key in widths
        }

    return SimpleNamespace(tokenize=tokenize, cond_stage_model=SimpleNamespace(**encoders))


def test_fidelity_goes_from_the_class_word_to_the_token(nodes: dict[str, Any]) -> None:
    token, clip = pair(3), clip_of(l=768, g=1280)
    moved = nodes["SetFidelity"]().moved
    (same,) = moved(token, clip, "big dog", 1.0)
    (word,) = moved(token, clip, "big dog", 0.0)
    (half,) = moved(token, clip, "big dog", 0.5)
    for key, rows in token.items():
        assert torch.equal(same[key], rows)
        # The vectors outnumber the two pieces of the word, which repeat.
        pieces = getattr(clip.cond_stage_model, key).table.weight[[5, 6, 5]].detach()
        lengths = rows.norm(dim=-1)
        cosine = torch.nn.functional.cosine_similarity
        assert torch.allclose(cosine(word[key], pieces), torch.ones(3))
        for found in (word, half):
            assert torch.allclose(found[key].norm(dim=-1), lengths, rtol=1e-4)
        assert torch.allclose(cosine(half[key], rows), cosine(half[key], pieces), atol=1e-4)


def test_a_class_word_of_another_model_or_none_is_refused(nodes: dict[str, Any]) -> None:
    moved = nodes["SetFidelity"]().moved
    with pytest.raises(ValueError, match="this CLIP has"):
        moved(pair(), clip_of(l=768), "dog", 0.5)
    with pytest.raises(ValueError, match="the word is empty"):
        moved(pair(), clip_of(l=768, g=1280), " ", 0.5)
    single = {"emb_params": torch.randn(1, 1024)}
    assert moved(single, clip_of(h=1024), "dog", 0.5)[0].keys() == {"emb_params"}


@pytest.mark.parametrize("text", ["a photo of a {} on a beach", "{}", "a {}, red", "({}:1.2) dog"])
def test_comfyui_finds_the_token_in_the_prompt(
    nodes: dict[str, Any], embeddings: Path, text: str
) -> None:
    token = pair()
    (prompt,) = nodes["WriteTokenIntoPrompt"]().write(token, text, "My Rex")
    (name,) = names_in_comfyui(prompt, embeddings)
    assert name.startswith("dti/my-rex-")
    for key, rows in token.items():
        assert torch.equal(load_comfyui(embeddings / f"{name}.safetensors", key), rows)


def test_other_rows_have_another_name_and_equal_ones_the_same(
    nodes: dict[str, Any], embeddings: Path
) -> None:
    token, write = pair(), nodes["WriteTokenIntoPrompt"]().write
    prompts = {write(each, "{}", "../../rex")[0] for each in (token, dict(token), pair())}
    assert len(prompts) == 2
    assert len(list((embeddings / "dti").iterdir())) == 2


def test_a_text_without_a_place_for_the_token_is_refused(
    nodes: dict[str, Any], embeddings: Path
) -> None:
    with pytest.raises(ValueError, match="stands for the token; add one"):
        nodes["WriteTokenIntoPrompt"]().write(pair(), "a dog", "rex")
    assert not (embeddings / "dti" / "x").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"version https://git-lfs",
        safetensors.torch.save({"a": torch.ones(1, 4), "b": torch.ones(1, 4)}),
        safetensors.torch.save({"a": torch.zeros(1, 4)}),
        safetensors.torch.save({"a": torch.full((1, 4), torch.nan)}),
    ],
)
def test_a_file_that_is_no_token_is_refused(
    nodes: dict[str, Any], embeddings: Path, content: bytes
) -> None:
    (embeddings / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        nodes["LoadFileToken"]().load("x.safetensors")


def test_pickles_are_not_offered(nodes: dict[str, Any], embeddings: Path) -> None:
    for name in ("a.pt", "b.safetensors", "c.bin"):
        (embeddings / name).touch()
    assert nodes["LoadFileToken"].INPUT_TYPES()["required"]["file"] == (["b.safetensors"],)


# The service


class Stranger(BaseHTTPRequestHandler):
    """A server that answers with a redirect, an error, or no JSON, and keeps what it was sent."""

    def do_GET(self) -> None:
        self.server.paths.append((self.path, self.headers.get("Authorization")))
        status, body = self.server.answer
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    server.paths, server.answer = [], (302, b"")
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    monkeypatch.setenv("DTI_SERVER", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("DTI_API_KEY", "dti_secret")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_key_follows_no_redirect(nodes: dict[str, Any], stranger: Any) -> None:
    with pytest.raises(ValueError, match="status 302"):
        nodes["LoadServiceToken"]().load("rex")
    assert stranger.paths == [("/v1/tokens?alias=rex&limit=1", "Bearer dti_secret")]


def test_the_reason_of_a_refusal_is_shown(nodes: dict[str, Any], stranger: Any) -> None:
    stranger.answer = 404, json.dumps({"detail": "acme has no token tok_x"}).encode()
    with pytest.raises(ValueError, match="acme has no token tok_x"):
        nodes["LoadServiceToken"]().load("tok_x")


def test_an_unknown_subject_is_named(nodes: dict[str, Any], stranger: Any) -> None:
    stranger.answer = 200, b'{"tokens": [], "next": null}'
    with pytest.raises(ValueError, match="no token of 'rex'"):
        nodes["LoadServiceToken"].IS_CHANGED("rex")


@pytest.mark.parametrize("missing", ["DTI_SERVER", "DTI_API_KEY"])
def test_without_address_or_key_the_node_says_where_to_set_them(
    nodes: dict[str, Any], stranger: Any, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delenv(missing)
    with pytest.raises(RuntimeError, match="in the environment in which ComfyUI starts"):
        nodes["LoadServiceToken"]().load("rex")
    assert stranger.paths == []
