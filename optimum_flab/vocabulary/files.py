"""A tokenizer that its files reproduce, whichever version of transformers reads them."""

from __future__ import annotations

import copy
import json
import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..utils.errors import FlabError
from .usage import whole_texts


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Texts on which tokenizers disagree that were rebuilt by other rules: spaces at the edges, scripts, accents, numbers.
SAMPLES = (
    "The quick brown fox doesn't jump over 1234 lazy dogs.",
    "def add(a, b):\n    return a + b  # sum\n",
    "    if x == 0:\n\t\treturn None\n\n\nclass A(B):\n    pass",
    " one space in front",
    "  two spaces in front",
    "two behind  ",
    " ",
    "   \n  ",
    "\n\n",
    "\tTab",
    "snake_case CamelCase ALLCAPS x2y3 0x1F 3.14159",
    "a  b   c    d",
    "▁lower one eighth block",
    "Übergröße naïve café",
    "cafe\N{COMBINING ACUTE ACCENT}",
    "中文 日本語 한국어",
    "Привет, мир! مرحبا नमस्ते",
    "🙂👩‍💻 \N{ZERO WIDTH SPACE}x",
    "<0x41><|x|>[y]",
    'print(f"{a!r:>{w}}", end="")',
)
# What both versions of transformers call a tokenizer that is defined entirely by its tokenizer.json
OLDER_CLASS = "PreTrainedTokenizerFast"
# Settings of the class that a tokenizer was loaded as; the class that is written may have others.
SETTINGS = ("padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces")
# What transformers notes for itself about where a tokenizer came from.
PROVENANCE = ("backend", "is_local", "local_files_only", "model_specific_special_tokens")


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path, older: bool = True) -> None:
    """Writes a fast tokenizer so that transformers 4.57 and 5 load it unchanged.

    It is named a `PreTrainedTokenizerFast`, which both know and which takes `tokenizer.json` at its word. Most other
    classes rebuild parts of it when they are loaded, by rules that are not the same in both.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): a fast tokenizer of any class; left as it is.
        folder (`str` or `Path`): where to write `tokenizer.json`, `tokenizer_config.json` and chat templates.
        older (`bool`): whether transformers 4 may load it. It must not beside a model that it would take for another:
            the class is then given the name that only version 5 uses.
    """
    tokenizer.save_pretrained(folder)
    file = Path(folder, "tokenizer_config.json")
    config = json.loads(file.read_text(encoding="utf-8"))
    for name in PROVENANCE:
        config.pop(name, None)
    # transformers 4 has one name for a list of special tokens and another for those that have names of their own
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    named = set(tokenizer.special_tokens_map).difference(type(tokenizer).SPECIAL_TOKENS_ATTRIBUTES)
    if named:
        config["extra_special_tokens"] = {name: tokenizer.special_tokens_map[name] for name in sorted(named)}
    # transformers 4 overrides the pre-tokenizer with this setting, and takes it as false where it is missing
    pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    state = {} if pre_tokenizer is None else json.loads(pre_tokenizer.__getstate__())
    if "add_prefix_space" in state:
        config["add_prefix_space"] = state["add_prefix_space"]
    elif config.get("add_prefix_space") is None:
        config.pop("add_prefix_space", None)
    config.update({name: getattr(tokenizer, name) for name in SETTINGS})
    # version 5 does not do this to the spaces of a BPE, whatever the setting; version 4 would
    if type(tokenizer.backend_tokenizer.model).__name__ == "BPE":
        config["clean_up_tokenization_spaces"] = False
    config["tokenizer_class"] = OLDER_CLASS if older else "TokenizersBackend"
    write_json(file, config)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Writes an object as transformers does."""
    file.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def load_saved(like: PreTrainedTokenizerBase, folder: str | Path, model_type: str | None) -> PreTrainedTokenizerBase:
    """Loads what [`save_tokenizer`] wrote, as any user will.

    Args:
        like (`PreTrainedTokenizerBase`): the tokenizer whose name and chat template it has.
        folder (`str` or `Path`): a temporary folder.
        model_type (`str`, *optional*): of the model beside it, by which transformers may choose another class than
            the files name.
    """
    from transformers import AutoTokenizer, __version__

    if model_type is not None:
        write_json(Path(folder, "config.json"), {"model_type": model_type, "transformers_version": __version__})
    new = AutoTokenizer.from_pretrained(folder)
    new.name_or_path = like.name_or_path
    if "name_or_path" in like.init_kwargs:
        new.init_kwargs["name_or_path"] = like.init_kwargs["name_or_path"]
    else:
        new.init_kwargs.pop("name_or_path", None)
    new.chat_template = copy.deepcopy(like.chat_template)  # reading a file turns its line ends into \n
    return new


def reload_tokenizer(
    tokenizer: PreTrainedTokenizerBase, name: str, model_type: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer as loaded back from its files: what is counted and measured must be what is loaded later.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): a fast tokenizer; left as it is.
        name (`str`): what to call its model in errors.
        model_type (`str`, *optional*): of the model that it belongs to.

    Returns:
        `PreTrainedTokenizerBase`: one with the same `tokenizer.json`, special tokens, template and settings.

    Raises:
        [`FlabError`]: transformers makes a different tokenizer from these files; says what it changes.
    """
    new = _saved_and_loaded(tokenizer, model_type)
    if changed := differences(tokenizer, new):
        effects = _effects(tokenizer, new) or "tokenises all sample texts as before"
        raise FlabError(
            f"transformers loads the tokenizer of {name!r} as {type(new).__name__}, which changes its"
            f" {', '.join(changed)} and {effects}; save tokenizer and model to one folder, load both from there, and"
            " prune those"
        )
    return new


def read_stated(loaded: PreTrainedTokenizerBase, name_or_path: str, **options: Any) -> PreTrainedTokenizerBase:
    """A tokenizer as its files state it, with the settings and special tokens of the class that it was loaded as.

    Args:
        loaded (`PreTrainedTokenizerBase`): the tokenizer of `name_or_path`, of the class that transformers chooses.
        name_or_path (`str`): a folder or Hub id with `tokenizer.json` or a SentencePiece model.
        options: others of `from_pretrained`.
    """
    from transformers import PreTrainedTokenizerFast

    options |= {setting: getattr(loaded, setting) for setting in SETTINGS}
    # <FILL_ME> is what the code of CodeLlamaTokenizer replaces with a suffix; the model has no row for it
    stated = PreTrainedTokenizerFast.from_pretrained(name_or_path, fill_token=None, **options)
    stated.init_kwargs.pop("fill_token")
    known = stated.get_added_vocab()
    for token in type(loaded).SPECIAL_TOKENS_ATTRIBUTES:
        if getattr(stated, token) is None and getattr(loaded, token) in known:
            setattr(stated, token, getattr(loaded, token))
    return stated


def choose_tokenizer(
    loaded: PreTrainedTokenizerBase | None, stated: PreTrainedTokenizerBase, name: str, model_type: str
) -> tuple[PreTrainedTokenizerBase, str | None]:
    """Settles a tokenizer that transformers may load differently from what its files state.

    The tokens that the files state are those that the model learnt; they are kept wherever transformers will load what
    we write unchanged.

    Args:
        loaded (`PreTrainedTokenizerBase`, *optional*): of the class that transformers chooses. Defaults to what it
            makes of the other one.
        stated (`PreTrainedTokenizerBase`): as its files state it, from [`read_stated`].
        name (`str`): what to call the model in errors.
        model_type (`str`): of the model.

    Returns:
        `tuple[PreTrainedTokenizerBase, str | None]`: the tokenizer, and what the user should be told.

    Raises:
        [`FlabError`]: whatever is written, transformers loads another one, which cannot spell the texts.
    """
    new = _saved_and_loaded(stated, model_type)
    loaded = loaded or new
    effects, class_name = _effects(stated, loaded), type(loaded).__name__
    if differences(stated, new):
        what = f"whatever its files say, transformers loads the tokenizer of a {model_type} model as {class_name}"
        if lost := _read_back_otherwise(stated, loaded):
            raise FlabError(
                f"{what}: that of {name!r} then does not reproduce {len(lost)} of {len(sample_texts(stated))} sample"
                f" texts ({lost[0]!r}); no checkpoint of this model works with this version of transformers"
            )
        # no name: notes go to the Hub, and a name can be a path of this machine
        note = f"{what}, which {effects}; what it loads is counted, measured and written"
        return reload_tokenizer(loaded, name, model_type), note if effects else None
    note = (
        f"transformers would load the tokenizer as {class_name}, which {effects}; it is read and written as its files"
        " say"
    )
    return new, note if effects else None


def _saved_and_loaded(tokenizer: PreTrainedTokenizerBase, model_type: str | None) -> PreTrainedTokenizerBase:
    with TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, folder)
        return load_saved(tokenizer, folder, model_type)


def differences(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> list[str]:
    """The parts of `tokenizer.json` in which two fast tokenizers differ."""
    before, after = (side.backend_tokenizer.to_str() for side in (one, other))
    return [] if before == after else json_differences(json.loads(before), json.loads(after))


def json_differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The parts in which two `tokenizer.json` differ."""
    parts = [part for part in one if part != "model" and one[part] != other.get(part)]
    model, other_model = one["model"], other["model"]
    return parts + [f"model.{part}" for part in model if model[part] != other_model.get(part)]


def sample_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Short texts of many kinds, some with the special tokens of a tokenizer between words."""
    specials = list(dict.fromkeys(tokenizer.all_special_tokens))[:4]
    return [*SAMPLES, *(f"a {token} b{token}c" for token in specials)]


def cut_differently(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> list[str]:
    """Those of [`sample_texts`] that two tokenizers of one vocabulary split into different tokens."""
    texts = sample_texts(one)
    before, after = (_pieces(side, texts) for side in (one, other))
    return [text for text, pieces, others in zip(texts, before, after, strict=True) if pieces != others]


def _read_back_otherwise(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> list[str]:
    """Those of [`sample_texts`] that a tokenizer decodes differently from the first one, Unicode composition aside."""

    def back(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
        backend = tokenizer.backend_tokenizer
        with whole_texts(backend):
            return unicodedata.normalize("NFC", backend.decode(backend.encode(text).ids))

    return [text for text in sample_texts(one) if back(one, text) != back(other, text)]


def _effects(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str:
    """What another tokenizer does to text that the first one does not; empty if it tokenises the samples alike."""
    cut, added = cut_differently(one, other), sorted(set(other.get_vocab()).difference(one.get_vocab()))
    effects = (
        [f"tokenises {len(cut)} of {len(sample_texts(one))} sample texts differently ({cut[0]!r})"] if cut else []
    )
    return " and ".join([*effects, *([f"adds {', '.join(map(repr, added))}"] if added else [])])


def _pieces(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[str]]:
    with whole_texts(tokenizer.backend_tokenizer):
        return [encoding.tokens for encoding in tokenizer.backend_tokenizer.encode_batch(texts)]
