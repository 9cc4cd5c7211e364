import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, DynamicCache

from optimum_flab.checkpoints.surgery import operate, pruned_tensors
from optimum_flab.families import family_for
from optimum_flab.pruning.components.deciding import NarrowLayer
from optimum_flab.pruning.plan_check import check_plan
from optimum_flab.utils.compat import cache_argument
from optimum_flab.utils.errors import FlabError

from .conftest import (
    FAMILIES,
    LAYERS,
    VOCABULARY,
    WIDTH,
    masked_step,
    narrowed,
    plan_of,
    random_tokens,
    reading,
    tiny_model,
)


def plan_for(model, kept_layers=(0, 2, 3), width=40, criterion="energy", kept_tokens=None, vocab_size=None):
    decided = narrowed(reading(model, random_tokens(60)), kept_layers, width, criterion)
    plan = plan_of(
        kept_tokens,
        list(kept_layers),
        {index: layer.kept.tolist() for index, layer in decided.items()},
        **({"vocab_size": vocab_size} if vocab_size else {}),
        settings={"vocabulary": {"pad_to_multiple_of": vocab_size}},
        weights={
            f"model.layers.{index}.mlp.down_proj.weight": layer.weight
            for index, layer in decided.items()
            if layer.weight is not None
        },
    )
    return plan, decided


def check_and_operate(model, plan):
    check_plan(model, family_for(model.config), plan)
    return operate(model, family_for(model.config), plan)


def masked_logits(model, plan, narrowed, ids):
    """The dense model with removed layers skipped and removed neurons zeroed, one whole sequence at a time."""
    from optimum_flab.running.layerwise import layer_inputs
    from optimum_flab.texts.packing import pack

    architecture = family_for(model.config)
    tokens = pack([ids], len(ids), 0)
    inputs = layer_inputs(model, architecture, tokens)
    step = masked_step(model, set(range(LAYERS)) - set(plan.kept_layers), narrowed)
    hidden = inputs.hidden
    for index in range(LAYERS):
        hidden = step(index, hidden, inputs.kwargs[index])
    return model.lm_head(model.model.norm(hidden))


@pytest.mark.parametrize("criterion", ["energy", "obs"])
@pytest.mark.parametrize("use_cache", [False, True])
def test_surgery_equals_masking_the_dense_model(family, criterion, use_cache):
    model = tiny_model(family)
    kept_tokens = list(range(1, VOCABULARY, 2))
    plan, narrowed = plan_for(model, criterion=criterion, kept_tokens=kept_tokens)
    pruned = operate(model, family_for(model.config), plan)
    ids = torch.randint(len(kept_tokens), (20,), generator=torch.Generator().manual_seed(3)).tolist()
    expected = masked_logits(model, plan, narrowed, [kept_tokens[i] for i in ids])[..., kept_tokens]
    if use_cache:
        cache, steps = {cache_argument(pruned.forward): DynamicCache(config=pruned.config)}, []
        for token in ids:
            steps.append(pruned(input_ids=torch.tensor([[token]]), use_cache=True, **cache).logits)
        found = torch.cat(steps, dim=1)
    else:
        found = pruned(input_ids=torch.tensor([ids]), use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_plan_without_compensation_equals_masking(data):
    model = tiny_model(data.draw(st.sampled_from(sorted(FAMILIES))))
    indices = st.integers(0, LAYERS - 1)
    kept_layers = sorted(data.draw(st.sets(indices, min_size=1)))
    width = data.draw(st.integers(1, WIDTH))
    kept_tokens = sorted(data.draw(st.sets(st.integers(0, VOCABULARY - 1), min_size=4, max_size=60)))
    neurons = {i: torch.tensor(sorted(data.draw(st.permutations(range(WIDTH)))[:width])) for i in kept_layers}
    plan = plan_of(kept_tokens, kept_layers, {index: kept.tolist() for index, kept in neurons.items()})
    narrowed = {index: NarrowLayer(kept, None) for index, kept in neurons.items()}
    ids = data.draw(st.lists(st.integers(0, len(kept_tokens) - 1), min_size=1, max_size=16))
    expected = masked_logits(model, plan, narrowed, [kept_tokens[i] for i in ids])[..., kept_tokens]
    found = operate(model, family_for(model.config), plan)(input_ids=torch.tensor([ids])).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_result_is_a_stock_checkpoint(family, tmp_path):
    model = tiny_model(family)
    plan, _ = plan_for(model, kept_tokens=list(range(100)), vocab_size=112)
    pruned = operate(model, family_for(model.config), plan)
    pruned.save_pretrained(tmp_path)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert type(loaded) is type(model)
    ids = torch.arange(12)[None]
    torch.testing.assert_close(loaded(input_ids=ids).logits, pruned(input_ids=ids).logits)
    assert loaded.get_input_embeddings().weight.shape[0] == 112
    fields = json.loads((tmp_path / "config.json").read_text())
    assert (fields["num_hidden_layers"], fields["intermediate_size"], fields["vocab_size"]) == (3, 40, 112)
    if fields.get("layer_types"):
        dense_types = model.config.layer_types
        assert fields["layer_types"] == [dense_types[index] for index in plan.kept_layers]


def test_padding_rows_never_win():
    model = tiny_model("llama")
    plan, _ = plan_for(model, kept_tokens=list(range(100)), vocab_size=128)
    pruned = operate(model, family_for(model.config), plan)
    logits = pruned(input_ids=torch.randint(100, (4, 30))).logits
    assert int(logits.argmax(-1).max()) < 100


def test_token_ids_follow_in_config_and_generation_config():
    model = tiny_model("qwen2")
    model.config.eos_token_id, model.config.bos_token_id, model.config.pad_token_id = 11, 13, 15
    model.generation_config.eos_token_id = [11, 13]
    model.generation_config.pad_token_id = 15
    model.generation_config.suppress_tokens = [12, 17]
    plan, _ = plan_for(model, kept_tokens=list(range(1, VOCABULARY, 2)))
    pruned = operate(model, family_for(model.config), plan)
    assert (pruned.config.eos_token_id, pruned.config.bos_token_id, pruned.config.pad_token_id) == (5, 6, 7)
    assert pruned.generation_config.eos_token_id == [5, 6]
    assert pruned.generation_config.pad_token_id == 7
    assert pruned.generation_config.suppress_tokens == [8]
    assert model.config.eos_token_id == 11 and model.generation_config.eos_token_id == [11, 13]


def test_max_window_layers_follow_the_layers():
    model = tiny_model("qwen2", max_window_layers=2)
    plan, _ = plan_for(model)
    assert operate(model, family_for(model.config), plan).config.max_window_layers == 1


def test_output_dtype():
    model = tiny_model("qwen2")
    plan, _ = plan_for(model)
    pruned = operate(model, family_for(model.config), replace(plan, dtype="bfloat16"))
    assert {parameter.dtype for parameter in pruned.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": [0, 9]}, "layers are not ascending numbers below the model's 4"),
        ({"layer": []}, "cannot have 0 layers"),
        ({"vocab": [1, 5000]}, "tokens are not ascending numbers below the model's 320"),
        ({"neuron": {i: [0, WIDTH] for i in (0, 2, 3)}}, "below the model.s 64"),
        ({"neuron": {0: [0], 2: [0, 1], 3: [0]}}, "its neurons of the FFNs are not the same number everywhere"),
    ],
)
def test_a_plan_of_another_model_is_refused(change, message):
    model = tiny_model("qwen2")
    plan, _ = plan_for(model)
    with pytest.raises(FlabError, match=message):
        check_and_operate(model, replace(plan, kept={**plan.kept, **change}))


@pytest.mark.parametrize("weights", [{}, {"model.layers.0.mlp.experts.down_proj": torch.zeros(1, 32, 8)}])
def test_a_plan_with_experts_is_refused_by_a_model_without(weights):
    model = tiny_model("llama")
    plan = plan_of(None, [0, 1], {}, kept_experts={0: [0], 1: [0]}, weights=weights)
    with pytest.raises(FlabError, match="it says what stays of expert, which this model lacks"):
        check_and_operate(model, plan)


def test_weights_of_another_shape_than_the_plan_states_are_refused():
    model = tiny_model("qwen2")
    plan, _ = plan_for(model, criterion="obs")
    row = {name: weight[:, :1] for name, weight in plan.weights.items()}  # which would be copied to every column
    with pytest.raises(FlabError, match=r"it cuts model\.layers\.0\.mlp\.down_proj\.weight to \(32, 1\)"):
        check_and_operate(model, replace(plan, weights=row))


def test_cut_weights_of_a_model_in_training_carry_no_graph():
    model = tiny_model("qwen2").requires_grad_(True)
    plan, _ = plan_for(model)
    cut = dict(
        pruned_tensors(
            model.named_parameters(),
            family_for(model.config),
            plan,
            operate(model, family_for(model.config), plan).state_dict(),
        )
    )
    assert cut["model.layers.0.mlp.up_proj.weight"].shape[0] == 40
    assert not any(tensor.requires_grad for name, tensor in cut.items() if ".mlp." in name)
