"""The example that generates with a pruned draft model."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from optimum_flab import FlabOptimizer, FlabPrunerConfig

from .conftest import TEXTS, byte_level_tokenizer, script, tiny_model


EXAMPLE = Path(__file__).parents[1] / "examples" / "assisted_generation.py"


@pytest.fixture(scope="module")
def example():
    return script(EXAMPLE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A target, a draft pruned from it that keeps its vocabulary, a tokenizer with other ids, and prompts."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = byte_level_tokenizer(600)
    model = tiny_model("llama", 608, initializer_range=0.1, eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder / "target")
    tokenizer.save_pretrained(folder / "target")
    (folder / "texts.jsonl").write_text("".join(json.dumps({"prompt": text * 2}) + "\n" for text in TEXTS))
    data = {"sequence_length": 64, "validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 1000}
    data |= {"corpus": [f"{folder}/texts.jsonl[prompt]"], "mix": {"own": 1}}
    optimizer = FlabOptimizer.from_pretrained(folder / "target")
    sizes = {"vocabulary": {"enabled": False}, "intermediate_size": 32, "ffn": {"multiple_of": 4}}
    optimizer.prune(FlabPrunerConfig(data=data, **sizes))
    optimizer.save_pretrained(folder / "draft")
    byte_level_tokenizer(500).save_pretrained(folder / "other")
    return folder


def test_the_share_of_accepted_tokens_is_printed_and_the_output_is_the_targets(example, folders, capsys):
    limits = ["--limit", "3", "--max-new-tokens", "16", "--draft-tokens", "3"]
    prompts = ["--prompts", str(folders / "texts.jsonl"), *limits]
    example.main([str(folders / "draft"), str(folders / "target"), *prompts])
    shown = capsys.readouterr().out
    accepted, proposed, rate = re.search(r"accepted (\d+) of (\d+) tokens of the draft: ([\d.]+)%", shown).groups()
    assert 0 <= int(accepted) < int(proposed) and float(rate) == pytest.approx(
        100 * int(accepted) / int(proposed), abs=0.05
    )
    assert "3 of 3 outputs are those of the target alone" in shown
    tokens, rounds = map(int, re.search(r"(\d+) tokens by (\d+) runs", shown).groups())
    assert tokens == int(accepted) + rounds <= 48


def test_a_draft_that_is_the_target_is_always_right_and_its_opposite_never(example):
    target = tiny_model("llama", 608, initializer_range=0.1)
    same, opposite = copy.deepcopy(target), copy.deepcopy(target)
    with torch.no_grad():
        opposite.get_output_embeddings().weight.neg_()
    config = GenerationConfig(max_new_tokens=13, pad_token_id=0)
    prompt = torch.arange(5, 15)[None]
    for draft, accepted in ((same, 9), (opposite, 0)):
        draft.generation_config.update(num_assistant_tokens=3, num_assistant_tokens_schedule="constant")
        draft.generation_config.assistant_confidence_threshold = 0
        found = example.assisted(target, draft, prompt, config)
        assert torch.equal(found.ids, example.written(target, prompt, config))
        assert found.accepted == accepted and found.rounds == 13 - accepted
        assert found.proposed == (9 if accepted else 3 * 10 + 2 + 1)  # fewer towards the end


@pytest.mark.parametrize("swapped", [False, True])
def test_other_token_ids_are_refused_with_the_flag_that_keeps_them(example, folders, swapped):
    names = [str(folders / name) for name in ("other", "target")]
    names = names[::-1] if swapped else names
    with pytest.raises(SystemExit, match="does not have the token ids of .*; prune it with --keep-vocabulary"):
        example.main([*names, "--prompts", str(folders / "texts.jsonl")])


def test_texts_that_are_cut_otherwise_are_a_difference(example):
    from tokenizers import pre_tokenizers

    one, other = byte_level_tokenizer(600), byte_level_tokenizer(600)
    assert example.difference(one, other, TEXTS) is None
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert "is cut otherwise" in example.difference(one, other, TEXTS)
    other.add_tokens("<more>")
    assert example.difference(one, other, []) == "'<more>' is 600 for the target, and nothing for the draft"
    assert example.difference(other, one, []) == "the draft has 1 tokens more than the target"
