"""A plan that is applied to weights in their files gives the bytes that it gives in memory."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from optimum_flab import EvaluationSettings, FlabOptimizer, FlabPrunerConfig, PruningPlan
from optimum_flab.checkpoints.hashes import dense_hash, weights_hash
from optimum_flab.checkpoints.surgery import _padded
from optimum_flab.families import family_for
from optimum_flab.pruning import run as run_room
from optimum_flab.pruning.components import sizes_of
from optimum_flab.pruning.components.experts import chosen_experts
from optimum_flab.tensors.lazy import StoredTensors
from optimum_flab.utils.errors import ConfigurationError, FlabError

from .conftest import byte_level_tokenizer, plan_of, saved, small_config, thorough_but, tiny_model
from .families.zoo import MIXTURES, member
from .gguf_writer import F32, Q5, Q8, write_gguf


DENSE = {
    "llama-tied": lambda: tiny_model("llama-bias", 600),
    "llama": lambda: tiny_model("llama", 600),
    "gemma3_text": lambda: tiny_model("gemma3_text", 600),
    "gpt2": lambda: member("gpt2", vocab_size=600),
    "phi3": lambda: member("phi3", vocab_size=600),
    "gpt_neox": lambda: member("gpt_neox", vocab_size=600),
    "gpt_neox-tied": lambda: member("gpt_neox", 2, vocab_size=600),
}


def content(folder):
    """The files of a checkpoint, without what says when and how it was made."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = json.loads(files.pop("flab_report.json"))
    for name in ("stages", "total", "computation"):
        del report[name]
    for name in ("README.md", "flab_report.html"):  # which tell of it
        del files[name]
    return {**files, "report": report}


@pytest.fixture(scope="module", params=thorough_but(1, list(DENSE)))
def pruned(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("streamed")
    model = DENSE[request.param]()
    model.generation_config.eos_token_id = [3, 1]
    saved(model, folder / "dense", max_shard_size="20KB")
    searched(folder, folder / "pruned", True)
    return folder


PINNED = {
    "vocabulary": {"keep_merges": 0, "pad_to_multiple_of": 16},
    "num_hidden_layers": 3,
    "intermediate_size": 24,
    "ffn": {"multiple_of": 8},
}


def searched(folder, out, in_memory, asked=PINNED, **options):
    """What is written of the dense model in a folder once it is pruned."""
    optimizer = FlabOptimizer.from_pretrained(
        folder / "dense", device="cpu", output_dtype="bfloat16", in_memory=in_memory, **options
    )
    assert (optimizer.dense.stored is None) is in_memory
    optimizer.prune(small_config(folder, **asked), cache_dir=out.with_name(f"{out.name}-work"))
    optimizer.save_pretrained(out)
    assert not list(out.with_name(f"{out.name}-work").glob(".*"))  # where what is large was
    return content(out)


def applied(folder, out, in_memory):
    optimizer = FlabOptimizer.from_pretrained(folder / "dense", device="cpu", in_memory=in_memory)
    assert (optimizer.dense.stored is None) is in_memory
    optimizer.apply(PruningPlan.load(folder / "pruned"))
    optimizer.save_pretrained(out)
    return content(out)


def test_every_byte_is_the_same(pruned, tmp_path):
    assert len(list((pruned / "dense").glob("*.safetensors"))) > 1
    streamed, in_memory = (applied(pruned, tmp_path / str(flag), flag) for flag in (False, True))
    assert streamed == in_memory
    searched = content(pruned / "pruned")
    for name in ("model.safetensors", "flab_plan.safetensors", "tokenizer.json", "generation_config.json"):
        assert streamed.get(name) == searched.get(name)
    assert streamed["report"]["weights_sha256"] == searched["report"]["weights_sha256"]


def test_a_model_in_its_files_is_pruned_as_one_in_memory(pruned, tmp_path):
    """The search reads the weights where they are, and what is large lies on the disk."""
    assert searched(pruned, tmp_path / "out", False) == content(pruned / "pruned")


def test_a_model_in_its_files_is_pruned_again_and_completes_a_prompt(tmp_path):
    folder = saved(tiny_model("llama", 600), tmp_path / "dense")
    (folder / "generation_config.json").unlink()  # as of many a base model
    found = []
    for in_memory in (False, True):
        optimizer = FlabOptimizer.from_pretrained(folder, device="cpu", dtype="bfloat16", in_memory=in_memory)
        for _ in range(2):
            optimizer.prune(small_config(tmp_path), cache_dir=tmp_path / "work")
            assert (optimizer.dense.stored is None) is in_memory
        optimizer.save_pretrained(tmp_path / str(in_memory))
        found.append({**content(tmp_path / str(in_memory)), **optimizer.complete("def f", max_new_tokens=4)})
    assert found[0].keys() == found[1].keys()
    assert not [name for name, value in found[0].items() if found[1][name] != value]


def test_files_that_are_written_to_while_a_search_reads_them_end_it_and_nothing_is_kept(tmp_path, monkeypatch):
    path = saved(tiny_model("llama", 600), tmp_path / "dense") / "model.safetensors"
    decide = run_room.decided_plan

    def written_to(*arguments):
        with path.open("r+b") as file:
            file.seek(-8, 2)
            file.write(bytes(8))
        return decide(*arguments)

    monkeypatch.setattr(run_room, "decided_plan", written_to)
    with pytest.raises(FlabError, match="was changed while it was read"):
        searched(tmp_path, tmp_path / "out", False)
    assert not list((tmp_path / "out-work").glob("plan-*/[vp]*"))  # no value, no pieces


def test_files_that_go_or_are_replaced_meanwhile_are_still_mapped(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(4)}, path)
    stored = StoredTensors([path])
    weight = stored["weight"]
    path.unlink()
    stored.check_unchanged()
    save_file({"weight": torch.zeros(8)}, path)
    stored.check_unchanged()
    assert weight.tolist() == [1] * 4


@pytest.mark.parametrize(
    ("model_type", "asked"),
    [
        ("apertus", {"intermediate_size": 24, "ffn": {"multiple_of": 8}}),  # has buffers that are stored
        pytest.param("qwen3_moe", {"num_experts": 4}, marks=pytest.mark.thorough),
    ],
)
def test_buffers_and_experts_in_files_are_pruned_as_in_memory(model_type, asked, tmp_path):
    saved(member(model_type, vocab_size=600).to(torch.bfloat16), tmp_path / "dense")
    found = [searched(tmp_path, tmp_path / str(flag), flag, asked, dtype="float32") for flag in (False, True)]
    assert found[0] == found[1]


def test_a_model_in_its_files_is_pruned_in_another_type(pruned, tmp_path):
    found = [searched(pruned, tmp_path / str(flag), flag, dtype="bfloat16") for flag in (False, True)]
    assert found[0] == found[1]


def same_bytes_by(tmp_path, **fields):
    """Whether a plan with these fields gives the same files of the model in `dense` in both ways."""
    for in_memory in (False, True):
        optimizer = FlabOptimizer.from_pretrained(tmp_path / "dense", device="cpu", in_memory=in_memory)
        assert (optimizer.dense.stored is None) is in_memory
        plan = plan_of(None, **fields, vocab_size=600, dtype="bfloat16", base_hash=dense_hash(optimizer.dense))
        optimizer.apply(plan)
        optimizer.save_pretrained(tmp_path / str(in_memory))
    return content(tmp_path / "False") == content(tmp_path / "True")


@pytest.mark.parametrize(("embedding", "head"), thorough_but(1, [(Q5, Q8), (F32, None), (Q8, Q5), (Q8, "another")]))
def test_every_byte_of_a_gguf_file_is_the_same(embedding, head, tmp_path):
    """A head that is another quantisation of the embedding is tied to it again, with the values of the finer one."""
    (tmp_path / "dense").mkdir()
    model = tiny_model("qwen2", 600)
    matrix = model.model.embed_tokens.weight.numpy()
    output = None if head is None else (matrix, head)
    if head == "another":
        output = (np.random.default_rng(0).normal(size=matrix.shape).astype(np.float32), Q8)
    write_gguf(tmp_path / "dense" / "tiny.gguf", model, byte_level_tokenizer(600), (matrix, embedding), output)
    neurons = {layer: list(range(layer, 60, 2))[:28] for layer in (0, 2, 3)}
    assert same_bytes_by(tmp_path, kept_layers=list(neurons), kept_neurons=neurons)


@pytest.mark.parametrize("model_type", thorough_but(1, list(MIXTURES)))
def test_every_byte_of_a_mixture_is_the_same(model_type, tmp_path):
    """Though its experts are stored one by one, and are one tensor in the model."""
    model = member(model_type, vocab_size=600)
    saved(model, tmp_path / "dense", max_shard_size="20KB")
    family = family_for(model.config)
    sizes = sizes_of(model, family)
    half = min(number for number in sizes.possible["expert"] if number * 2 >= sizes.shape["expert"])
    scores = torch.rand(sizes.shape["expert"], generator=torch.Generator().manual_seed(0))
    experts = chosen_experts(scores, half, family.experts.group_count(model.config)).tolist()
    *layers, last = family.pruned_layers(model)
    kept = [index for index in range(sizes.shape["layer"]) if index != last]
    assert same_bytes_by(tmp_path, kept_layers=kept, kept_neurons={}, kept_experts=dict.fromkeys(layers, experts))


def test_other_weights_are_refused_without_being_in_memory(pruned, tmp_path):
    shutil.copytree(pruned / "dense", tmp_path / "dense")
    path = sorted((tmp_path / "dense").glob("*.safetensors"))[0]
    tensors = load_file(path)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name] + 1}, path, {"format": "pt"})
    optimizer = FlabOptimizer.from_pretrained(tmp_path / "dense", in_memory=False)
    with pytest.raises(FlabError, match="made for .* with weights"):
        optimizer.apply(PruningPlan.load(pruned / "pruned"))


@pytest.mark.thorough
def test_files_that_change_meanwhile_are_not_written_as_what_they_were(pruned, tmp_path):
    shutil.copytree(pruned / "dense", tmp_path / "dense")
    optimizer = FlabOptimizer.from_pretrained(tmp_path / "dense", in_memory=False)
    optimizer.apply(PruningPlan.load(pruned / "pruned"))
    path = sorted((tmp_path / "dense").glob("*.safetensors"))[-1]
    save_file(load_file(path), path, {"format": "pt"})
    with pytest.raises(FlabError, match="was changed while it was read"):
        optimizer.save_pretrained(tmp_path / "out")
    path.unlink()
    with pytest.raises(FlabError, match="can no longer be read"):
        optimizer.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_needs_the_weights_says_so(pruned):
    optimizer = FlabOptimizer.from_pretrained(pruned / "dense", in_memory=False)
    for call in (
        lambda: optimizer.prune_and_recover(FlabPrunerConfig(target_ratio=0.3, recovery={"data": ["x.jsonl"]})),
        lambda: optimizer.evaluate(EvaluationSettings(tasks="perplexity")),
    ):
        with pytest.raises(ConfigurationError, match="in_memory"):
            call()


def test_a_type_that_is_not_known_is_read_into_memory(pruned, tmp_path):
    shutil.copytree(pruned / "dense", tmp_path / "dense")
    path = sorted((tmp_path / "dense").glob("*.safetensors"))[0]
    save_file({**load_file(path), "x": torch.zeros(2, dtype=torch.complex64)}, path, {"format": "pt"})
    with pytest.raises(FlabError, match="hold what|cannot be loaded"):
        FlabOptimizer.from_pretrained(tmp_path / "dense", in_memory=False)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("written", ["float32", "bfloat16", "float16"])
def test_padding_is_the_same_whatever_the_weights_are_stored_in(stored, written):
    rows = torch.randn(70, 300, generator=torch.Generator().manual_seed(0)).to(stored)
    dtype = getattr(torch, written)
    padded = _padded(rows, 96, dtype)
    assert padded.equal(_padded(rows.float(), 96, dtype)) and padded[:70].equal(rows.to(dtype))
    torch.testing.assert_close(padded[70:].float(), rows.float().mean(dim=0).expand(26, -1), atol=1e-2, rtol=1e-2)


def test_weights_under_older_names_are_those_that_transformers_makes_of_them(tmp_path):
    model = member("gpt2", vocab_size=600)
    saved(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    older = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(older, tmp_path / "model.safetensors", {"format": "pt"})
    streamed, in_memory = (FlabOptimizer.from_pretrained(tmp_path, in_memory=flag) for flag in (False, True))
    assert streamed.dense.stored["transformer.wte.weight"].equal(model.transformer.wte.weight)
    assert dense_hash(streamed.dense) == dense_hash(in_memory.dense) == weights_hash(model)


def test_what_the_class_ignores_is_not_read_and_what_it_does_not_have_is_refused(tmp_path):
    model = member("gpt2", vocab_size=600)
    saved(model, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "transformer.h.0.attn.bias": torch.ones(1)}, path, {"format": "pt"})
    optimizer = FlabOptimizer.from_pretrained(tmp_path, in_memory=False)
    assert optimizer.dense.stored is not None and dense_hash(optimizer.dense) == weights_hash(model)
    save_file({**tensors, "transformer.h.0.attn.scale": torch.ones(1)}, path, {"format": "pt"})
    with pytest.raises(FlabError, match="hold what GPT2LMHeadModel does not have"):
        FlabOptimizer.from_pretrained(tmp_path, in_memory=False)
