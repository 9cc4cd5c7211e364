import pytest

from optimum_flab import FlabPrunerConfig
from optimum_flab.families import family_for
from optimum_flab.inspection import Inspection, inspect_model
from optimum_flab.pruning.components import sizes_of
from optimum_flab.pruning.components.vocabulary import FEWEST_TOKENS
from optimum_flab.pruning.limits import parameters_to_keep, shapes_to_compare, size_limits
from optimum_flab.sizes import ModelSizes
from optimum_flab.utils.errors import ConfigurationError, FlabError

from .conftest import DENSE, QWEN, byte_level_tokenizer, small_config, tiny_model
from .families.zoo import member


def test_inspect_counts_without_weights(tmp_path, family):
    model = tiny_model(family, vocab_size=600)
    model.save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    inspection = inspect_model(str(tmp_path), **small_config(tmp_path, target_ratio=0.3).to_dict())
    assert inspection.to_dict()["parameters"] == sum(p.numel() for p in model.parameters())
    vocabulary = sum(p.numel() for name, p in model.named_parameters() if "embed" in name or "lm_head" in name)
    body = inspection.to_dict()["parameters"] - vocabulary
    assert inspection.to_dict()["body_parameters"] == body
    assert set(inspection.to_dict()["outlook"]["expected"]) == {"seconds", "memory_bytes"}
    assert "One component alone" in inspection.to_text() and f" {body:,} " in inspection.to_text()


def test_inspect_refuses_a_ratio_out_of_range_and_a_missing_model(tmp_path):
    with pytest.raises(ConfigurationError, match="target_ratio: 1.5 should be less than 1"):
        inspect_model("x", target_ratio=1.5)
    with pytest.raises(FlabError, match="nowhere"):
        inspect_model(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("ratio", "least"), [(0.22, 0.0), (0.35, 0.10), (0.5, 0.31)])
def test_the_least_share_of_the_body_is_what_the_vocabulary_cannot_give(ratio, least):
    inspection = Inspection(
        "qwen", ModelSizes(DENSE, QWEN, {size: range(1, DENSE[size] + 1) for size in DENSE}), ratio
    )
    found = inspection.to_dict()["least_body_ratio"]
    assert found == pytest.approx(least, abs=0.005) and f"at least {found:.1%} of the body" in inspection.to_text()
    # the vocabulary at its smallest, and the rest from the neurons
    dense, removed = QWEN.total(DENSE), inspection.to_dict()["parameters_to_remove"]
    smallest = QWEN.total(DENSE.resized(vocab=FEWEST_TOKENS))
    assert found == pytest.approx(max(0, smallest - (dense - removed)) / QWEN.body(DENSE))


def test_one_component_alone():
    possible = {dimension: range(1, size + 1) for dimension, size in DENSE.items()}
    alone = Inspection("qwen", ModelSizes(DENSE, QWEN, possible), 0.35).alone()
    assert alone["vocab_size"] is None  # 27.6% of all parameters
    budget = parameters_to_keep(QWEN, DENSE, 0.35)
    assert QWEN.total(DENSE.resized(layer=alone["num_hidden_layers"])) <= budget
    assert QWEN.total(DENSE.resized(neuron=alone["intermediate_size"])) <= budget
    assert alone["intermediate_size"] % 64 == 0  # as a pruning would have it
    config = FlabPrunerConfig(target_ratio=0.35, vocabulary={"enabled": False}, layers={"enabled": False})
    limits = size_limits(config, ModelSizes(DENSE, QWEN, possible), DENSE["vocab"])
    (row,) = shapes_to_compare(config, limits, DENSE["vocab"], 1)
    assert abs(row[0]["neuron"] - alone["intermediate_size"]) <= 64


def test_fewer_tokens_than_bytes_are_no_vocabulary():
    possible = {dimension: range(1, size + 1) for dimension, size in DENSE.items()}
    sizes = ModelSizes(DENSE, QWEN, possible)
    per_token = QWEN.unit(DENSE, "vocab") / QWEN.total(DENSE)
    few, enough = (Inspection("qwen", sizes, (DENSE["vocab"] - left) * per_token).alone() for left in (200, 400))
    assert few["vocab_size"] is None and enough["vocab_size"] == pytest.approx(400, abs=1)


def test_only_sizes_that_a_mixture_can_have_are_named():
    model = member("deepseek_v3")
    sizes = sizes_of(model, family_for(model.config))
    found = Inspection("mixture", sizes, 0.3).alone()
    assert found["num_experts"] in (None, 4, 6) and found["intermediate_size"] is None  # no multiple of 64 is below
    assert found["num_hidden_layers"] in (None, 3, 4)
