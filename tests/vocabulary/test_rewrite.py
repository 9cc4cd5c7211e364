import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from optimum_flab.utils.errors import FlabError
from optimum_flab.vocabulary.closure import KeptTokens, natural_vocabulary, read_spec, resize
from optimum_flab.vocabulary.files import choose_tokenizer, reload_tokenizer
from optimum_flab.vocabulary.rewrite import count_changed_texts, remap_config_ids, remap_token_ids, rewrite_tokenizer
from optimum_flab.vocabulary.usage import count_tokens

from .conftest import MAKERS
from .tiny_tokenizers import CORPUS, byte_level, byte_level_backend, gemma, qwen


@pytest.fixture(scope="module")
def pruned(tokenizers):
    """By name: the dense tokenizer, what a small corpus keeps, the pruned tokenizer."""
    result = {}
    for name, tokenizer in tokenizers.items():
        kept = natural_vocabulary(read_spec(tokenizer), count_tokens(tokenizer, CORPUS).counts).kept
        result[name] = tokenizer, kept, rewrite_tokenizer(tokenizer, kept)
    return result


@pytest.fixture(params=list(MAKERS))
def case(request, pruned):
    return pruned[request.param]


def backend_json(tokenizer):
    return json.loads(tokenizer.backend_tokenizer.to_str())


def round_trip(tokenizer, text):
    return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("aeinrt \n▁中国日ß<>0xE")), max_size=30))
def test_any_text_round_trips_wherever_it_did(case, text):
    dense, _, new = case
    if round_trip(dense, text) == text:
        assert round_trip(new, text) == text


def test_some_tokens_went_and_the_rest_are_in_order(case):
    dense, kept, new = case
    assert len(kept) < len(dense) and len(new) == len(kept)
    strings = {index: token for token, index in dense.get_vocab().items()}
    assert new.convert_ids_to_tokens(list(range(len(new)))) == [strings[index] for index in kept.tolist()]


def test_pruning_again_changes_nothing(case):
    _, _, new = case
    again = rewrite_tokenizer(new, np.arange(len(new)))
    assert again.backend_tokenizer.to_str() == new.backend_tokenizer.to_str()
    spec = read_spec(new)
    assert len(natural_vocabulary(spec, count_tokens(new, CORPUS).counts).kept) == len(new)


def test_keeping_all_changes_nothing(case):
    dense = case[0]
    assert backend_json(rewrite_tokenizer(dense, sorted(dense.get_vocab().values()))) == backend_json(dense)


def test_it_is_the_tokenizer_that_its_files_give(case, tmp_path):
    _, kept, new = case
    new.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is type(new) and backend_json(loaded) == backend_json(new)
    assert count_changed_texts(case[0], loaded, kept, CORPUS) == 0


def test_settings_survive_and_no_temporary_folder_does(tmp_path):
    dense = byte_level()
    dense.save_pretrained(tmp_path / "dense")
    dense = AutoTokenizer.from_pretrained(tmp_path / "dense", padding_side="left")
    dense.truncation_side = "left"
    dense.chat_template = byte_level().chat_template
    assert "\r\n" in dense.chat_template
    kept = natural_vocabulary(read_spec(dense), count_tokens(dense, CORPUS).counts).kept
    new = rewrite_tokenizer(dense, kept)
    assert type(new) is type(dense) and new.special_tokens_map == dense.special_tokens_map
    assert new.chat_template == dense.chat_template
    assert new.name_or_path == dense.name_or_path == str(tmp_path / "dense")
    new.save_pretrained(tmp_path / "new")
    for tokenizer in (new, AutoTokenizer.from_pretrained(tmp_path / "new")):
        assert (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_max_length) == ("left", "left", 77)
    paths = {name for name, value in vars(new).items() if name != "name_or_path" and "/tmp" in repr(value)}
    assert paths <= {"init_kwargs"} and new.init_kwargs.get("name_or_path") == dense.init_kwargs.get("name_or_path")
    message = [{"role": "user", "content": "import itertools"}]
    before, after = (t.apply_chat_template(message, return_dict=False) for t in (dense, new))
    assert kept[after].tolist() == before


def test_added_tokens_inside_and_outside_the_vocabulary(pruned):
    dense, _, new = pruned["byte_level"]
    text = "<|im_start|>items[<|im_end|><|endoftext|>"
    before, after = dense.encode(text), new.encode(text)
    start, end = new.convert_tokens_to_ids(["<|im_start|>", "<|endoftext|>"])
    assert after[0] == after[1] == start and after[-1] == after[-2] == end
    assert [dense.decode(index) for index in before[:2]] == [new.decode(index) for index in after[:2]]
    # an added token stays one, special or not
    assert len(new.encode("<tool>", add_special_tokens=False)) == 1
    assert "<|reserved_special_token_1|>" in dense.all_special_tokens
    assert "<|reserved_special_token_1|>" not in new.all_special_tokens
    assert new.extra_special_tokens == ["<|im_start|>", "<|im_end|>"]


@pytest.mark.parametrize("kind", [processors.RobertaProcessing, processors.BertProcessing, "template"])
def test_ids_of_post_processor_padding_and_truncation(kind):
    backend = byte_level_backend()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    tokenizer.add_special_tokens({"cls_token": "<cls>", "sep_token": "<sep>", "pad_token": "<pad>"})
    cls, sep, pad = tokenizer.convert_tokens_to_ids(["<cls>", "<sep>", "<pad>"])
    backend = tokenizer.backend_tokenizer
    if kind == "template":
        template = processors.TemplateProcessing(
            single="<cls> $A <sep>", special_tokens=[("<cls>", cls), ("<sep>", sep)]
        )
        backend.post_processor = processors.Sequence([processors.Sequence([template])])
    else:
        backend.post_processor = kind(("<sep>", sep), ("<cls>", cls))
    backend.enable_padding(pad_id=pad, pad_token="<pad>", length=12)
    backend.enable_truncation(12)
    tokenizer = reload_tokenizer(tokenizer, "tiny")
    kept = natural_vocabulary(read_spec(tokenizer), count_tokens(tokenizer, ["return items"]).counts).kept
    new = rewrite_tokenizer(tokenizer, kept)
    assert new.convert_tokens_to_ids("<cls>") != cls
    before, after = (t.backend_tokenizer.encode("return items") for t in (tokenizer, new))
    assert before.ids == kept[after.ids].tolist() and before.tokens == after.tokens
    assert (
        after.tokens[0] == "<cls>" and "<sep>" in after.tokens and after.tokens[-1] == "<pad>" and len(after.ids) == 12
    )
    assert new.backend_tokenizer.truncation == tokenizer.backend_tokenizer.truncation


def test_ids_that_are_not_contiguous_become_so():
    content = json.loads(byte_level_backend().to_str())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {token: index * 2 if index > 300 else index for token, index in vocabulary.items()}
    dense = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), eos_token="<|endoftext|>"
    )
    # an added token outside of the vocabulary has the id of the count of entries: amid the others
    dense.add_tokens(["<tool>"])
    tool = dense.convert_tokens_to_ids("<tool>")
    assert tool == len(vocabulary) and max(dense.get_vocab().values()) > tool
    texts = [*CORPUS, "return <tool> items"]
    usage = count_tokens(dense, texts)
    kept = natural_vocabulary(read_spec(dense), usage.counts).kept
    new = rewrite_tokenizer(dense, kept)
    assert tool in kept and new.convert_tokens_to_ids("<tool>") == kept.tolist().index(tool) < len(new) - 1
    assert count_changed_texts(dense, new, kept, texts) == 0


def test_changed_texts_are_counted():
    dense = byte_level()
    spec = read_spec(dense)
    counts = count_tokens(dense, ["return"]).counts
    kept = natural_vocabulary(spec, counts).kept
    new = rewrite_tokenizer(dense, kept)
    assert count_changed_texts(dense, new, kept, ["return", "return number", "def number", "return"]) == 2
    natural = KeptTokens(kept, kept[:0])
    fewer = resize(spec, natural, counts, len(kept) - 1)
    assert (
        count_changed_texts(dense, rewrite_tokenizer(dense, np.union1d(fewer, sorted(spec.required))), fewer, []) == 0
    )


def test_wrong_ids_are_refused(tokenizers):
    tokenizer = tokenizers["byte_level"]
    every, end = list(range(len(tokenizer))), tokenizer.convert_tokens_to_ids("<|endoftext|>")
    with pytest.raises(FlabError, match=f"has {len(every)} tokens instead of the {len(every) + 1} kept"):
        rewrite_tokenizer(tokenizer, [*every, 10**6])
    with pytest.raises(FlabError, match=r"cannot do without '<\|endoftext\|>'; keep it"):
        rewrite_tokenizer(tokenizer, [index for index in every if index != end])


def test_a_class_that_rebuilds_its_tokenizer_is_caught_and_can_be_settled():
    tokenizer = qwen()
    content = backend_json(tokenizer)
    content["normalizer"] = None  # as a GGUF file gives it
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    everything = range(len(tokenizer))
    with pytest.raises(FlabError, match=r"Qwen2Tokenizer changes normalizer .* load it again"):
        rewrite_tokenizer(tokenizer, everything, "qwen2")
    with pytest.raises(FlabError, match=r"'tiny' as Qwen2Tokenizer, which changes its normalizer and tokenises 1 of"):
        reload_tokenizer(tokenizer, "tiny", "qwen2")
    # beside a model of another family it stays what it is
    assert backend_json(reload_tokenizer(tokenizer, "tiny", "qwen3"))["normalizer"] is None
    settled, note = choose_tokenizer(None, tokenizer, "tiny", "qwen2")
    assert "loads the tokenizer of a qwen2 model as Qwen2Tokenizer, which tokenises 1 of" in note
    assert len(rewrite_tokenizer(settled, everything, "qwen2")) == len(tokenizer)
    assert settled.name_or_path == tokenizer.name_or_path and settled.chat_template == tokenizer.chat_template


def test_the_dense_tokenizer_is_left_as_it_was():
    tokenizer = gemma()
    before = tokenizer.backend_tokenizer.to_str(), dict(tokenizer.init_kwargs)
    rewrite_tokenizer(tokenizer, natural_vocabulary(read_spec(tokenizer), count_tokens(tokenizer, CORPUS).counts).kept)
    assert (tokenizer.backend_tokenizer.to_str(), tokenizer.init_kwargs) == before


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (5, 1),
        (4, None),
        ([5, 4, 9], [1, 2]),
        ([4], None),
        ((), None),
        ([[5, 9], [5, 4], [3]], [[1, 2], [0]]),
        ([[[5, 9], [4]], [[4]]], [[[1, 2]]]),
        ({(5, 9): -1.5, (4,): 2.0}, {(1, 2): -1.5}),
        ([[[5, 9], -1.5], [[4], 2.0]], [[[1, 2], -1.5]]),
        ({(4,): 2.0}, None),
    ],
)
def test_remapping_of_ids(value, expected):
    assert remap_token_ids(value, {3: 0, 5: 1, 9: 2}) == expected


def test_remapping_of_configurations():
    config = LlamaConfig(vocab_size=10, bos_token_id=3, eos_token_id=[5, 9], pad_token_id=None, num_hidden_layers=3)
    generation = GenerationConfig(
        bos_token_id=3,
        eos_token_id=[5, 9],
        pad_token_id=9,
        suppress_tokens=[4, 5],
        bad_words_ids=[[4, 5], [5]],
        sequence_bias=[[[5], 1.5], [[4], 2.0]],
        max_new_tokens=5,
    )
    before = config.to_dict(), generation.to_dict()
    new_config, new_generation = remap_config_ids(config, generation, np.array([3, 5, 9]))
    assert (config.to_dict(), generation.to_dict()) == before
    assert (new_config.bos_token_id, new_config.eos_token_id, new_config.pad_token_id) == (0, [1, 2], None)
    assert (new_config.vocab_size, new_config.num_hidden_layers) == (10, 3)
    assert new_generation.to_dict() == before[1] | {
        "bos_token_id": 0,
        "eos_token_id": [1, 2],
        "pad_token_id": 2,
        "suppress_tokens": [1],
        "bad_words_ids": [[1]],
        "sequence_bias": [[[1], 1.5]],
    }
    assert (
        remap_config_ids(None, generation, [3, 5, 9])[0] is None
        and remap_config_ids(config, None, [3, 5, 9])[1] is None
    )
