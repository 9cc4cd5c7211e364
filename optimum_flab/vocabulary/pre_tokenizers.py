"""How byte-level tokenizers split text before they merge, by llama.cpp's names, and back.

llama.cpp has no regular expressions in its files, only names of those that it was built with, and a pruned tokenizer
splits text as the dense one did. So the name follows from the tokenizer's own first step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|{digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
MARKED = WORDS.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+{end}"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*{end}"
    r"|{digits}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ONE, THREE = r"\p{N}", r"\p{N}{1,3}"
# llama.cpp tells large from small letters of ASCII alone, and marks from letters even where the step above does not
CASES = {
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]": r"[\p{L}&&[^a-z]]",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]": r"[\p{L}&&[^A-Z]]",
}


def _with(pattern: str, digits: str, end: str = "") -> str:
    return pattern.replace("{digits}", digits).replace("{end}", end)


GPT2, SINGLE_DIGITS = "words of GPT-2", "single digits"
# what is done, step by step, and what llama.cpp calls it: where only the merges count, and where a piece that is a
# token is taken whole whatever the merges say (`ignore_merges`)
KNOWN: dict[tuple[str, ...], tuple[str | None, str | None]] = {
    (GPT2,): ("gpt-2", None),
    (SINGLE_DIGITS, GPT2): ("starcoder", None),
    (_with(WORDS, ONE),): ("qwen2", None),
    (_with(MARKED, ONE),): ("qwen35", None),
    (_with(WORDS, THREE),): ("dbrx", "llama-bpe"),
    (_with(CASED, THREE, CONTRACTIONS + "?"),): ("gpt-4o", None),
    (_with(CASED, ONE),): (None, "tekken"),
    (
        THREE,
        "[一-龥぀-ゟ゠-ヿ]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
        "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    ): ("deepseek-v3", None),
}
WORDS_OF_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PUNCTUATION = r"[\p{P}\$\+<=>\^~\|]+"
TRIPLE = "[0-9][0-9][0-9]"
EAST_ASIAN = r"[一-龥\x{800}-一가-\x{d7ff}&&\S]+"
LETTERS, SYMBOLS = r"\s?[\p{Lu}\p{Ll}\p{Lt}]+", r"\s?[!-/:-~！-／：-～‘-‟、-。]+"
PHRASES = r" ?[^(\s|.,!?…。，、।۔،)]+"
# what llama.cpp does under further names; the tokenizers that it does so for say it in other steps
READ: dict[str, tuple[str, ...]] = {
    "default": (PUNCTUATION, WORDS_OF_GPT2, r"\p{N}+", TRIPLE),
    "falcon": (PUNCTUATION.replace("]", "`]"), WORDS_OF_GPT2, TRIPLE),
    "deepseek-llm": (r"[\r\n]", LETTERS, SYMBOLS, r"\s+$", EAST_ASIAN, r"\p{N}+"),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN, ONE),
    "seed-coder": (_with(WORDS, ONE).replace(r"\p{N}]+[\r\n]*", r"\p{N}\r\n]+"),),
    "ufakzeka": (_with(WORDS, ONE).removeprefix(f"{CONTRACTIONS}|"),),
    "bloom": (PHRASES,),
    "viking": (PHRASES, ONE),
}
# other names of llama.cpp for the same step
ALIASES = {
    "gpt-2": (
        *("phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v1-en", "jina-v2-code", "roberta-bpe"),
        *("gigachat", "a.x-4.0", "mellum", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"),
        "modern-bert",
    ),
    "starcoder": ("refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"),
    "qwen2": (
        *("deepseek-r1-qwen", "stablelm2", "kormo", "megrez", "f2llmv2", "hunyuan", "solar-open", "grok-2"),
        *("bailingmoe", "bailingmoe2", "llada-moe"),
    ),
    "dbrx": ("smaug-bpe", "chatglm-bpe"),
    "llama-bpe": (
        *("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "glm4", "glm5"),
    ),
    "default": ("",),
    "bloom": ("poro-chat", "gpt3-finnish"),
    "gpt-4o": ("llama4", "kanana2", "talkie", "minimax-m2"),
    "deepseek-v3": ("hunyuan-dense", "joyai-llm", "hy_v4"),
}


def pre_tokenizer_of(name: str) -> tuple[dict[str, Any], bool] | None:
    """The entry `pre_tokenizer` of a `tokenizer.json` by llama.cpp's name, and `ignore_merges` of its model; `None`
    where it is not known here."""
    name = next((known for known, others in ALIASES.items() if name in others), name)
    found = next(((steps, names[1] == name) for steps, names in KNOWN.items() if name in names), None)
    steps, whole = found or (READ.get(name), False)
    if steps is None:
        return None
    parts = [*map(_part, steps)]
    if steps[-1] != GPT2:  # bytes become symbols in any case
        parts.append({**_part(GPT2), "use_regex": False})
    return {"type": "Sequence", "pretokenizers": parts}, whole


def _part(step: str) -> dict[str, Any]:
    if step == SINGLE_DIGITS:
        return {"type": "Digits", "individual_digits": True}
    if step == GPT2:
        return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    for own, other in CASES.items():
        step = step.replace(own, other)
    return {"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": False}


def name_of(pre_tokenizer: Mapping[str, Any] | None, whole_pieces: bool) -> str | None:
    """What llama.cpp calls a first step; `None` where it is not known here.

    Args:
        pre_tokenizer (`Mapping`, *optional*): the entry `pre_tokenizer` of a `tokenizer.json`.
        whole_pieces (`bool`): `ignore_merges` of its model.
    """
    return KNOWN.get(tuple(_steps(pre_tokenizer or {})), (None, None))[whole_pieces]


def _steps(node: Mapping[str, Any]) -> Iterator[str]:
    kind = node.get("type")
    if kind == "Sequence":
        for inner in node["pretokenizers"]:
            yield from _steps(inner)
    elif kind == "ByteLevel":
        if node.get("add_prefix_space"):
            yield "a space in front"
        if node.get("use_regex", True):
            yield GPT2
    elif kind == "Digits" and node.get("individual_digits"):
        yield SINGLE_DIGITS
    elif kind == "Split" and "Regex" in node["pattern"] and _leaves_pieces(node):
        yield node["pattern"]["Regex"]
    else:
        yield str(kind)


def _leaves_pieces(node: Mapping[str, Any]) -> bool:
    """Whether the matches and the text between them are pieces; if all text is matched, the latter may be dropped."""
    return (node.get("behavior"), bool(node.get("invert"))) in {("Isolated", False), ("Removed", True)}
