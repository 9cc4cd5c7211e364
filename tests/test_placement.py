"""Layers that are elsewhere than the device that computes: in files, in host memory, on other devices."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from optimum_flab import FlabOptimizer
from optimum_flab.families import family_for
from optimum_flab.running.casting import copy_in
from optimum_flab.running.placement import devices_of, first_accelerator, layer_on, with_layers_elsewhere
from optimum_flab.utils.errors import ConfigurationError

from .conftest import byte_level_tokenizer, saved, small_config, thorough_but, tiny_model


def config(folder):
    vocabulary = {"keep_merges": 0, "pad_to_multiple_of": 16}
    return small_config(folder, vocabulary=vocabulary, ffn={"multiple_of": 32}, target_ratio=0.3)


def weights(folder):
    return [(folder / name).read_bytes() for name in ("model.safetensors", "flab_plan.json")]


@pytest.mark.parametrize(("even", "odd"), thorough_but(1, [("cpu", "disk"), ("disk", "cpu"), ("cpu", "cpu")]))
def test_a_model_that_accelerate_distributed_is_pruned_as_one_in_memory(tmp_path, even, odd):
    dense = saved(tiny_model("llama", 600, num_hidden_layers=3), tmp_path / "dense")
    whole = AutoModelForCausalLM.from_pretrained(dense)
    parts = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    layers = {f"model.layers.{index}": odd if index % 2 else even for index in range(whole.config.num_hidden_layers)}
    spread = AutoModelForCausalLM.from_pretrained(
        dense, device_map=parts | layers, offload_folder=tmp_path / "offloaded"
    )
    before = {name: (id(parameter), parameter.device) for name, parameter in spread.named_parameters()}
    for name, model in (("whole", whole), ("spread", spread)):
        optimizer = FlabOptimizer(model, byte_level_tokenizer(600), output_dtype="bfloat16")
        optimizer.prune(config(tmp_path), cache_dir=tmp_path / name / "work")
        optimizer.save_pretrained(tmp_path / name / "out")
    assert weights(tmp_path / "whole" / "out") == weights(tmp_path / "spread" / "out")
    after = {name: (id(parameter), parameter.device) for name, parameter in spread.named_parameters()}
    assert before.keys() == after.keys() and all(
        before[name] == after[name] for name in before if before[name][1].type != "meta"
    )
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(spread(ids).logits, whole(ids).logits)  # still works as it did


def test_a_layer_visits_a_device_and_is_back_even_after_an_error():
    model = tiny_model("llama")
    layers, meta = family_for(model.config).decoder_layers(model), torch.device("meta")
    before = dict(layers[1].named_parameters())
    with pytest.raises(ZeroDivisionError), layer_on(layers[1], meta):
        assert devices_of(layers[1]) == {meta} and devices_of(layers[0]) == {torch.device("cpu")}
        raise ZeroDivisionError
    after = dict(layers[1].named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items()) and after.keys() == before.keys()
    assert devices_of(model) == {torch.device("cpu")}


@pytest.mark.parametrize("tied", [False, True])
def test_all_but_the_layers_are_on_the_device(tied):
    model = tiny_model("llama", tie_word_embeddings=tied)
    family, meta = family_for(model.config), torch.device("meta")
    other = with_layers_elsewhere(model, family, meta)
    assert devices_of(family.decoder_layers(other)) == {torch.device("cpu")} and devices_of(model) == {
        torch.device("cpu")
    }
    assert other.device == meta and other.lm_head.weight.device == meta
    assert (other.lm_head.weight is other.model.embed_tokens.weight) == tied
    assert all(buffer.device == meta for buffer in other.buffers())


def test_the_first_accelerator_computes():
    assert first_accelerator(["disk", "cpu"]) == torch.device("cpu")
    assert first_accelerator(["disk", "cpu", "cuda:1", "cuda:0"]) == torch.device("cuda", 1)


def test_weights_on_several_devices_are_enough_to_prune_and_to_save_only():
    optimizer = FlabOptimizer(tiny_model("llama", 600), byte_level_tokenizer(600))
    dense = optimizer.dense
    dense.check_in_memory()
    dense.model = with_layers_elsewhere(dense.model, dense.family, torch.device("meta"))
    with pytest.raises(ConfigurationError, match="are on cpu, meta, which is enough"):
        dense.check_in_memory()


@pytest.mark.parametrize("tied", [False, True])
def test_a_copy_has_weights_of_its_own_and_draws_none(tied):
    model = tiny_model("llama", tie_word_embeddings=tied)
    before, generator = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()
    copied = copy_in(model, torch.device("cpu"), torch.float32)
    assert torch.equal(torch.get_rng_state(), generator)
    assert (copied.lm_head.weight is copied.model.embed_tokens.weight) == tied
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
