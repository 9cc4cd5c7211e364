"""GGUF files that were written here, without anything beside them, are read back with the tokenizer that they had."""

import json

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from optimum_flab import FlabOptimizer
from optimum_flab.checkpoints.loading import load_dense
from optimum_flab.export import export_gguf
from optimum_flab.settings.export import ExportSettings
from optimum_flab.utils.errors import FlabError
from optimum_flab.vocabulary.files import SAMPLES
from optimum_flab.vocabulary.pre_tokenizers import THREE, WORDS

from ..conftest import TEXTS, byte_level_tokenizer, small_config, thorough_but, tiny_model
from ..vocabulary.llama_files import llama
from ..vocabulary.tiny_tokenizers import TEMPLATE, gemma, ignore_merges, qwen


def other_end() -> PreTrainedTokenizerFast:
    """Without <|endoftext|>, which classes of transformers add."""
    tokenizer = byte_level_tokenizer(600, special="<|end|>")
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    return tokenizer


def llama_3() -> PreTrainedTokenizerFast:
    """Words as in Llama 3, looked up before any merge, after a token for the beginning."""
    content = json.loads(ignore_merges().backend_tokenizer.to_str().replace("<|endoftext|>", "<|end_of_text|>"))
    backend = Tokenizer.from_str(json.dumps(content))
    pattern = Regex(WORDS.replace("{digits}", THREE))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end_of_text|>")
    tokenizer.add_special_tokens({"bos_token": "<|begin_of_text|>"})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


KINDS = {
    **{"words of GPT-2": byte_level_tokenizer, "another end": other_end, "qwen": qwen, "llama 3": llama_3},
    **{"gemma": gemma, "llama 2": llama},
}
# with the sizes of heads that transformers assumes where it does not read them
FAMILIES = {"gemma3_text": {}, "llama": {}, "mistral": {}, "qwen2": {}, "qwen3": {"head_dim": 128}}
CLASS_OF_QWEN2 = ("words of GPT-2", "qwen")  # as which transformers loads every tokenizer of this family
CASES = [
    *(("gemma3_text", "another end"), ("llama", "llama 3"), ("qwen2", "qwen"), ("mistral", "llama 2")),
    *((family, kind) for family in FAMILIES for kind in KINDS if family != "qwen2" or kind in CLASS_OF_QWEN2),
]


def exported(folder, family, kind, file="model.gguf"):
    """The tokenizer as the dense model has it, and a GGUF file in a folder of its own."""
    tokenizer = KINDS[kind]()
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    tiny_model(family, len(tokenizer), **ids, **FAMILIES[family]).save_pretrained(folder / "dense")
    tokenizer.save_pretrained(folder / "dense")
    dense = load_dense(folder / "dense")
    export_gguf(dense, folder / "alone" / file, ExportSettings(type="q8_0"))
    return dense.tokenizer, folder / "alone"


@pytest.mark.parametrize(("family", "kind"), thorough_but(4, list(dict.fromkeys(CASES))))
def test_the_same_ids(family, kind, tmp_path):
    tokenizer, folder = exported(tmp_path, family, kind)
    read = load_dense(folder).tokenizer
    specials = list(tokenizer.added_tokens_encoder)
    around = [f"a {token} b{token}c\n{token}" for token in [*specials, "<|endoftext|>", "<s>", "</s>", "<mask>"]]
    for text in [*TEXTS, *SAMPLES, *around, "".join(specials)]:
        assert read(text).input_ids == tokenizer(text).input_ids, text
    assert len(read) == len(tokenizer) and read.chat_template == tokenizer.chat_template
    for name in ("bos", "eos", "pad", "unk"):
        named = getattr(tokenizer, f"{name}_token_id")
        assert named is None or getattr(read, f"{name}_token_id") == named


@pytest.mark.parametrize(
    ("family", "kind"), thorough_but(1, [("gemma3_text", "another end"), ("llama", "llama 3"), ("mistral", "llama 2")])
)
def test_they_are_pruned(family, kind, tmp_path):
    _, folder = exported(tmp_path, family, kind)
    optimizer = FlabOptimizer.from_pretrained(folder, device="cpu")
    pruned = optimizer.prune(small_config(tmp_path, intermediate_size=48), save_directory=tmp_path / "out")
    again = load_dense(tmp_path / "out")
    assert again.model.config.vocab_size == pruned.report.pruned.vocab_size < pruned.report.dense.vocab_size
    assert again.model.config.intermediate_size == 48


def test_a_token_that_transformers_adds_is_named(tmp_path):
    tiny_model("qwen2", 601).save_pretrained(tmp_path)
    other_end().save_pretrained(tmp_path)
    with pytest.raises(FlabError, match=r"as Qwen2Tokenizer, has 602 .* \('<\|endoftext\|>' has no row\).*add rows"):
        load_dense(tmp_path)
