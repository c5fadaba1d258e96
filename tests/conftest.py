"""Fixtures that tests of several folders share.

They are a tiny Stable Diffusion (the real classes with random weights, on disk and loaded), bundles
of the miniature's world, tokens and signals.
"""

import io
import json
import logging
import os
import secrets
import signal
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from tiny_models import tiny_autoencoder, tiny_unet
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from xdist.scheduler import LoadScopeScheduling

from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.miniature.world.subjects import draw_subject, held_out_subjects
from services import metrics

WORDS = """
a an the of in on at with and by one my photo picture painting drawing rendering depiction style
close bright dark cropped good nice cool clean dirty weird small big large red blue green yellow
dog cat bird bear toy stuffed animal person man woman hat scarf beach forest snow city space
"""

# Tiny models gain nothing from threads, and lose much where other work shares the cores, because
# the threads of a step wait for each other. The processes that tests start inherit the setting.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Ray admits only processes that know the token of its nodes, and each reads it once.
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
}


class ByFile(LoadScopeScheduling):
    """Gives each file to one process, because its tests share fixtures.

    Tests that start a Ray node run one after another, because each node takes all cores.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        heavy = ("tests/cluster/", "tests/benchmarks/", "tests/containers/")
        return "ray" if file.startswith(heavy) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Keep the tests of a file in one process of `pytest -n 2`."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first."""
    items.sort(key=lambda item: "/cluster/" not in item.nodeid)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _uncounted() -> Iterator[None]:
    """Reset the metrics after each test."""
    yield
    metrics.use(metrics.NoMetrics())


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Undo `logs.configure` after each test.

    Its handler writes to the standard error of the test that called it, which is closed by then:
    a later test would find an error of logging in its own output.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook = hooks


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT as a terminal has it: a shell that runs the tests in its background ignores it."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_checkpoint(prediction_type="epsilon", shift_factor=None) -> folder of a whole model."""

    def make(prediction_type: str = "epsilon", shift_factor: float | None = None) -> Path:
        folder = tmp_path_factory.mktemp("weights") / f"tiny-{prediction_type}"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            _tiny_pipeline(prediction_type, shift_factor).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    """Return a checkpoint of 16 x 16 pixels that predicts noise; each of `WORDS` is one token."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def tiny_backbone(tiny_checkpoint: Path) -> Backbone:
    """`tiny_checkpoint`, loaded; one for all tests, because nothing changes a backbone."""
    return load_backbone(tiny_checkpoint)


@pytest.fixture(scope="session")
def words() -> list[str]:
    """Return the words for which every tiny tokenizer has a token."""
    return WORDS.split()


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., CLIPTokenizer]:
    """make_tokenizer(**options) -> a CLIP tokenizer in which each of `WORDS` is one token."""
    return _tiny_tokenizer


def _tiny_pipeline(prediction_type: str, shift_factor: float | None) -> StableDiffusionPipeline:
    tokenizer = _tiny_tokenizer()
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = tiny_unet(
        cross_attention_dim=32,
        attention_head_dim=2,
    )
    vae = tiny_autoencoder(
        scaling_factor=0.7,
        shift_factor=shift_factor,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text_config),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _tiny_tokenizer(**options: str) -> CLIPTokenizer:
    """CLIP's byte-level BPE, trained on `WORDS`; as in CLIP's, the end has the highest id."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2000, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(WORDS.split(), trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *bpe.get_vocab()]
    names = [*dict.fromkeys(sorted(pieces)), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, **options)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Name of a subject -> a zip of three pictures, and its word."""
    packed = dict[str, bytes]()
    for subject in held_out_subjects("evaluation")[:6]:
        folder = tmp_path_factory.mktemp("photos") / subject.name
        draw_subject(subject, folder, count=3)
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.writestr(path.name, path.read_bytes())
            archive.writestr("bundle.json", json.dumps({"initializer": subject.class_word}))
        packed[subject.name] = data.getvalue()
    return packed
