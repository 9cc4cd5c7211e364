"""Query heads: surgery equals masking, elimination is what its formula says, and a pruning of them is a checkpoint."""

import json
from contextlib import ExitStack

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from optimum_flab import ConfigurationError, FlabError, FlabOptimizer, FlabPrunerConfig
from optimum_flab.checkpoints.surgery import operate
from optimum_flab.families import family_for
from optimum_flab.hub.card import CardRequest, render_card
from optimum_flab.pruning.components import sizes_of
from optimum_flab.pruning.components.deciding import NarrowLayer
from optimum_flab.pruning.components.heads import HeadObserver, columns_of, eliminate_heads
from optimum_flab.pruning.plan_check import check_plan
from optimum_flab.pruning.shapes import masked_weights
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.records.summary import report_summary
from optimum_flab.running.layer_pass import LayerObserver
from optimum_flab.running.placement import layer_on
from optimum_flab.settings.hub import TermsSettings
from optimum_flab.tensors.workspace import Workspace

from .conftest import (
    FAMILIES,
    LAYERS,
    VOCABULARY,
    plan_of,
    random_tokens,
    reading,
    request_for,
    saved,
    small_config,
    tiny_model,
)
from .families.zoo import ZOO, member


HEADS, GROUPS = 6, 2
SIZES = {"num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "head_dim": 8, "hidden_size": 48}


def masked_logits(model, kept, ids):
    family, device = family_for(model.config), model.device
    tensors = masked_weights(model, family, {"head": kept})
    with ExitStack() as stack, torch.no_grad():
        for index, layer in enumerate(family.decoder_layers(model)):
            stack.enter_context(layer_on(layer, device, tensors(index)))
        return model(input_ids=ids, use_cache=False).logits


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_surgery_equals_masking(data):
    model = tiny_model(data.draw(st.sampled_from(sorted(FAMILIES))), **SIZES)
    family, per_group = family_for(model.config), HEADS // GROUPS
    number = data.draw(st.sampled_from([size for size in sizes_of(model, family).possible["head"] if size < HEADS]))
    kept = {
        layer: [
            group * per_group + head
            for group in range(GROUPS)
            for head in sorted(data.draw(st.permutations(range(per_group)))[: number // GROUPS])
        ]
        for layer in range(LAYERS)
    }
    plan = plan_of(None, list(range(LAYERS)), {}, kept_inside={"head": kept})
    check_plan(model, family, plan)
    pruned = operate(model, family, plan)
    assert (pruned.config.num_attention_heads, pruned.config.head_dim) == (number, 8)
    ids = torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(3))
    narrowed = {layer: NarrowLayer(torch.tensor(heads), None) for layer, heads in kept.items()}
    torch.testing.assert_close(pruned(ids).logits, masked_logits(model, narrowed, ids), rtol=1e-4, atol=1e-4)


def test_a_plan_that_takes_more_heads_from_one_group_is_refused():
    model = tiny_model("llama", **SIZES)
    kept = {layer: list(range(HEADS // 2)) for layer in range(LAYERS)}
    plan = plan_of(None, list(range(LAYERS)), {}, kept_inside={"head": kept})
    with pytest.raises(FlabError, match=f"heads are not the same number of each of {GROUPS} groups"):
        check_plan(model, family_for(model.config), plan)


@pytest.mark.parametrize("model_type", sorted(ZOO))
def test_whatever_a_class_can_have_equals_masking_and_the_rest_is_refused_with_the_reason(model_type):
    model = member(model_type)
    family = family_for(model.config)
    sizes = sizes_of(model, family)
    smallest, dense = sizes.possible["head"][0], sizes.shape["head"]
    if smallest == dense:
        config = FlabPrunerConfig(num_attention_heads=dense // 2)
        with pytest.raises(ConfigurationError, match=r"num_attention_heads: .* cannot have 2 \(.*head"):
            request_for(config, sizes)
        return
    layers = len(family.decoder_layers(model))
    kept = {layer: [layer % 2, 2 + layer // 2 % 2] for layer in range(layers)}
    plan = plan_of(None, list(range(layers)), {}, vocab_size=sizes.shape["vocab"], kept_inside={"head": kept})
    ids = torch.randint(sizes.shape["vocab"], (2, 12), generator=torch.Generator().manual_seed(3))
    narrowed = {layer: NarrowLayer(torch.tensor(heads), None) for layer, heads in kept.items()}
    pruned = operate(model, family, plan)(ids, use_cache=False).logits
    torch.testing.assert_close(pruned, masked_logits(model, narrowed, ids), rtol=1e-4, atol=1e-4)


def test_heads_go_that_the_others_make_up_for_best_and_as_many_of_each_group():
    generator, size, hidden = torch.Generator().manual_seed(0), 4, 10
    inputs = torch.randn(500, HEADS * size, generator=generator, dtype=torch.float64)
    inputs[:, size : 2 * size] = inputs[:, :size] * 2 + 0.01 * inputs[:, size : 2 * size]  # head 1 repeats head 0
    targets = inputs @ torch.randn(HEADS * size, hidden, generator=generator, dtype=torch.float64)
    gram, cross = inputs.T @ inputs + 1e-6 * torch.eye(HEADS * size), targets.T @ inputs

    def error(heads):
        columns = columns_of(torch.tensor(heads), size)
        weight = torch.linalg.lstsq(inputs[:, columns], targets).solution
        return float((targets - inputs[:, columns] @ weight).square().sum())

    left, number = list(range(HEADS)), 4
    while len(left) > number:  # brute force, one head at a time
        groups = [sum(head // 3 == group for head in left) for group in range(GROUPS)]
        options = [[h for h in left if h != gone] for gone in left if groups[gone // 3] > number // GROUPS]
        left = min(options, key=error)
    assert eliminate_heads(gram, cross, HEADS, GROUPS, number, Workspace()).tolist() == left
    assert len({0, 1} & set(left)) == 1


def test_the_refit_is_nearer_to_the_dense_attention_than_the_dense_weights():
    model, tokens = tiny_model("qwen2", **SIZES), random_tokens(60)
    narrowed = HeadObserver(reading(model, tokens), range(LAYERS), 4, None).decided("")[4]
    ids = torch.randint(VOCABULARY, (8, 24), generator=torch.Generator().manual_seed(5))
    dense = model(ids).logits.log_softmax(-1)

    def divergence(kept):
        return float((dense.exp() * (dense - masked_logits(model, kept, ids).log_softmax(-1))).sum(-1).mean())

    first = {layer: NarrowLayer(torch.tensor([0, 1, 3, 4]), None) for layer in range(LAYERS)}
    unfitted = {layer: NarrowLayer(narrow.kept, None) for layer, narrow in narrowed.items()}
    assert divergence(narrowed) < divergence(unfitted) < divergence(first)


def test_a_layer_is_without_its_heads_only_while_the_text_passes_it():
    model, tokens, masked = tiny_model("qwen2", **SIZES), random_tokens(8), []
    layers, name, own = model.model.layers, "self_attn.o_proj.weight", dict(model.named_parameters())

    class Observer(LayerObserver):
        def observe(self, index):
            masked.append([other for other in range(LAYERS) if not layers[other].get_parameter(name).any()])
            self.advance(index)
            return {}

    whole = reading(model, tokens, replaced=lambda index: {name: torch.zeros_like(layers[index].get_parameter(name))})
    whole.run(Observer(whole, range(LAYERS), "hidden"))
    assert masked == [[layer] for layer in range(LAYERS)]
    assert all(parameter is own[name] for name, parameter in model.named_parameters())


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text"])
@pytest.mark.parametrize("target", [None, 0.3])
def test_a_model_with_fewer_heads_is_a_stock_checkpoint_that_generates(family, target, tmp_path):
    saved(tiny_model(family, 600, **SIZES), tmp_path / "dense")
    optimizer = FlabOptimizer.from_pretrained(tmp_path / "dense")
    sections = {"num_hidden_layers": 3, "num_attention_heads": 4}
    sections |= {"intermediate_size": 48} if target is None else {"ffn": {"multiple_of": 8}}
    pruned = optimizer.prune(small_config(tmp_path, target_ratio=target, **sections), cache_dir=tmp_path / "work")
    assert pruned.plan.sizes["head"] == 4 and len(pruned.plan.kept["head"]) == 3
    optimizer.save_pretrained(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_attention_heads"], config["head_dim"], config["num_key_value_heads"]) == (4, 8, 2)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    ids = torch.arange(8)[None]
    assert loaded.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False).shape == (1, 12)
    assert pruned.report.dense.sizes["num_attention_heads"] == HEADS
    assert pruned.report.pruned.sizes["num_attention_heads"] == 4
    if target is not None:
        assert pruned.report.removed_ratio == pytest.approx(target, abs=0.01)
    lines = [line.split() for line in report_summary(pruned.report).splitlines()]
    assert ["query", "heads", "6", "4"] in lines
    assert "query heads | 6 | 4" in render_card(Checkpoint(tmp_path / "out"), CardRequest(TermsSettings())).text
    again = FlabOptimizer.from_pretrained(tmp_path / "dense").apply(pruned.plan)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), pruned.model.parameters(), strict=True))
