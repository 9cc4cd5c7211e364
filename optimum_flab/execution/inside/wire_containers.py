"""Containers and instances: how each is read, made and updated."""

from __future__ import annotations

import builtins
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from types import MemberDescriptorType
from typing import Any, NamedTuple

from wire_arrays import array_from, array_parts, fill_array
from wire_scalars import SCALARS


class Container(NamedTuple):
    """A class of containers that can be changed.

    Args:
        read (`Callable`): the content as a flat list.
        fill (`Callable`): gives a container that content.
        make (`Callable`): makes a container for that content, of the class or one derived from it.
    """

    read: Callable[[Any], list]
    fill: Callable[[Any, list], None]
    make: Callable[[type, list], Any]


def _flat(pairs: Iterable[tuple[Any, Any]]) -> list:
    return [part for pair in pairs for part in pair]


def _pairs(items: list) -> Iterator[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)


def _read_items(kind: type) -> Callable[[Any], list]:
    return lambda value: [*kind.__iter__(value)]


def _read_pairs(kind: type) -> Callable[[Any], list]:
    return lambda value: _flat(kind.items(value))


def _fill_pairs(kind: type) -> Callable[[Any, list], None]:
    def fill(value, items):
        kind.clear(value)
        for key, item in _pairs(items):
            kind.__setitem__(value, key, item)

    return fill


def _fill_set(value, items):
    set.clear(value)
    set.update(value, items)


def _make_deque(kind, items):
    made = deque.__new__(kind)
    deque.__init__(made, (), items[0])
    return made


def _fill_deque(value, items):
    if items[0] != deque.maxlen.__get__(value):
        raise ValueError("the maximum length of a deque cannot change")
    deque.clear(value)
    deque.extend(value, items[1:])


def _fill_defaultdict(value, items):
    defaultdict.default_factory.__set__(value, items[0])
    _fill_pairs(dict)(value, items[1:])


CONTAINERS: dict[type, Container] = {
    list: Container(
        _read_items(list),
        lambda value, items: list.__setitem__(value, slice(None), items),
        lambda kind, _: list.__new__(kind),
    ),
    set: Container(_read_items(set), _fill_set, lambda kind, _: set.__new__(kind)),
    bytearray: Container(
        lambda value: [memoryview(value).hex()],
        lambda value, items: bytearray.__setitem__(value, slice(None), bytes.fromhex(*items)),
        lambda kind, _: bytearray.__new__(kind),
    ),
    dict: Container(_read_pairs(dict), _fill_pairs(dict), lambda kind, _: dict.__new__(kind)),
    Counter: Container(_read_pairs(dict), _fill_pairs(dict), lambda kind, _: dict.__new__(kind)),
    OrderedDict: Container(
        _read_pairs(OrderedDict), _fill_pairs(OrderedDict), lambda kind, _: OrderedDict.__new__(kind)
    ),
    defaultdict: Container(
        lambda value: [defaultdict.default_factory.__get__(value), *_flat(dict.items(value))],
        _fill_defaultdict,
        lambda kind, _: defaultdict.__new__(kind),
    ),
    deque: Container(lambda value: [deque.maxlen.__get__(value), *deque.__iter__(value)], _fill_deque, _make_deque),
    # an instance of a class of the prompt: nothing but its attributes
    object: Container(lambda value: [], lambda value, items: None, lambda kind, _: object.__new__(kind)),
}
# what never changes is made from its items once they are there
FIXED: dict[type, Callable[[type, list], Any]] = {
    tuple: tuple.__new__,
    frozenset: frozenset.__new__,
    type({}.keys()): lambda _, items: dict.fromkeys(items).keys(),
    type({}.values()): lambda _, items: dict(enumerate(items)).values(),
    type({}.items()): lambda _, items: {key: item for key, item in items}.items(),  # noqa: C416 - pairs, nothing else
}
FIXED_BY_NAME: dict[str, tuple[type, Callable[[type, list], Any]]] = {
    **{kind.__name__: (kind, make) for kind, make in FIXED.items()},
    "nan": (float, lambda *_: float("nan")),  # equal to nothing, not even to itself: another is not the same
}
CONTAINERS_BY_NAME: dict[str, tuple[type, Container]] = {
    **{kind.__name__: (kind, container) for kind, container in CONTAINERS.items()},
    "ndarray": (object, Container(array_parts, fill_array, lambda _, parts: array_from(parts))),
}
CLASSES_BY_NAME: dict[str, type] = {kind.__name__: kind for kind in (*FIXED, *CONTAINERS)}
# classes that cross by name: what a `defaultdict` calls, and answers to "which type is it?"
TYPES_BY_NAME: dict[str, type] = {kind.__name__: kind for kind in (*SCALARS, *CONTAINERS)} | {
    name: kind for name, kind in vars(builtins).items() if isinstance(kind, type) and name == kind.__name__
}
READ_BY_ID: dict[int, tuple[str, Callable[[Any], list]]] = {
    **{id(kind): (kind.__name__, _read_items(kind)) for kind in FIXED},
    **{id(kind): (kind.__name__, container.read) for kind, container in CONTAINERS.items()},
}


def attributes_of(value: Any) -> list:
    """Names and values of an instance's own attributes, alternating."""
    found = []
    for kind in type(value).__mro__:
        for name, member in [*kind.__dict__.items()]:
            if type(member) is MemberDescriptorType:  # of __slots__
                try:
                    found += [name, member.__get__(value)]
                except AttributeError:
                    continue
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return found
    return found + _flat((name, item) for name, item in [*own.items()] if is_own(name))


def is_own(name: Any) -> bool:
    """Whether a name is one that a class gives its instances, and not one that Python uses internally."""
    return type(name) is str and not (name.startswith("__") and name.endswith("__"))


def set_attributes(value: Any, items: list) -> None:
    """Gives an instance exactly these attributes, without running code of its class.

    A name for which the class has a method or a property keeps it.
    """
    wanted = dict(_pairs(items))
    of_class = {name: member for kind in reversed(type(value).__mro__) for name, member in kind.__dict__.items()}
    for name, member in of_class.items():
        if type(member) is MemberDescriptorType:
            if name in wanted:
                member.__set__(value, wanted[name])
            else:
                try:
                    member.__delete__(value)
                except AttributeError:
                    continue
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return
    own.clear()
    own.update(
        (name, item)
        for name, item in wanted.items()
        if is_own(name) and not hasattr(type(of_class.get(name)), "__get__")
    )
