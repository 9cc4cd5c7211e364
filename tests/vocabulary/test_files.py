"""What is read, written and read again is one tokenizer: the one that its files state."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, pre_tokenizers, processors
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from optimum_flab.checkpoints.finding import ModelFiles
from optimum_flab.checkpoints.tokenizer import load_tokenizer
from optimum_flab.utils.errors import FlabError
from optimum_flab.vocabulary.closure import natural_vocabulary, read_spec
from optimum_flab.vocabulary.files import reload_tokenizer, sample_texts, save_tokenizer
from optimum_flab.vocabulary.rewrite import count_changed_texts, rewrite_tokenizer
from optimum_flab.vocabulary.usage import count_tokens

from .llama_files import INFILLING, KINDS, llama_backend, write_llama
from .tiny_tokenizers import CORPUS, byte_level_backend


FAMILIES = ("llama", "mistral", "qwen3", "gemma3_text")
WORDS = ["return", "def", "items", "the", "中国", "größer", "café", "cafe\u0301"]
EDGES = [" ", "  ", "▁", "\n", "\t", "<s>", "</s>", "<unk>", *INFILLING, "<FILL_ME>", "<0x41>"]
TEXT = st.lists(
    st.one_of(st.sampled_from(WORDS), st.sampled_from(EDGES), st.text(st.characters(codec="utf-8"), max_size=3)),
    max_size=12,
).map("".join)


def config_of(folder, family):
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    return AutoConfig.from_pretrained(folder)


def load(folder, family):
    return load_tokenizer(ModelFiles("tiny", str(folder), folder), config_of(folder, family))


def written(tokenizer, folder, family):
    """What anybody loads from what is written beside a model of a family."""
    folder.mkdir()
    config_of(folder, family)
    save_tokenizer(tokenizer, folder)
    return AutoTokenizer.from_pretrained(folder)


def backend_json(tokenizer):
    return json.loads(tokenizer.backend_tokenizer.to_str())


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    """By kind and family: what tokenizer.json says, the settled tokenizer, the one that is loaded again, the note."""
    found = {}
    for kind in KINDS:
        for family in FAMILIES:
            folder = tmp_path_factory.mktemp(f"{kind}-{family}")
            original = write_llama(folder / "dense", kind)
            tokenizer, note = load(folder / "dense", family)
            found[kind, family] = original, tokenizer, written(tokenizer, folder / "out", family), note
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_pieces_are_those_of_the_original_before_and_after(settled, kind, family):
    original, tokenizer, again, _ = settled[kind, family]
    assert len(tokenizer) == len(again) == original.get_vocab_size()

    @settings(max_examples=60, deadline=None, database=None)
    @given(text=TEXT)
    def check(text):
        pieces = original.encode(text)
        for side in (tokenizer, again):
            found = side.backend_tokenizer.encode(text)
            assert (found.tokens, found.ids) == (pieces.tokens, pieces.ids)
            assert side(text)["input_ids"] == pieces.ids
            assert side.decode(found.ids, skip_special_tokens=True) == original.decode(pieces.ids)

    check()
    assert backend_json(again) == backend_json(tokenizer)
    assert again.special_tokens_map == tokenizer.special_tokens_map
    assert again.padding_side == tokenizer.padding_side and again.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_pruned_vocabulary_cuts_its_corpus_as_before(settled, kind, family, tmp_path):
    _, tokenizer, _, _ = settled[kind, family]
    corpus = [*CORPUS, "  def f(x):\n    return x", " </s> x"]
    kept = natural_vocabulary(read_spec(tokenizer), count_tokens(tokenizer, corpus).counts).kept
    assert len(kept) < len(tokenizer)
    pruned = rewrite_tokenizer(tokenizer, kept, family)
    again = written(pruned, tmp_path / "out", family)
    assert backend_json(again) == backend_json(pruned)
    assert count_changed_texts(tokenizer, again, kept, corpus) == 0
    for text in corpus:
        assert kept[again(text)["input_ids"]].tolist() == tokenizer(text)["input_ids"]


def test_what_transformers_would_make_of_it_is_told_and_counted(settled):
    original, tokenizer, _, note = settled["legacy", "llama"]
    plain = sample_texts(tokenizer)
    spaced = [text for text in plain if original.encode(text).tokens[1:2] and text.startswith((" ", "▁"))]
    assert "as LlamaTokenizer, which tokenises" in note and note.endswith("it is read and written as its files say")
    count = int(note.split("tokenises ")[1].split(" of ")[0])
    assert len(spaced) <= count < len(plain)
    assert settled["legacy", "mistral"][3] is None and settled["not-legacy", "llama"][3] is None


def test_the_mark_of_an_infilling_prompt_takes_no_row(settled):
    _, tokenizer, again, note = settled["code-llama", "llama"]
    assert "<FILL_ME>" not in tokenizer.get_vocab() and "adds '<FILL_ME>'" in note
    prompt = "▁<PRE> def f(x):▁<SUF> return y▁<MID>"
    for side in (tokenizer, again):
        assert [token for token in side.tokenize(prompt) if token in INFILLING] == ["▁<PRE>", "▁<SUF>", "▁<MID>"]
        assert (side.prefix_token, side.eot_token) == ("▁<PRE>", "▁<EOT>")
        assert set(INFILLING) <= set(side.all_special_tokens)
        rendered = side.apply_chat_template([{"role": "user", "content": "def x"}], tokenize=False)
        assert rendered == "<s>[INST] def x [/INST]"


def test_a_class_that_cannot_spell_the_texts_is_refused(tmp_path):
    """transformers takes the byte-level class for every qwen2 model."""
    write_llama(tmp_path, "legacy")
    with pytest.raises(FlabError, match=r"as Qwen2Tokenizer: that of 'tiny' then does not reproduce \d+ of"):
        load(tmp_path, "qwen2")


def test_a_class_that_cuts_otherwise_is_told(tmp_path):
    backend = byte_level_backend()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(tmp_path)
    tokenizer, note = load(tmp_path, "qwen2")
    assert backend_json(tokenizer) == backend_json(AutoTokenizer.from_pretrained(tmp_path))
    assert "of a qwen2 model as Qwen2Tokenizer, which tokenises" in note and "tiny" not in note
    assert note.endswith("what it loads is counted, measured and written")
    assert load(tmp_path, "qwen3")[1] is None


def test_digits_stay_apart_where_the_class_would_join_them(tmp_path):
    """As in SmolLM2: a Llama model whose tokenizer is named one of GPT-2."""
    backend = byte_level_backend()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "GPT2Tokenizer"}))
    tokenizer, note = load(tmp_path, "llama")
    assert backend_json(tokenizer)["pre_tokenizer"] == json.loads(backend.to_str())["pre_tokenizer"]
    assert "as GPT2Tokenizer, which tokenises" in note


def test_a_tokenizer_in_memory_is_settled_or_refused():
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=llama_backend(), unk_token="<unk>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )
    again = reload_tokenizer(tokenizer, "tiny", "llama")
    assert backend_json(again) == backend_json(tokenizer) and again.padding_side == "left"
    with pytest.raises(FlabError, match=r"as Qwen2Tokenizer, which changes its .*normalizer, .* and tokenises \d+ of"):
        reload_tokenizer(tokenizer, "tiny", "qwen2")


@pytest.mark.parametrize("family", FAMILIES)
def test_flags_of_added_tokens_and_own_frames_stay(family, tmp_path):
    backend = byte_level_backend()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    tokenizer.add_special_tokens(
        {
            "mask_token": AddedToken("<mask>", lstrip=True, normalized=True, special=True),
            "extra_special_tokens": [AddedToken("<x>", rstrip=True, special=True), "<y>"],
        }
    )
    tokenizer.add_tokens([AddedToken("tool", single_word=True, normalized=True)])
    eos = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", eos)]),
        ]
    )
    again = written(reload_tokenizer(tokenizer, "tiny", family), tmp_path / "out", family)
    assert backend_json(again)["added_tokens"] == backend_json(tokenizer)["added_tokens"]
    assert backend_json(again) == backend_json(tokenizer)
    assert again.mask_token == "<mask>" and again.extra_special_tokens == ["<x>", "<y>"]


def test_the_space_that_a_byte_level_tokenizer_puts_in_front_stays(tmp_path):
    backend = byte_level_backend()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    again = written(PreTrainedTokenizerFast(tokenizer_object=backend), tmp_path / "out", "llama")
    assert again.tokenize("return")[0].startswith("Ġ")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["add_prefix_space"] is True


def test_several_chat_templates_stay(tmp_path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level_backend(), eos_token="<|endoftext|>")
    tokenizer.chat_template = {"default": "{{ messages[0]['content'] }}", "tool_use": "{{ tools }}"}
    again = written(reload_tokenizer(tokenizer, "tiny", "llama"), tmp_path / "out", "llama")
    assert again.chat_template == tokenizer.chat_template


def test_writing_what_was_read_gives_the_same_bytes(settled, tmp_path):
    for (kind, family), (_, tokenizer, again, _) in settled.items():
        first, second = tmp_path / f"{kind}-{family}-1", tmp_path / f"{kind}-{family}-2"
        save_tokenizer(tokenizer, first)
        save_tokenizer(again, second)
        names = sorted(path.name for path in first.iterdir())
        assert names == sorted(path.name for path in second.iterdir())
        for name in names:
            assert (first / name).read_bytes() == (second / name).read_bytes(), (kind, family, name)


def test_a_sentencepiece_model_alone_says_what_is_missing(tmp_path):
    """Whether or not the packages that read one are installed: this file is none."""
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(FlabError, match=r"tokenizer of 'tiny' cannot be loaded as a fast tokenizer.*tokenizer\.json"):
        load(tmp_path, "llama")
