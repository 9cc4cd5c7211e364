"""Folders with tokenizers of the kind of Llama 2, Code Llama and Mistral 7B, as transformers 4 wrote them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from .tiny_tokenizers import BYTES, TRAINING_TEXTS


INFILLING = ("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
# by name: fields of tokenizer_config.json, and what of the pipeline differs
KINDS: dict[str, dict[str, Any]] = {
    "llama-2": {"tokenizer_class": "LlamaTokenizer", "legacy": False, "written": "legacy"},
    "legacy": {"tokenizer_class": "LlamaTokenizer", "legacy": True},
    "legacy-fast": {"tokenizer_class": "LlamaTokenizerFast", "legacy": True, "add_prefix_space": True},
    "absent": {"tokenizer_class": "LlamaTokenizer"},
    "not-legacy": {"tokenizer_class": "LlamaTokenizer", "legacy": False, "written": "first"},
    "no-prefix": {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "add_prefix_space": False,
        "written": "never",
    },
    "normalized": {"tokenizer_class": "LlamaTokenizer", "legacy": True, "normalized": True},
    "code-llama": {
        "tokenizer_class": "CodeLlamaTokenizer",
        "legacy": None,
        "infilling": True,
        "fill_token": "<FILL_ME>",
        "suffix_first": False,
        "chat_template": CHAT_TEMPLATE,
    },
    "both-ends": {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_eos_token": True},
    "no-frame": {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": False},
}


@cache
def trained() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary in the order of the real ones (specials, bytes, pieces by merge, characters) and its merges."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    backend.train_from_iterator(TRAINING_TEXTS, trainers.BpeTrainer(vocab_size=350, show_progress=False))
    learnt = json.loads(backend.to_str())["model"]
    pieces = sorted(learnt["vocab"], key=lambda token: (len(token) == 1, learnt["vocab"][token]))
    tokens = dict.fromkeys(["<unk>", "<s>", "</s>", *BYTES, *pieces])
    return {token: index for index, token in enumerate(tokens)}, [tuple(pair) for pair in learnt["merges"]]


def llama_backend(written: str = "legacy", bos: bool = True, eos: bool = False) -> Tokenizer:
    """The pipeline that transformers 4 converts a Llama tokenizer to.

    Args:
        written: "legacy" puts a space before each stretch of text, also where it begins with one; "first" before the
            first one only, where it does not; "never" nowhere.
    """
    vocabulary, merges = trained()
    backend = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if written == "legacy":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=written, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps + ([] if written == "never" else [decoders.Strip(" ", 1, 0)]))
    single = f"{'<s>:0 ' if bos else ''}$A:0{' </s>:0' if eos else ''}"
    pair = f"{single}{' <s>:1' if bos else ''} $B:1{' </s>:1' if eos else ''}"
    framing = [("<s>", 1)] * bos + [("</s>", 2)] * eos
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=framing)
    return backend


def write_llama(folder: Path, kind: str) -> Tokenizer:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json; returns what tokenizer.json says."""
    fields = {"add_bos_token": True, "add_eos_token": False, "pad_token": None, "sp_model_kwargs": {}, **KINDS[kind]}
    normalized = fields.pop("normalized", False)
    backend = llama_backend(fields.pop("written", "legacy"), fields["add_bos_token"], fields["add_eos_token"])
    flags = {"lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False}
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    content = json.loads(backend.to_str())
    names = [*special.values(), *(INFILLING if fields.pop("infilling", False) else ())]
    ids = {**content["model"]["vocab"], **{t: len(content["model"]["vocab"]) + i for i, t in enumerate(names[3:])}}
    content["added_tokens"] = [{"id": ids[token], "content": token, **flags, "special": True} for token in names]
    if names[3:]:
        fields.update(
            zip(("prefix_token", "middle_token", "suffix_token", "eot_token"), INFILLING, strict=True),
            additional_special_tokens=list(INFILLING),
        )
    typed = {name: {"__type": "AddedToken", "content": token, **flags} for name, token in special.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (
        ("tokenizer.json", content),
        ("tokenizer_config.json", {"model_max_length": 4096, **typed, **fields}),
        ("special_tokens_map.json", {name: {"content": token, **flags} for name, token in special.items()}),
    ):
        (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def llama() -> PreTrainedTokenizerFast:
    """The pipeline of Llama 2, with the infilling tokens of Code Llama outside of the vocabulary."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=llama_backend(), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.add_special_tokens({"extra_special_tokens": list(INFILLING)})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
