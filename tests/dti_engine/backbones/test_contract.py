"""The contract of every backbone: one suite over tiny models of real classes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone, Conditioning, fingerprint
from dti_engine.backbones.objectives import denoising_loss
from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError, TokenError
from dti_engine.images.crops import MicroConditioning
from dti_engine.text.inputs import Rows
from dti_engine.text.prompts import bind, tokenize
from dti_engine.text.tokens import LearnedToken
from dti_engine.training.autotune import full_trainer

# A tiny model of each family: the fixture that makes its checkpoint, and the arguments of that.
MODELS = {
    "stable diffusion, noise": ("make_checkpoint", {"prediction_type": "epsilon"}),
    "stable diffusion, velocity": ("make_checkpoint", {"prediction_type": "v_prediction"}),
    "stable diffusion xl": ("make_sdxl_checkpoint", {}),
    "sana": ("make_sana_checkpoint", {}),
}


@pytest.fixture(scope="module", params=list(MODELS))
def weights(request: pytest.FixtureRequest) -> Path:
    fixture, arguments = MODELS[request.param]
    return request.getfixturevalue(fixture)(**arguments)


@pytest.fixture(scope="module")
def backbone(weights: Path) -> Backbone:
    return load_backbone(weights)


def parameters(backbone: Backbone) -> list[nn.Parameter]:
    owners = [backbone, *backbone.text_encoders.values()]
    parts = [each for owner in owners for each in vars(owner).values()]
    return [p for part in parts if isinstance(part, nn.Module) for p in part.parameters()]


def random_token(backbone: Backbone, num_vectors: int = 1) -> LearnedToken:
    encoders = backbone.text_encoders
    rows = {name: 0.1 * torch.randn(num_vectors, each.dim) for name, each in encoders.items()}
    return LearnedToken("<rex>", rows)


def encode(backbone: Backbone, prompt: str, token: LearnedToken) -> Tensor:
    batch, rows = bind([prompt], [{"<rex>": token}], backbone.text_encoders)
    return backbone.encode_prompts(batch, rows).hidden


def loss_of(backbone: Backbone, conditioning: Conditioning) -> Tensor:
    """Per-sample loss on noise drawn afresh from one seed."""
    size = len(conditioning.hidden)
    shape = backbone.latent_shape(backbone.image_size, backbone.image_size)
    generator = torch.Generator().manual_seed(1)
    latents, noise = torch.randn(2, size, *shape, generator=generator)
    return denoising_loss(backbone, latents, noise, torch.linspace(0.1, 0.9, size), conditioning)


# Learned rows


def test_only_learned_rows_get_a_gradient(backbone: Backbone) -> None:
    batch, rows = bind(["a <rex>"], [{"<rex>": random_token(backbone)}], backbone.text_encoders)
    for table in rows.values():
        table.requires_grad_()
    loss_of(backbone, backbone.encode_prompts(batch, rows)).sum().backward()
    assert all(table.grad is not None and bool(table.grad.any()) for table in rows.values())
    assert parameters(backbone)
    assert not any(p.requires_grad or p.grad is not None for p in parameters(backbone))


def test_the_gradient_is_the_slope_of_the_loss(backbone: Backbone) -> None:
    batch, rows = bind(["a <rex>"], [{"<rex>": random_token(backbone)}], backbone.text_encoders)
    directions = {name: torch.randn_like(table) for name, table in rows.items()}

    def loss_at(step: Tensor) -> Tensor:
        moved: Rows = {name: table + step * directions[name] for name, table in rows.items()}
        return loss_of(backbone, backbone.encode_prompts(batch, moved)).sum()

    slope = torch.autograd.functional.jacobian(loss_at, torch.zeros(()))
    h = torch.tensor(3e-3)
    measured = (loss_at(h).double() - loss_at(-h).double()) / (2 * h)
    assert float(slope) == pytest.approx(float(measured), rel=0.02)


def test_each_subject_of_a_batch_gets_the_gradient_of_its_own_samples(backbone: Backbone) -> None:
    tokens = [{"<rex>": random_token(backbone)} for _ in range(2)]
    batch, rows = bind(["a <rex>", "a <rex>"], tokens, backbone.text_encoders)
    for table in rows.values():
        table.requires_grad_()
    loss_of(backbone, backbone.encode_prompts(batch, rows))[0].backward()
    for table in rows.values():
        assert table.grad is not None
        assert bool(table.grad[0].any())
        assert not bool(table.grad[1].any())


def test_encoding_64_tenants_tokens_changes_no_weight_and_no_tokenizer(backbone: Backbone) -> None:
    encoders = backbone.text_encoders
    weights_before = [p.clone() for p in parameters(backbone)]
    words_before = {name: encoder.words() for name, encoder in encoders.items()}
    ids_before = {name: encoder.segment_ids("a <rex> dog") for name, encoder in encoders.items()}
    tokens = [{"<rex>": random_token(backbone)} for _ in range(64)]
    batch, rows = bind(["a photo of <rex>"] * 64, tokens, encoders)
    backbone.encode_prompts(batch, rows)
    assert all(map(torch.equal, weights_before, parameters(backbone)))
    assert words_before == {name: encoder.words() for name, encoder in encoders.items()}
    after = {name: encoder.segment_ids("a <rex> dog") for name, encoder in encoders.items()}
    assert ids_before == after
    assert backbone.fingerprint == fingerprint(encoders)


def test_a_mixed_batch_equals_each_prompt_alone(backbone: Backbone) -> None:
    prompts = ["a photo of <rex>", "a red dog", "", "<rex> and a <rex> on the beach"]
    tokens = [{"<rex>": random_token(backbone, n)} for n in (1, 1, 1, 3)]
    encoders = backbone.text_encoders
    together = backbone.encode_prompts(*bind(prompts, tokens, encoders))
    for i, each in enumerate(zip(prompts, tokens, strict=True)):
        alone = backbone.encode_prompts(*bind([each[0]], [each[1]], encoders))
        torch.testing.assert_close(together.hidden[i], alone.hidden[0], rtol=0, atol=1e-5)
        if backbone.pools:
            torch.testing.assert_close(together.pooled[i], alone.pooled[0], rtol=0, atol=1e-5)


def test_a_model_pools_that_says_so(backbone: Backbone) -> None:
    conditioning = backbone.encode_prompts(*bind(["a dog"], [{}], backbone.text_encoders))
    assert backbone.pools == (conditioning.pooled is not None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_micro_conditioning_reaches_the_model_exactly_and_each_size_matters(
    weights: Path, dtype: torch.dtype
) -> None:
    """Half precision would make 1025 of 1027."""
    backbone = load_backbone(weights, dtype=dtype)
    bound = bind(["a dog"], [{}], backbone.text_encoders)
    shape = backbone.latent_shape(backbone.image_size, backbone.image_size)
    noisy, t = torch.randn(1, *shape), torch.tensor([500])

    def output(micro_conditioning: MicroConditioning | None) -> Tensor:
        image_sizes = (
            None
            if micro_conditioning is None
            else torch.tensor([micro_conditioning], dtype=torch.float32)
        )
        conditioning = backbone.encode_prompts(*bound, image_sizes)
        if conditioning.micro_conditioning is not None and image_sizes is not None:
            assert torch.equal(conditioning.micro_conditioning, image_sizes)
            assert conditioning.micro_conditioning.dtype == torch.float32
        return backbone.denoise(noisy, t, conditioning)

    whole = MicroConditioning.whole(backbone.image_size, backbone.image_size)
    assert torch.equal(output(None), output(whole))
    sizes = MicroConditioning(1333, 1025, 3, 5, 1027, 1031)
    is_told = backbone.encode_prompts(*bound).micro_conditioning is not None
    for field in MicroConditioning._fields:
        changed = sizes._replace(**{field: getattr(sizes, field) + 1})
        assert torch.equal(output(sizes), output(changed)) is not is_told


def test_training_and_serving_read_a_prompt_alike(backbone: Backbone) -> None:
    """Training spells captions once for rows of its own table; serving binds a token. Same bits."""
    token = random_token(backbone, num_vectors=2)
    encoders = backbone.text_encoders
    spans = {"<rex>": {name: range(4, 6) for name in encoders}}
    captions = tokenize(["a dog", "a photo of <rex>"], encoders, [spans] * 2)
    neighbour = random_token(backbone, num_vectors=4)
    table = {
        name: torch.cat([neighbour.embeddings[name], rows])
        for name, rows in token.embeddings.items()
    }
    trained = backbone.encode_prompts(captions.select(torch.tensor([1])), table).hidden
    assert torch.equal(trained, encode(backbone, "a photo of <rex>", token))


def test_a_token_of_vocabulary_rows_reads_like_their_words(backbone: Backbone) -> None:
    encoders = backbone.text_encoders
    pieces = {name: encoder.segment_ids(" stuffed animal") for name, encoder in encoders.items()}
    token = LearnedToken(
        "<rex>", {name: each.vocabulary()[pieces[name]].float() for name, each in encoders.items()}
    )
    read = encode(backbone, "a photo of <rex>", token)
    assert torch.equal(read, encode(backbone, "a photo of stuffed animal", token))


def test_every_vector_of_a_token_counts(backbone: Backbone) -> None:
    token = random_token(backbone, num_vectors=3)
    read = encode(backbone, "a <rex>", token)
    for vector in range(3):
        changed = {name: rows.clone() for name, rows in token.embeddings.items()}
        for rows in changed.values():
            rows[vector] *= -1
        assert not torch.equal(encode(backbone, "a <rex>", LearnedToken("<rex>", changed)), read)


def test_a_placeholder_that_would_be_cut_off_is_refused(backbone: Backbone) -> None:
    longest = max(encoder.max_length for encoder in backbone.text_encoders.values())
    with pytest.raises(TokenError, match="<rex> would be truncated"):
        encode(backbone, "dog " * longest + "<rex>", random_token(backbone))


def test_text_around_a_prompt_is_spelled_as_the_tokenizers_know_it(backbone: Backbone) -> None:
    for encoder in backbone.text_encoders.values():
        assert 1 <= len(encoder.wrap_ids([])) <= 2
        assert (
            encoder.max_length
            == len(encoder.wrap_ids([5] * 1000))
            == encoder.padded_length(encoder.max_length)
        )
        assert encoder.padded_length(2) >= 2
        assert len(encoder.words()) == len(encoder.vocabulary())
        assert 0 <= encoder.stand_in_id < len(encoder.vocabulary())
        marks = [-1, -2, -3]
        assert [i for i in encoder.wrap_ids(marks) if i < 0] == marks


def test_recomputing_keeps_less_and_changes_no_gradient(weights: Path) -> None:
    backbone, kept_elements, gradients = load_backbone(weights), {}, {}
    assert not backbone.recompute
    torch.manual_seed(1)
    token = random_token(backbone)
    for needs_gradients in (False, True, False):
        backbone.recompute = needs_gradients
        batch, rows = bind(["a <rex>"], [{"<rex>": token}], backbone.text_encoders)
        for table in rows.values():
            table.requires_grad_()
        conditioning = backbone.encode_prompts(batch, rows)
        kept_elements[needs_gradients] = 0

        def count(tensor: Tensor, needs_gradients: bool = needs_gradients) -> Tensor:
            kept_elements[needs_gradients] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = loss_of(backbone, conditioning).sum()
        loss.backward()
        gradients[needs_gradients] = [table.grad for table in rows.values()]
    assert kept_elements[True] < 0.5 * kept_elements[False]
    assert all(map(torch.equal, gradients[True], gradients[False]))


class _ReadsNothing(TorchDispatchMode):
    """Fails where a value is read, for which a GPU would have to finish first."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reading = {"aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal"}
        assert str(func).removesuffix(".default") not in reading, func
        return func(*args, **(kwargs or {}))


def test_a_training_step_reads_no_value(backbone: Backbone) -> None:
    config = TrainConfig(steps=9, batch_size=2, resolution=backbone.image_size, lr=0.04)
    trainer = full_trainer(backbone, config, num_slots=2)
    trainer.step()
    before = {name: each.learned().clone() for name, each in trainer.optimizers.items()}
    with _ReadsNothing():
        trainer.step()
    with pytest.raises(AssertionError, match="_local_scalar_dense"), _ReadsNothing():
        torch.ones(1).item()
    for name, optimizer in trainer.optimizers.items():
        assert not torch.equal(optimizer.learned(), before[name])


def test_a_compiled_denoiser_does_the_same(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the graph is traced; the real compiler would take minutes."""
    graphs: list[int] = []

    def tracing(self: nn.Module, **options: object) -> None:
        def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
            graphs.append(len(graph.graph.nodes))
            return graph.forward

        compiled = torch.compile(self.forward, backend=backend, fullgraph=True, **options)
        monkeypatch.setattr(self, "_compiled_call_impl", compiled)

    plain, backbone = load_backbone(weights), load_backbone(weights)
    monkeypatch.setattr(nn.Module, "compile", tracing)
    backbone.compile()
    batch, rows = bind(["a <rex>"], [{"<rex>": random_token(backbone)}], backbone.text_encoders)
    losses = [loss_of(each, each.encode_prompts(batch, rows)) for each in (plain, backbone)]
    torch.testing.assert_close(*losses)
    assert len(graphs) == 1
    assert graphs[0] > 50
    assert torch._dynamo.config.recompile_limit >= 64  # torch gives up after 8 otherwise


def test_the_encoders_output_may_replace_the_rows_of_words(
    backbone: Backbone,
) -> None:
    for name, encoder in backbone.text_encoders.items():
        ids = encoder.segment_ids("stuffed animal")
        inputs = tokenize(["stuffed animal"], {name: encoder}, [{}]).inputs[name]
        hidden = encoder.hidden_states(inputs, encoder.vocabulary()[:0])
        states = encoder.last_hidden_states(ids)
        assert states.shape == (len(ids), encoder.dim)
        torch.testing.assert_close(states, hidden[0, 1 : 1 + len(ids)], rtol=0, atol=1e-5)


# Images and latents


def test_latents_have_the_stated_shape_and_images_come_back(backbone: Backbone) -> None:
    height, width = backbone.image_size, 2 * backbone.image_size
    latents = backbone.encode_images(torch.rand(2, 3, height, width) * 2 - 1)
    shape = backbone.latent_shape(height, width)
    assert latents.mean.shape == latents.std.shape == (2, *shape)
    assert latents.mean.dtype == latents.std.dtype == torch.float32
    assert bool((latents.std >= 0).all())
    assert backbone.decode_latents(latents.mean).shape == (2, 3, height, width)


def test_latents_are_sampled_with_the_given_noise(backbone: Backbone) -> None:
    latents = backbone.encode_images(torch.rand(1, 3, backbone.image_size, backbone.image_size))
    assert torch.equal(latents.sample(torch.zeros_like(latents.mean)), latents.mean)
    once = latents.sample(torch.ones_like(latents.mean))
    assert torch.equal(once, latents.mean + latents.std)


@pytest.mark.parametrize("size", [(0, 16), (16, -16), (17, 16)])
def test_an_image_size_that_does_not_fit_is_refused(
    backbone: Backbone, size: tuple[int, int]
) -> None:
    with pytest.raises(ConfigurationError, match=f"multiples of .* got {size[0]} x {size[1]}"):
        backbone.latent_shape(*size)


# Models


def test_a_half_precision_model_leaves_prompts_rows_and_results_in_single(weights: Path) -> None:
    backbone = load_backbone(weights, dtype=torch.bfloat16)
    assert any(p.dtype == torch.bfloat16 for p in parameters(backbone))
    batch, rows = bind(["a <rex>"], [{"<rex>": random_token(backbone)}], backbone.text_encoders)
    for table in rows.values():
        table.requires_grad_()
    conditioning = backbone.encode_prompts(batch, rows)
    assert conditioning.hidden.dtype == torch.float32
    assert conditioning.pooled is None or conditioning.pooled.dtype == torch.float32
    loss = loss_of(backbone, conditioning)
    assert loss.dtype == torch.float32
    loss.sum().backward()
    for table in rows.values():
        assert table.grad is not None
        assert table.grad.dtype == torch.float32
        assert bool(table.grad.any())
    pixels = torch.zeros(1, 3, backbone.image_size, backbone.image_size)
    latents = backbone.encode_images(pixels)
    assert latents.mean.dtype == backbone.decode_latents(latents.mean).dtype == torch.float32


def test_each_run_of_generation_has_a_scheduler_of_its_own(backbone: Backbone) -> None:
    first, second = backbone.new_scheduler(), backbone.new_scheduler()
    first.set_timesteps(5)
    second.set_timesteps(9)
    assert (len(first.timesteps), len(second.timesteps)) == (5, 9)


def test_the_fingerprint_is_that_of_the_weights_alone(
    backbone: Backbone, weights: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    moved.symlink_to(weights)
    assert load_backbone(moved, dtype=torch.bfloat16).fingerprint == backbone.fingerprint
    other = load_backbone(weights)
    next(iter(other.text_encoders.values())).vocabulary()[5] += 1
    assert fingerprint(other.text_encoders) != backbone.fingerprint


def test_a_backbone_is_named_without_its_path(backbone: Backbone, weights: Path) -> None:
    assert backbone.name == weights.name
