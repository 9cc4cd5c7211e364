"""Tokenizers trained on the spot, one of each kind."""

import json

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import GemmaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer


TRAINING_TEXTS = [
    "def return_value(items, index):\n    return items[index] if index < len(items) else None\n" * 3,
    "class Counter:\n    def __init__(self):\n        self.count = 0\n\n",
    "    def increment(self):\n        self.count += 1\n",
    "for number in range(100):\n        print(number, number * number)\n",
    "The quick brown fox jumps over the lazy dog. There and then they were there with the others.\n" * 3,
    "naïve café – Übergröße, größer; señor mañana 中文 中国 日本語 日本 привет приветствие мир\n" * 3,
    "import collections\nfrom itertools import chain\nimport itertools, functools\n\n\n\n",
]
CORPUS = [
    "def increment(items):\n    return items\n",
    "for item in range(10):\n        print(item)",
    "The lazy dog returns 中国 größer",
    "import itertools",
    "",
    "     \n\n\n\t",
]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] + '\\n' + message['content'] }}"
    "<|im_end|>\r\n{{ '\\n\\n' }}{% endfor %}"
)
PLACEHOLDERS = [f"<unused{index}>" for index in range(5)]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def trained(backend: Tokenizer, size: int, **options) -> Tokenizer:
    backend.train_from_iterator(TRAINING_TEXTS, trainers.BpeTrainer(vocab_size=size, show_progress=False, **options))
    return backend


def byte_level_backend(ignore_merges: bool = False, size: int = 500) -> Tokenizer:
    backend = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(
        backend, size, initial_alphabet=alphabet, special_tokens=["<|endoftext|>", "<|reserved_special_token_0|>"]
    )


def vocabulary_and_merges(backend: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def byte_level() -> PreTrainedTokenizerFast:
    """Special tokens inside and outside of the vocabulary, a post-processor with ids, a chat template."""
    backend = byte_level_backend()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    tokenizer.add_special_tokens(
        {"extra_special_tokens": ["<|im_start|>", "<|im_end|>", "<|reserved_special_token_1|>"]}
    )
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("items[", normalized=False)])
    bos, eos = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|endoftext|>"])
    template = processors.TemplateProcessing(
        single="<|im_start|> $A <|endoftext|>",
        pair="$A $B",
        special_tokens=[("<|im_start|>", bos), ("<|endoftext|>", eos)],
    )
    tokenizer.backend_tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), template]
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.model_max_length = 77
    tokenizer.padding_side = "left"
    return tokenizer


def ignore_merges() -> PreTrainedTokenizerFast:
    """Whole words are looked up before any merge is tried, and one of them no merge makes."""
    content = json.loads(byte_level_backend(ignore_merges=True).to_str())
    content["model"]["vocab"]["itertools"] = len(content["model"]["vocab"])  # merges are short of it
    backend = Tokenizer.from_str(json.dumps(content))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


def qwen() -> Qwen2Tokenizer:
    """A class that rebuilds its tokenizer when loaded, with NFC normalization."""
    vocabulary, merges = vocabulary_and_merges(byte_level_backend())
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def gemma() -> GemmaTokenizer:
    """The merges list all splits of a token in a row, so that the path to it can be another than the one learnt."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    learnt, _ = vocabulary_and_merges(trained(backend, 400))
    words = sorted((token for token in learnt if len(token) > 1), key=learnt.get)
    characters = sorted((token for token in learnt if len(token) == 1), key=learnt.get)
    tokens = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<mask>",
        *PLACEHOLDERS,
        "\n\n",
        "\n\n\n",
        *BYTES,
        *words,
        *characters,
    ]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    splits = [(word[:at], word[at:]) for word in words for at in range(1, len(word))]
    merges = [(left, right) for left, right in splits if left in vocabulary and right in vocabulary]
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=merges)
    tokenizer.add_tokens([AddedToken(token, special=True) for token in PLACEHOLDERS], special_tokens=True)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("\n\n", "\n\n\n")])
    tokenizer.add_bos_token = True
    return tokenizer


def tiktoken() -> PreTrainedTokenizerFast:
    """A regular expression cuts text into words before they are spelt in bytes, as in GPT-4."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}{1,7}|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trained(backend, 450, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|endoftext|>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


def word_ends() -> PreTrainedTokenizerFast:
    """Symbols for bytes, of which the last one of a word is marked, as in CLIP."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trained(
        backend,
        700,
        initial_alphabet=[*alphabet, *(f"{symbol}</w>" for symbol in alphabet)],
        end_of_word_suffix="</w>",
        special_tokens=["<unk>", "<end>"],
    )
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", unk_token="<unk>")


def characters() -> PreTrainedTokenizerFast:
    """A BPE of characters: what it has no token for is unknown."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trained(backend, 350, special_tokens=["<unk>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


def unigram() -> PreTrainedTokenizerFast:
    """As in T5: what it has no token for is unknown, and a space comes before the text."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=220, show_progress=False, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"
    )
    backend.train_from_iterator(TRAINING_TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.add_special_tokens({"extra_special_tokens": ["<extra_id_0>", "<unused1>"]})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def unigram_with_bytes() -> PreTrainedTokenizerFast:
    """What it has no token for is spelt in bytes; runs of spaces are tokens, and words are not cut from another."""
    learnt = dict(json.loads(unigram().backend_tokenizer.to_str())["model"]["vocab"])
    pieces = {token: score for token, score in learnt.items() if token not in ("<unk>", "</s>", "<pad>")}
    spaces = {"▁" * length: -3.0 - length for length in (2, 4, 8)}
    vocabulary = {"<unk>": 0.0, "</s>": 0.0, **dict.fromkeys(BYTES, -20.0), **pieces, **spaces}
    backend = Tokenizer(models.Unigram(list(vocabulary.items()), unk_id=0, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


def wordpiece() -> PreTrainedTokenizerFast:
    """As in BERT with capital letters; [unused1] is one of the model's own tokens, and not an added one."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, show_progress=False, special_tokens=["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]"]
    )
    backend.train_from_iterator(TRAINING_TEXTS, trainer)
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    content = json.loads(backend.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[unused1]"]
    backend = Tokenizer.from_str(json.dumps(content))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


MAKERS = {
    maker.__name__: maker
    for maker in (
        *(byte_level, ignore_merges, qwen, gemma, tiktoken, word_ends, characters),
        *(unigram, unigram_with_bytes, wordpiece),
    )
}
