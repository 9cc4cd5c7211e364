"""The metadata at the top of a card, read and written so that what a user wrote there is preserved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from ..errors import ConfigurationError


METADATA = re.compile(r"\A\ufeff?\s*---[ \t]*\n(?P<data>.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
LONGEST = 10_000  # values; anchors can multiply them without end
BOOLEANS = {"true": True, "false": False}
OPTIONS = {"eval_results", "ignore_metadata_errors"}
KINDS = ("str", "null", "bool", "int", "float", "timestamp", "merge", "value")


class Plain(str):
    """A number, a date or the like that would not be written as the user wrote it: `1.10`, `2024-01-02`."""


def body_of(content: str) -> str:
    """A card without its metadata."""
    content = content.replace("\r\n", "\n")
    block = METADATA.match(content)
    return content.removeprefix("\ufeff") if block is None else content[block.end() :]


def metadata_of(content: str) -> dict[str, Any]:
    """The metadata of a card, as written: texts, numbers, booleans, `None`, lists and objects.

    Only `true` and `false` are booleans, so that the language `no` is one.

    Raises:
        [`ConfigurationError`]: they are not YAML, are not an object, or hold something that cannot be preserved.
    """
    block = METADATA.match(content.replace("\r\n", "\n"))
    try:
        node = None if block is None else yaml.compose(block["data"], yaml.SafeLoader)
        data = None if node is None else _value(node, [0])
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"the metadata at the top of a card are not YAML ({reason}); correct them") from None
    except RecursionError:
        raise ConfigurationError(
            "the metadata at the top of a card are nested too deeply to be kept; correct them"
        ) from None
    if not isinstance(data, (dict, type(None))):
        raise ConfigurationError("the metadata at the top of a card are not fields with values; correct them")
    return data or {}


def _value(node: yaml.Node, count: list[int]) -> Any:
    count[0] += 1
    if count[0] > LONGEST:
        raise ConfigurationError(
            f"the metadata at the top of a card hold more than {LONGEST:,} values, or one that contains itself, and"
            " cannot be kept; correct them"
        )
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_value(item, count) for item in node.value]
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return {_key(key): _value(value, count) for key, value in node.value}
    if isinstance(node, yaml.ScalarNode) and kind in KINDS:
        return _scalar(node, kind)
    raise ConfigurationError(
        f"the metadata at the top of a card hold a value of the kind {kind!r}"
        f" (line {node.start_mark.line + 2}), which cannot be kept; write it as a text, a list or an object"
    )


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigurationError(
            f"the metadata at the top of a card hold a field whose name is a list or an object (line"
            f" {node.start_mark.line + 2}), which cannot be kept; give it a name"
        )
    return node.value


def _scalar(node: yaml.ScalarNode, kind: str) -> Any:
    text = node.value
    if node.style is not None or kind == "str":
        return text
    if kind == "null":
        return None
    if kind == "bool":
        return BOOLEANS.get(text.lower(), text)
    if kind in ("int", "float") and re.fullmatch(r"-?\d{1,1000}(\.\d+(e[-+]\d+)?)?", text, re.ASCII):
        number = int(text) if kind == "int" else float(text)
        if written(number) == text:
            return number
    return Plain(text)


class Writer(yaml.SafeDumper):
    """Writes what [`metadata_of`] reads."""


def _represent_plain(writer: Writer, value: Plain) -> yaml.Node:
    return writer.represent_scalar(writer.resolve(yaml.ScalarNode, str(value), (True, False)), str(value))


def _represent_text(writer: Writer, value: str) -> yaml.Node:
    return writer.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


Writer.add_representer(Plain, _represent_plain)
Writer.add_representer(str, _represent_text)


def written(value: Any) -> str:
    """Values as YAML."""
    text = yaml.dump(value, Dumper=Writer, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip(" \n")  # of all that Python calls whitespace, YAML knows only these


def written_metadata(data: Mapping[str, Any]) -> str:
    """Metadata as at the top of a card.

    Raises:
        [`ConfigurationError`]: the Hub's library cannot read them.
    """
    from huggingface_hub import ModelCardData

    if taken := sorted(OPTIONS & data.keys()):
        raise ConfigurationError(
            f"the metadata at the top of a card have a field {taken[0]!r}, which is an option of the Hub's library and"
            " cannot be kept (scores go into model-index); rename it, or correct them"
        )
    text = written({field: value for field, value in data.items() if value is not None})
    try:
        ModelCardData(**yaml.safe_load(text)).to_dict()
    except (TypeError, ValueError, AttributeError, KeyError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(
            f"the metadata at the top of a card cannot be kept ({reason}); correct them"
        ) from None
    return text


class Whole(str):
    """Text that may hold HTML comments: our marked lines, and what the user wrote."""


def rendered(template: str, metadata: str, values: Mapping[str, Any]) -> str:
    """A card from its template. A value that looks like one of the marked lines is not mistaken for it.

    Args:
        metadata (`str`): see [`written_metadata`].
        values (`Mapping`): of the template; those of class [`Whole`] are kept unchanged, comments in others are not.
    """
    import jinja2

    def shown(value: Any) -> Any:
        return value.replace("<!--", "&lt;!--") if isinstance(value, str) and not isinstance(value, Whole) else value

    return jinja2.Template(template, finalize=shown).render(card_data=Whole(metadata), **values)
