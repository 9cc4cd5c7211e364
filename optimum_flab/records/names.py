"""Which files belong to a pruned model, by their names. Lightweight."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

from ..settings.files import CONFIG_NAME
from ..utils.places import FAMILY_NAME
from .paths import last_name
from .plan import PLAN_NAME, WEIGHTS_NAME
from .report import REPORT_NAME
from .results import EFFICIENCY_NAME, EVALUATION_NAME, EVALUATION_TABLE


CARD_NAME, PAGE_NAME = "README.md", "flab_report.html"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
# what `flab prune --gguf` writes beside the weights, or leaves where the quantiser failed; and what is beside it
KIND = r"([a-z0-9_]+|(?i:[0-9.]+[kmgt]?i?b))"  # of a GGUF file: its type, or its size
GGUF = re.compile(rf".+-pruned-{KIND}(-b?f(16|32))?\.gguf")
BESIDE_GGUF = re.compile(rf".+-pruned-{KIND}\.(imatrix|Modelfile)")
ADAPTER_FOLDER = "adapter"  # of a recovery, beside the weights
CHAT_TEMPLATES = "additional_chat_templates"
# what transformers and this package write at the top of the folder, besides results, licences and shards
FILES = frozenset(
    (
        *("config.json", "generation_config.json", "chat_template.jinja", "chat_template.json"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *(WEIGHTS, WEIGHTS_INDEX, REPORT_NAME, PLAN_NAME, WEIGHTS_NAME, CONFIG_NAME, FAMILY_NAME),
        *(CARD_NAME, PAGE_NAME),
    )
)
# other forms of a tokenizer, which may differ from its `tokenizer.json`; a pruned one has none of them
OTHER_TOKENIZERS = (
    *("tokenizer.model", "tiktoken.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json"),
    *("vocab.json", "merges.txt", "vocab.txt"),
)
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
# `flab_evaluation.json`, or the copies of several: `flab_evaluation-2.json`
RESULT = re.compile("|".join(rf"{re.escape(name[:-5])}(-\d+)?\.json" for name in (EVALUATION_NAME, EFFICIENCY_NAME)))
# of a licence or notice: the whole name, with the licence or its purpose, and a text suffix
LICENSE_FILE = re.compile(
    r"(licen[sc]e|notice|copying|use_policy)"
    r"([-_.](apache|mit|bsd|isc|mpl|[al]?gpl|cc|openrail|gemma|llama|code|model|weights|data)([-_.]?v?\d[\d.]*)?)?"
    r"(\.(txt|md|rst|pdf|html))?",
    re.IGNORECASE,
)
# what nobody means to publish
SECRET = re.compile(
    r"id_(rsa|dsa|ecdsa|ed25519).*|.*passw(or)?d.*|.*\.(pem|key|p12|pfx|keystore|kdbx)|(.*[-_.])?token(\.txt|\.json)?"
    r"|secrets?(\..*)?|credentials?(\..*)?|\.env(\..*)?|[._](netrc|pypirc|npmrc|git-credentials|htpasswd)",
    re.IGNORECASE,
)


def is_secret(name: str) -> bool:
    """Whether a file of this name, by its path, looks like a key, password or token."""
    return SECRET.fullmatch(name.rpartition("/")[2]) is not None


def is_result(name: str) -> bool:
    """Whether a file of this name holds an evaluation or efficiency."""
    return RESULT.fullmatch(name) is not None


def is_license_file(name: str) -> bool:
    """Whether a file of this name holds a licence or a notice: `LICENSE-MIT` and `notice.txt` do, `license.key` and
    `LICENSE_PASSWORD.txt` do not."""
    return LICENSE_FILE.fullmatch(name) is not None


def gguf_name(model: str, kind: str) -> str:
    """The name of a GGUF file beside the weights of a pruned model.

    Args:
        model (`str`): what the dense model is called.
        kind (`str`): the number format, or a size.
    """
    return f"{last_name(model)}-pruned-{kind.replace(' ', '')}.gguf"


def belongs_to_model(name: str) -> bool:
    """Whether a file is part of a pruned model, and published with it, by its path in the folder; weights are those
    that the index names."""
    own = name in FILES or is_result(name) or is_license_file(name) or fnmatch(name, f"{CHAT_TEMPLATES}/*.jinja")
    return own or BESIDE_GGUF.fullmatch(name) is not None


def belonged_to_model(name: str) -> bool:
    """Whether a file of this name, in a repository that holds a pruned model, was part of an earlier one, where the
    new one has no such file."""
    own = name in FILES or is_result(name) or any(kind.fullmatch(name) for kind in (SHARD, GGUF, BESIDE_GGUF))
    return own or name in OTHER_TOKENIZERS or name == EVALUATION_TABLE


def is_replaceable(path: Path) -> bool:
    """Whether a file or folder at the top of a pruned model's folder may be replaced with it, by its name."""
    if path.is_dir():
        is_unfinished = path.suffix == ".partial" and GGUF.fullmatch(path.stem) is not None
        return path.name in (ADAPTER_FOLDER, CHAT_TEMPLATES) or is_unfinished
    return belongs_to_model(path.name) or belonged_to_model(path.name)
