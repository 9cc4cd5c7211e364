"""A numbered object in transit, and as the other side knows it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from operator import is_
from time import process_time
from types import GeneratorType
from typing import Any

from wire_containers import READ_BY_ID, attributes_of
from wire_limits import (
    FIRST_ITEMS,
    LARGEST_ITEMS,
    LONGEST_ITERATOR,
    LOOK,
    LOOK_AT_ATTRIBUTES,
    OF_ALL_OBJECTS,
    PROTOCOL,
    TAKING_SECONDS,
)


ITERATORS = ("iterator", "generator")


def as_text(parts: list) -> str:
    """JSON without the first bracket, so that a number can be put first."""
    return json.dumps(parts, separators=(",", ":"))[1:]


def take(iterator) -> list:
    """Whether an iterator may have more than the items that cross, and those items."""
    items, size, end = [], 0, process_time() + TAKING_SECONDS
    for item in iterator:
        size += sys.getsizeof(item, LOOK)
        over = len(items) >= LONGEST_ITERATOR or size > LARGEST_ITEMS
        if over or (len(items) >= FIRST_ITEMS and process_time() > end):
            return [True, *items]
        items.append(item)
    return [False, *items]


def generator(items: Iterator) -> Iterator:
    yield from items


def kind_of(kind: type, class_name: str | None) -> tuple[str, Callable[[Any], list]] | None:
    """What numbered objects of a class cross as, and how they are read; `None` for what is not a plain value."""
    if kind is GeneratorType:
        return "generator", take
    for base in kind.__mro__:
        if base is object and (class_name is None or issubclass(kind, BaseException)):
            break
        if id(base) in READ_BY_ID:
            return READ_BY_ID[id(base)]
    return ("iterator", take) if hasattr(kind, "__next__") else None


def can_more(kind: type) -> bool:
    """Whether the class of an iterator has methods that iterators in general lack."""
    of_all = OF_ALL_OBJECTS | {"__iter__", "__next__", "__copy__", "__deepcopy__"}
    names = {name for base in kind.__mro__ for name in base.__dict__}
    return kind is not GeneratorType and any(not name.startswith("_") or name in PROTOCOL - of_all for name in names)


def same(one: list, other: list) -> bool:
    """Whether two lists hold the same objects, or the same text and integers."""
    if len(one) != len(other):
        return False
    return all(map(is_, one, other)) or all(
        part is before or (type(part) is type(before) and type(part) in (str, int) and part == before)
        for part, before in zip(one, other, strict=True)
    )


class Node:
    """A numbered object in transit: what is encoded of it already, and what is still to come.

    Args:
        moving (`bool`): whether iterators in it whose items the other side has are sent along.
        read (`Callable`, *optional*): returns the items.
    """

    __slots__ = ("atoms", "attributes", "class_name", "items", "kind", "left", "moving", "number", "read")

    def __init__(self, number, kind, items, class_name=None, attributes=(), moving=True, read=None):
        self.number, self.kind, self.class_name, self.moving, self.read = number, kind, class_name, moving, read
        self.items, self.attributes, self.atoms = items, attributes, []
        self.left = chain(items, attributes)

    def text(self) -> str:
        """What a message says of the object, without its number, once its parts are encoded."""
        items = len(self.items)
        parts = [self.kind, self.atoms[:items]]
        if self.class_name is not None:
            parts += [self.class_name, self.atoms[items:]]
        return as_text(parts)


class Seen:
    """A container as the other side knows it.

    Args:
        kind (`type`): the class of the container.
        text (`int`): the hash of what was sent of it.
        atoms (`list`): the encoded form of its parts.
        node ([`Node`]): what it held then.
        turn (`int`): the message at which it was last found unchanged.
    """

    __slots__ = ("attributes", "cost", "deep", "items", "kind", "named", "read", "text", "turn")

    def __init__(self, kind: type, text: int, atoms: list, node: Node, turn: int):
        self.text = text
        self.deep = any(type(atom) is list for atom in atoms)  # whether it holds numbered objects
        self.confirm(kind, node, turn)

    def confirm(self, kind: type, node: Node, turn: int) -> None:
        """Records what is held now as what was sent."""
        self.kind, self.items, self.attributes, self.turn = kind, node.items, node.attributes, turn
        self.read, self.named = node.read, node.class_name is not None
        # bytes, which are encoded anew for every check, are among the first two items
        self.cost = (LOOK_AT_ATTRIBUTES if self.named else LOOK) + len(node.items)
        self.cost += sum(len(part) for part in node.items[:2] if type(part) is str)

    def matches(self, value: Any) -> bool:
        """Whether a container still holds the very same objects."""
        return (
            type(value) is self.kind
            and same(self.read(value), self.items)
            and (not self.named or same(attributes_of(value), self.attributes))
        )
