"""What the dense model makes of the calibration text: targets of layers, and how much each token counts."""

import pytest
import torch
from tokenizers import AddedToken

from optimum_flab import FlabOptimizer
from optimum_flab.families import family_for
from optimum_flab.measuring.dense_outputs import GAP_MARKS, LEFT_OUT, dense_outputs
from optimum_flab.measuring.divergence import OutputHead
from optimum_flab.pruning.components import base
from optimum_flab.records.pieces import Pieces
from optimum_flab.running import layer_pass
from optimum_flab.running.layer_pass import layer_piece
from optimum_flab.running.layerwise import run_block, run_layer
from optimum_flab.utils.errors import FlabError
from optimum_flab.vocabulary.infilling import EXAMPLE, InfillingFormat

from ..conftest import (
    LAYERS,
    VOCABULARY,
    byte_level_tokenizer,
    random_tokens,
    reading,
    small_config,
    thorough_but,
    tiny_model,
)
from ..families.zoo import member


def outputs_of(model, tokens, batch_size=2, seed=3, pieces=None, kept=None, gap_marks=()):
    options = {"generator": torch.Generator().manual_seed(seed), "pieces": pieces or Pieces()}
    head = OutputHead(model, family_for(model.config), kept)
    return dense_outputs(reading(model, tokens, batch_size, **options), head, range(LAYERS), gap_marks)


def by_definition(model, tokens, seed=3):
    """Squared norms of the gradients of `log p(y)` by the output of the last layer, through the whole model at once,
    without those that count least."""
    outputs, last = [], family_for(model.config).decoder_layers(model)[-1]
    handle = last.register_forward_hook(lambda _, args, out: outputs.append(out[0] if type(out) is tuple else out))
    model.requires_grad_(True)
    scores = model(**tokens.model_inputs()).logits.log_softmax(dim=-1)
    chance = torch.rand(tokens.mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    below = scores.detach().exp().cumsum(dim=-1)
    drawn = (below < chance.float()[..., None] * below[..., -1:]).sum(dim=-1)
    (gradient,) = torch.autograd.grad(scores.gather(-1, drawn[..., None])[..., 0][tokens.mask].sum(), outputs)
    model.requires_grad_(False)
    handle.remove()
    found = gradient.square().sum(dim=-1) * tokens.mask
    least = sorted(found[tokens.mask].tolist())
    for place, weight in enumerate(least):
        if sum(least[: place + 1]) > LEFT_OUT * sum(least):
            found[found < weight] = 0
            break
    return found / found.sum() * tokens.tokens


def test_weights_are_those_of_the_definition(family):
    model, tokens = tiny_model(family), random_tokens()
    found = outputs_of(model, tokens).weights
    torch.testing.assert_close(found, by_definition(model, tokens), rtol=2e-3, atol=2e-4)
    torch.testing.assert_close(found.sum(), torch.tensor(float(tokens.tokens)))


@pytest.mark.parametrize("name", thorough_but(1, ["qwen3_moe", "deepseek_v3"]))
def test_weights_in_a_mixture_are_those_of_the_definition(name):
    model, tokens = member(name, 0, vocab_size=VOCABULARY, max_position_embeddings=256), random_tokens()
    torch.testing.assert_close(outputs_of(model, tokens).weights, by_definition(model, tokens), rtol=2e-3, atol=2e-4)


def test_padding_and_what_hardly_counts_have_no_weight():
    model, tokens = tiny_model("qwen2"), random_tokens(200)
    model.lm_head.weight.mul_(30)  # most predictions are certain
    tokens.mask[-1, -3:] = False
    found = outputs_of(model, tokens).weights
    assert not found[~tokens.mask].any() and (found >= 0).all()
    assert 0.2 < (found[tokens.mask] == 0).float().mean() < 1
    torch.testing.assert_close(found.sum(), torch.tensor(float(tokens.tokens)))


def test_without_predictions_that_depend_on_the_layers_all_tokens_count_alike():
    model, tokens = tiny_model("llama"), random_tokens()
    model.lm_head.weight.zero_()
    assert outputs_of(model, tokens).weights.equal(tokens.mask.float())


def test_targets_are_the_dense_stream_or_what_the_ffn_adds_to_it_before_a_norm(family):
    model, tokens = tiny_model(family), random_tokens(200)
    found, architecture = outputs_of(model, tokens), family_for(model.config)
    text = reading(model, tokens, 2)
    for index, layer in enumerate(architecture.decoder_layers(model)):
        for batch, x in enumerate(text.inputs):
            hidden = x.hidden
            with torch.no_grad():
                for below, other in enumerate(architecture.decoder_layers(model)[:index]):
                    hidden = run_layer(other, hidden, x.kwargs[below])
                run = run_block(architecture, model.config, layer, hidden, x.kwargs[index])
            expected = run.after if architecture.block.ffn_post_norm is None else run.output
            torch.testing.assert_close(found.targets(index)[str(batch)], expected)


def test_batches_draw_the_same_tokens_whatever_their_size():
    model, tokens = tiny_model("llama"), random_tokens(200)
    one, other = (outputs_of(model, tokens, size).weights for size in (1, 3))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("number", [3, 2 * LAYERS])
def test_what_was_interrupted_goes_on_with_the_same_weights(number, tmp_path, monkeypatch):
    monkeypatch.setattr(layer_pass, "SECONDS_LOST", 0)
    model, tokens, pieces, runs = tiny_model("llama"), random_tokens(200), [], []
    for layer in family_for(model.config).decoder_layers(model):
        layer.register_forward_hook(lambda *_: runs.append(1))
    whole = outputs_of(model, tokens)
    all_runs = len(runs)

    def stop(self, name, *args, **facts):
        write(self, name, *args, **facts)
        pieces.append(name)
        if len(pieces) == number:
            raise KeyboardInterrupt

    write = Pieces.write
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Pieces, "write", stop)
        outputs_of(model, tokens, pieces=Pieces(tmp_path))
    runs.clear()
    resumed = outputs_of(model, tokens, pieces=Pieces(tmp_path))
    assert resumed.weights.equal(whole.weights)
    assert all(
        one.equal(other)
        for index in range(LAYERS)
        for one, other in zip(resumed.targets(index).values(), whole.targets(index).values(), strict=True)
    )
    assert len(runs) < all_runs


def test_a_damaged_target_is_made_again(tmp_path):
    model, tokens = tiny_model("llama"), random_tokens(200)
    whole = outputs_of(model, tokens, pieces=Pieces(tmp_path))
    Pieces(tmp_path).path(layer_piece(2)).write_bytes(b"damaged")
    again = outputs_of(model, tokens, pieces=Pieces(tmp_path))
    assert again.weights.equal(whole.weights) and again.targets(2).keys() == whole.targets(1).keys()


def test_the_model_is_left_as_it_was():
    model, tokens = tiny_model("gemma3_text"), random_tokens()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    outputs_of(model, tokens, kept=range(0, VOCABULARY, 2))
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_that_are_not_finite_are_said():
    model = tiny_model("llama")
    model.lm_head.weight[0, 0] = torch.inf
    with pytest.raises(FlabError, match=f"layer {LAYERS - 1} has NaN or infinite activations or gradients"):
        outputs_of(model, random_tokens())


def test_a_layer_that_gives_nan_is_named():
    model = tiny_model("llama")
    family = family_for(model.config)
    family.ffn_out(family.decoder_layers(model)[2]).weight[0, 0] = torch.nan
    with pytest.raises(FlabError, match="layer 2 has NaN"):
        outputs_of(model, random_tokens())


def test_marks_of_a_gap_count_more():
    model, tokens, marks = tiny_model("qwen2"), random_tokens(200), {5, 7}
    marked = torch.isin(tokens.input_ids, torch.tensor([5, 7])) & tokens.mask
    assert marked.any()
    plain, found = outputs_of(model, tokens).weights, outputs_of(model, tokens, gap_marks=marks).weights
    both = (plain > 0) & (found > 0)
    ratio = found / plain
    torch.testing.assert_close(
        ratio[marked & both], GAP_MARKS * ratio[~marked & both].mean().expand(int((marked & both).sum()))
    )
    torch.testing.assert_close(found.sum(), torch.tensor(float(tokens.tokens)))


def test_a_pruning_weights_the_marks_of_its_tokenizer(tmp_path, monkeypatch):
    tokenizer, marks = byte_level_tokenizer(560), InfillingFormat(EXAMPLE).marks
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in marks])
    seen = []

    def spy(reading, head, layers, gap_marks):
        seen.append((tokenizer.convert_ids_to_tokens(sorted(gap_marks)), reading.tokens.input_ids))
        return dense_outputs(reading, head, layers, gap_marks)

    monkeypatch.setattr(base, "dense_outputs", spy)
    config = small_config(tmp_path, intermediate_size=16, ffn={"multiple_of": 4})
    FlabOptimizer(tiny_model("llama", 600), tokenizer).prune(config, cache_dir=tmp_path / "cache")
    ((found, ids),) = seen
    assert set(found) == set(marks)
    assert torch.isin(ids, torch.tensor(tokenizer.convert_tokens_to_ids(marks))).any()
