"""How much each token counts: gradients of predictions, a layer and a batch at a time."""

import pytest
import torch

from optimum_flab.families import family_for
from optimum_flab.measuring.divergence import OutputHead
from optimum_flab.measuring.fisher import fisher_weights
from optimum_flab.records.pieces import Pieces
from optimum_flab.running import casting
from optimum_flab.utils.errors import FlabError

from ..conftest import FAMILIES, LAYERS, VOCABULARY, random_tokens, reading, thorough_but, tiny_model
from ..families.zoo import member


@pytest.fixture
def in_float32(monkeypatch):
    monkeypatch.setattr(casting, "multiplies_bfloat16", lambda device: False)


@pytest.fixture
def in_bfloat16(monkeypatch):
    monkeypatch.setattr(casting, "multiplies_bfloat16", lambda device: True)


def weights_of(model, tokens, batch_size=2, seed=3, pieces=None, kept=None):
    options = {"generator": torch.Generator().manual_seed(seed), "pieces": pieces or Pieces()}
    head = OutputHead(model, family_for(model.config), kept)
    return fisher_weights(reading(model, tokens, batch_size, **options), head)


def by_definition(model, tokens, seed=3):
    """Squared norms of the gradients of `log p(y)` by the FFN outputs, through the whole model at once."""
    family, outputs = family_for(model.config), []
    layers = family.decoder_layers(model)
    measured = [number for number, layer in enumerate(layers) if family.experts is None or family.has_experts(layer)]
    handles = [
        family.ffn_out(layers[number]).register_forward_hook(
            lambda _, args, output: outputs.append(output[0] if isinstance(output, tuple) else output)
        )
        for number in measured
    ]
    model.requires_grad_(True)
    scores = model(**tokens.model_inputs()).logits.log_softmax(dim=-1)
    chance = torch.rand(tokens.mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    below = scores.detach().exp().cumsum(dim=-1)
    drawn = (below < chance.float()[..., None] * below[..., -1:]).sum(dim=-1)
    chosen = scores.gather(-1, drawn[..., None])[..., 0][tokens.mask].sum()
    gradients = torch.autograd.grad(chosen, outputs)
    model.requires_grad_(False)
    for handle in handles:
        handle.remove()
    found = tokens.mask.float().repeat(len(layers), 1, 1)  # what has no neurons to choose from: all alike
    for number, gradient in zip(measured, gradients, strict=True):
        found[number] = gradient.square().reshape(*tokens.mask.shape, -1).sum(dim=-1) * tokens.mask
    return found / found.sum(dim=(1, 2), keepdim=True) * tokens.tokens


def test_weights_are_those_of_the_definition(family, in_float32):
    model, tokens = tiny_model(family), random_tokens()
    found = weights_of(model, tokens)
    assert found.shape == (LAYERS, *tokens.mask.shape)
    torch.testing.assert_close(found, by_definition(model, tokens), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", thorough_but(1, ["qwen3_moe", "deepseek_v3"]))
def test_weights_in_a_mixture_are_those_of_the_definition(name, in_float32):
    model, tokens = member(name, 0, vocab_size=VOCABULARY, max_position_embeddings=256), random_tokens()
    torch.testing.assert_close(weights_of(model, tokens), by_definition(model, tokens), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", thorough_but(1, ["qwen3_moe", "deepseek_v3"]))
def test_weights_in_a_mixture_in_bfloat16_are_weights(name, in_bfloat16):
    model, tokens = member(name, 0, vocab_size=VOCABULARY, max_position_embeddings=256), random_tokens(200)
    found = weights_of(model, tokens)
    assert model.dtype == torch.float32 and found.isfinite().all() and (found >= 0).all()
    torch.testing.assert_close(found.sum(dim=(1, 2)), torch.full((len(found),), float(tokens.tokens)))
    assert (found[-1] != 1)[tokens.mask].any()


def test_gradients_that_are_not_finite_are_said():
    model = tiny_model("llama")
    model.lm_head.weight[0, 0] = torch.inf
    with pytest.raises(FlabError, match=f"layer {LAYERS - 1} has NaN or infinite activations or gradients"):
        weights_of(model, random_tokens())


@pytest.mark.parametrize("name", thorough_but(1, list(FAMILIES)))
def test_weights_in_bfloat16_are_near_those_of_the_definition(name, in_bfloat16):
    model, tokens = tiny_model(name), random_tokens(200)
    # predictions of random weights are so even that rounding has some tokens draw another y
    for found, expected in zip(weights_of(model, tokens), by_definition(model, tokens), strict=True):
        both = torch.stack([found[tokens.mask], expected[tokens.mask]])
        assert torch.corrcoef(both)[0, 1] > 0.7
        assert (both[0] / both[1]).median() == pytest.approx(1, abs=0.05)


def test_weights_have_mean_one_and_are_nothing_at_padding():
    model, tokens = tiny_model("qwen2"), random_tokens(45)
    tokens.mask[-1, -3:] = False
    found = weights_of(model, tokens)
    torch.testing.assert_close(found.sum(dim=(1, 2)), torch.full((LAYERS,), float(tokens.tokens)))
    assert not found[:, ~tokens.mask].any() and (found[:, tokens.mask] >= 0).all()


def test_batches_draw_the_same_tokens_whatever_their_size(in_float32):
    model, tokens = tiny_model("llama"), random_tokens(200)
    torch.testing.assert_close(weights_of(model, tokens, 1), weights_of(model, tokens, 3), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("number", [3, LAYERS + 5])
def test_what_was_interrupted_up_or_down_goes_on_with_the_same_weights(number, tmp_path, monkeypatch, in_float32):
    model, tokens, pieces, runs = tiny_model("llama"), random_tokens(200), [], []
    for layer in family_for(model.config).decoder_layers(model):
        layer.register_forward_hook(lambda *_: runs.append(1))
    whole = weights_of(model, tokens)
    all_runs = len(runs)

    def stop(self, name, *args, **facts):
        write(self, name, *args, **facts)
        pieces.append(name)
        if len(pieces) == number:
            raise KeyboardInterrupt

    write = Pieces.write
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Pieces, "write", stop)
        weights_of(model, tokens, pieces=Pieces(tmp_path))
    runs.clear()
    assert weights_of(model, tokens, pieces=Pieces(tmp_path)).equal(whole)
    assert len(runs) < all_runs


def test_the_model_is_left_as_it_was():
    model, tokens = tiny_model("gemma3_text"), random_tokens()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights_of(model, tokens, kept=range(0, VOCABULARY, 2))
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_layer_that_gives_nan_is_named():
    model = tiny_model("llama")
    family = family_for(model.config)
    family.ffn_out(family.decoder_layers(model)[2]).weight[0, 0] = torch.nan
    with pytest.raises(FlabError, match="layer 2 has NaN"):
        weights_of(model, random_tokens())
