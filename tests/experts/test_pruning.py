"""From a folder with a mixture of experts to one with fewer, and what is said on the way."""

import json

import pytest
import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_flab import FlabOptimizer, PruningPlan
from optimum_flab.checkpoints.hashes import dense_hash
from optimum_flab.checkpoints.loading import dense_from_memory, load_dense
from optimum_flab.checkpoints.stored_model import check_belongs_together
from optimum_flab.checkpoints.surgery import operate
from optimum_flab.criteria import LAYERS
from optimum_flab.pruning.components.layers import ranked_layers
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.recovery.training import Training, merge_training
from optimum_flab.settings.recovery import RecoveryConfig
from optimum_flab.utils.errors import ConfigurationError

from ..conftest import TEXTS, byte_level_tokenizer, plan_of, random_tokens, reading, saved, small_config, thorough_but
from ..families.zoo import member


NOTHING_LEARNED = Training(None, LoraConfig(), 0.0, 0.0, 0, 0)


@pytest.fixture(scope="module", params=thorough_but(1, ["qwen3_moe", "deepseek_v3"]))
def dense(request, tmp_path_factory):
    model = member(request.param, 0, vocab_size=600, max_position_embeddings=256)
    return saved(model, tmp_path_factory.mktemp(request.param))


def pruned(dense, out, **changes):
    optimizer = FlabOptimizer.from_pretrained(dense, device="cpu")
    optimizer.prune(small_config(out.parent, **changes))
    optimizer.save_pretrained(out)
    return optimizer


@pytest.fixture(scope="module")
def pinned(dense, tmp_path_factory):
    """Half of the experts, at half of their width, in all layers but one."""
    out = tmp_path_factory.mktemp("pinned") / "out"
    sizes = {"num_experts": 4, "intermediate_size": 24, "num_hidden_layers": 4}
    return pruned(dense, out, **sizes), out


def test_experts_stay_unless_asked_for(dense, tmp_path):
    optimizer = pruned(dense, tmp_path / "out", target_ratio=0.4)
    report, plan = optimizer.pruned.report, optimizer.pruned.plan
    assert report.pruned.num_experts == report.dense.num_experts == 8 and "expert" not in plan.kept
    assert report.removed_ratio == pytest.approx(0.4, abs=0.005)
    assert "by `reap`" not in (tmp_path / "out" / "README.md").read_text()


def test_where_experts_go_their_width_stays(dense, tmp_path):
    optimizer = pruned(dense, tmp_path / "out", target_ratio=0.6, experts={"enabled": True})
    report, plan = optimizer.pruned.report, optimizer.pruned.plan
    assert report.pruned.num_experts < 8 and "neuron" not in plan.kept
    assert report.pruned.intermediate_size == report.dense.intermediate_size
    assert report.removed_ratio == pytest.approx(0.6, abs=0.005)
    assert len(report.search.candidates) > 1
    assert {len(kept) for kept in plan.kept["expert"].values()} == {report.pruned.num_experts}
    assert "experts per layer" in optimizer.summary()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| experts per layer | 8 |" in card and "**Experts** by `reap`" in card and "2510.13999" in card


def test_experts_and_their_width_pinned(dense, pinned, tmp_path):
    """The same files by the search and by the plan."""
    optimizer, out = pinned
    check_belongs_together(Checkpoint(out))  # as a push does
    config = AutoConfig.from_pretrained(out)
    assert (config.num_hidden_layers, config.moe_intermediate_size) == (4, 24)
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    assert model.model.layers[-1].mlp.experts.gate_up_proj.shape == (4, 48, 32)
    again = FlabOptimizer(optimizer.dense.model, optimizer.dense.tokenizer)
    again.apply(PruningPlan.load(out))
    again.save_pretrained(tmp_path)
    for name in ("model.safetensors", "config.json", "flab_plan.safetensors", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name
    assert again.pruned.report.weights_sha256 == optimizer.pruned.report.weights_sha256


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "in memory"])
def test_rows_that_are_no_whole_numbers_of_16_bytes(dtype, tmp_path, monkeypatch):
    """Which transformers cannot multiply for all experts at once; layers are ranked in bfloat16 where that is fast."""
    monkeypatch.setattr("optimum_flab.running.casting.multiplies_bfloat16", lambda device: True)
    model, tokenizer = member("qwen3_moe", 0, vocab_size=600, hidden_size=36, head_dim=8), byte_level_tokenizer(600)
    if dtype == "in memory":
        dense = dense_from_memory(model, tokenizer)
    else:
        dense = load_dense(saved(model, tmp_path), device="cpu", dtype=dtype)
    tokens = random_tokens(8, 600)
    removed = next(ranked_layers(reading(dense.model, tokens), LAYERS["divergence"])).layer
    experts = {layer: [0, 2, 3, 5] for layer in (0, 2, 3, 4) if layer != removed}
    plan = plan_of(list(range(600)), sorted([1, *experts]), {}, kept_experts=experts)
    pruned = operate(dense.model, dense.family, plan)
    assert torch.isfinite(pruned(tokens.input_ids).logits).all() and pruned.config.num_hidden_layers == 4


@pytest.mark.thorough
def test_experts_go_at_a_width_that_is_pinned(dense, tmp_path):
    optimizer = pruned(dense, tmp_path / "out", target_ratio=0.65, experts={"enabled": True}, intermediate_size=24)
    report = optimizer.pruned.report
    assert report.pruned.intermediate_size == 24 and report.pruned.num_experts < 8
    assert len({candidate.num_experts for candidate in report.search.candidates}) > 1


@pytest.mark.thorough
def test_in_bfloat16_it_runs_and_is_known_again(dense, tmp_path):
    """Routers that the class keeps in float32 stay exact, and the weights are known again by their hash."""
    half = tmp_path / "half"
    model = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.bfloat16)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.add_(1 + 1e-4 * torch.arange(len(buffer)))
    optimizer = FlabOptimizer.from_pretrained(saved(model, half), device="cpu")
    optimizer.prune(small_config(tmp_path, num_experts=4, intermediate_size=24))
    optimizer.save_pretrained(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    with torch.no_grad():
        assert torch.isfinite(loaded(torch.arange(20)[None]).logits).all()
    again = FlabOptimizer.from_pretrained(tmp_path / "out", device="cpu")
    assert dense_hash(again.dense) == optimizer.pruned.report.weights_sha256
    for name, tensor in merge_training(optimizer.pruned.model, NOTHING_LEARNED, torch.bfloat16).state_dict().items():
        assert tensor.equal(optimizer.pruned.model.state_dict()[name]), name


def test_a_pruned_mixture_is_loaded_beside_its_dense_model_and_pruned_again(pinned, tmp_path):
    optimizer, out = pinned
    with torch.no_grad():
        ids = torch.arange(20)[None]
        logits = optimizer.pruned.model(ids).logits
        loaded = optimizer.load_pruned(out).model(ids).logits
    torch.testing.assert_close(loaded, logits)
    twice = FlabOptimizer.from_pretrained(out, device="cpu")
    twice.prune(small_config(tmp_path, vocabulary={"enabled": False}, intermediate_size=16))
    assert twice.pruned.model.config.moe_intermediate_size == 16


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_experts": 9}, "num_experts: 9 is more than the 8 of the dense model"),
        ({"num_experts": 1}, "num_experts: this model cannot have 1; use one of"),
        ({"num_hidden_layers": 1}, r"cannot have 1 \(its layers without experts \(\d\) stay, and one"),
        ({"experts": {"enabled": True}}, "nothing says how many experts stay"),
        ({"intermediate_size": 28}, "intermediate_size: this model cannot have 28; use one of"),
        ({"num_experts": 8, "vocabulary": {"enabled": False}}, "nothing would be pruned"),
    ],
)
def test_what_cannot_be_is_refused_before_weights_are_read(dense, changes, said, tmp_path):
    for file in dense.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigurationError, match=said):
        FlabOptimizer.from_pretrained(tmp_path, device="cpu", config=small_config(tmp_path, **changes))


def test_a_width_that_the_shared_expert_does_not_allow_is_refused(tmp_path, dense):
    if "deepseek" not in dense.name:
        pytest.skip("no shared expert as wide as some")
    optimizer = FlabOptimizer.from_pretrained(dense, device="cpu")
    with pytest.raises(ConfigurationError, match="_size: this model cannot have 40; use one of 8, 16, 24"):
        optimizer.prune(small_config(tmp_path, intermediate_size=40, ffn={"multiple_of": 8}))


def test_a_pruned_mixture_is_recovered(dense, pinned, tmp_path):
    """Attention, routers and experts are trained, and what attention gives is refitted."""
    if "deepseek" in dense.name:
        pytest.skip("trained like the other")
    optimizer = FlabOptimizer.from_pretrained(dense, device="cpu")
    optimizer.load_pruned(pinned[1])
    before = {name: tensor.clone() for name, tensor in optimizer.pruned.model.state_dict().items()}
    examples = [{"instruction": f"Write part {number}.", "output": text} for number, text in enumerate(TEXTS)]
    (tmp_path / "data.json").write_text(json.dumps(examples))
    data = {"data": [str(tmp_path / "data.json")], "answers": "reference", "template": "plain", "text_share": 0}
    settings = RecoveryConfig(**data, sequence_length=128, batch_size=2, max_steps=3, learning_rate=2e-3)
    recovered = optimizer.recover(settings, cache_dir=tmp_path / "cache")
    section = recovered.report.recovery
    assert section.held_out_after.divergence < section.held_out_before.divergence
    changed = {name for name, tensor in recovered.model.state_dict().items() if not tensor.equal(before[name])}
    parts = ("self_attn.o_proj.weight", "mlp.gate.weight", "mlp.experts.down_proj")
    assert {part for part in parts if any(name.endswith(part) for name in changed)} == set(parts)
