"""Tokenizers trained on the spot: byte-level BPE, and SentencePiece-style BPE with byte fallback."""

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
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


MAKERS = {maker.__name__: maker for maker in (byte_level, ignore_merges, qwen, gemma)}
