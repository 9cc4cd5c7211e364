"""How values cross between the process that runs a program and the one that judges it.

Runs inside the sandbox, from its own folder and with the standard library alone.

What arrives is made anew from plain data, so that nothing a program defines (`__eq__`, `__hash__`, a class that claims
to be `int`) has a say in a comparison. Containers are numbered: both sides keep a table of those that both still hold,
so that one that comes back is the same object, that one held twice is one, and that what either side changes in place
is changed for the other. What is no plain value stays where it is and is named by its number.

A message is JSON with the keys of a request or an answer and

- `values`: what crosses. `[7]` is the object numbered 7, `{"tag": body}` a scalar that JSON has not;
- `heap`: the numbered objects that are new to the other side or have changed, `[number, kind, items]`, and behind that
  the name of a class of the prompt and its attributes; what an item needs in order to be hashed comes before it;
- `dropped`: numbers of objects that this side does not hold any more;
- `reduced`: a class of which instances have crossed as what it is derived from, or without methods that they have, if
  there is one;
- `late`: whether a change was found that an earlier message should have told, `partial`: whether there may be such.

Whatever both sides hold is looked at for changes with every message, which costs time with everything that they hold.
A side does that for `LOOKS` items altogether. From then on it looks at what can be reached from the values of the
message alone, and says so; a last message in which it looks at everything tells whether a change was missed.
"""

from __future__ import annotations

import builtins
import json
import math
import os
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from importlib import import_module
from itertools import chain
from operator import is_
from time import process_time
from types import GeneratorType, MemberDescriptorType
from typing import Any, NamedTuple


# loaded once in a sandbox; a program must not supply them where a test forgot to import one
COMMON_MODULES = """bisect collections copy datetime decimal fractions functools heapq itertools json math operator os
random re statistics string sys typing""".split()
LARGEST_FRAME = 32 << 20  # bytes
LONGEST_ITERATOR = 100_000  # items taken from an iterator that crosses
LARGEST_ITEMS = 16 << 20  # bytes of these, after which no more are taken
FIRST_ITEMS, TAKING_SECONDS = 1_000, 1.0  # of processor time, after which no more than the first are taken
LONGEST_NAME = 100  # characters of the name of a class
LONGEST_TEXT = 2000  # characters of an exception
LOOKS = 15_000_000  # items of containers, in all messages of a side; about a third of a second
LOOK, LOOK_AT_ATTRIBUTES = 20, 100  # of these, for a container, and for one with attributes, whatever its size
LONG_MESSAGE = 10_000  # bytes; what came with such a one may come again, and is not forgotten before the next
SMALL_TABLE = 1_000  # objects that are gone through with every message for those that can be forgotten
# methods that Python calls by itself and `hasattr` may ask for; all objects have some of them
PROTOCOL = frozenset(
    f"__{name}__"
    for name in """call eq ne lt le gt ge bool len iter next reversed contains getitem setitem delitem hash int float
    complex index str repr format bytes add radd iadd sub rsub mul rmul matmul truediv rtruediv floordiv rfloordiv mod
    rmod divmod rdivmod pow rpow and rand or ror xor rxor lshift rlshift rshift rrshift neg pos abs invert round trunc
    floor ceil enter exit instancecheck subclasscheck copy deepcopy reduce_ex delattr dir fspath""".split()
)
OF_ALL_OBJECTS = PROTOCOL & {*dir(object)}
_LONG_INTEGER = 1_000  # bits; longer ones cross in hexadecimal, for which Python has no limit of digits
_NUMPY_KINDS = "biufc"  # of arrays that are nothing but their bytes: booleans, numbers


class Closed(Exception):
    """The other side is gone, or does not speak the protocol any more."""


# --- bytes ---------------------------------------------------------------------------------------------------------


def send(descriptor: int, body: bytes) -> None:
    """Writes one message: four bytes of length, then the message."""
    data = memoryview(len(body).to_bytes(4, "big") + body)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except (OSError, OverflowError) as error:
        raise Closed("gone") from error


def receive(descriptor: int) -> bytes:
    """Reads one message.

    Raises:
        `Closed`: the end of the stream, or a message that is too long.
    """
    size = int.from_bytes(_read(descriptor, 4), "big")
    if size > LARGEST_FRAME:
        raise Closed(f"an answer of {size:,} bytes is too large")
    return _read(descriptor, size)


def _read(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        try:
            part = os.read(descriptor, min(size, 1 << 20))
        except OSError as error:
            raise Closed("gone") from error
        if not part:
            raise Closed("gone")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# --- scalars -------------------------------------------------------------------------------------------------------


def _itself(value):
    return value


def _integer(value):
    value = int.__int__(value)
    return value if value.bit_length() <= _LONG_INTEGER else {"int": hex(value)}


def _float(value):
    value = float.__float__(value)
    return value if value - value == 0 else {"float": repr(value)}


def _zone(zone: tzinfo | None, value: datetime | time) -> Any:
    """What is said of a time zone: its key, or its distance from UTC and its name if it has one."""
    if zone is None:
        return None
    if sys.modules.get("zoneinfo") is not None and type(zone) is sys.modules["zoneinfo"].ZoneInfo and zone.key:
        return zone.key
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()
        return [offset // _MICROSECOND, *name]
    offset = value.utcoffset()
    return None if offset is None else [offset // _MICROSECOND]


def _zone_from(body: Any) -> tzinfo | None:
    if body is None or type(body) is str:
        return body and import_module("zoneinfo").ZoneInfo(body)
    offset, *name = body
    return timezone(offset * _MICROSECOND, *name)


_MICROSECOND = timedelta(microseconds=1)
SCALARS: dict[type, Callable[[Any], Any]] = {
    type(None): _itself,
    bool: _itself,
    int: _integer,
    float: _float,
    str: str.__str__,
    bytes: lambda value: {"bytes": bytes.hex(value)},
    complex: lambda value: {"complex": [repr(value.real), repr(value.imag)]},
    range: lambda value: {"range": [hex(value.start), hex(value.stop), hex(value.step)]},
    Decimal: lambda value: {"Decimal": Decimal.__str__(value)},
    Fraction: lambda value: {"Fraction": Fraction.__str__(value)},
    date: lambda value: {"date": date.isoformat(value)},
    datetime: lambda value: {
        "datetime": [
            f"{date.isoformat(value)}T{time.isoformat(datetime.time(value))}",
            value.fold,
            _zone(value.tzinfo, value),
        ]
    },
    time: lambda value: {
        "time": [time.isoformat(time.replace(value, tzinfo=None)), value.fold, _zone(value.tzinfo, value)]
    },
    timedelta: lambda value: {"timedelta": [value.days, value.seconds, value.microseconds]},
    type(...): lambda value: {"singleton": "Ellipsis"},
    type(NotImplemented): lambda value: {"singleton": "NotImplemented"},
}
_MAKE_SCALAR: dict[str, Callable[[Any], Any]] = {
    "int": lambda body: int(body, 16),
    "float": float,
    "bytes": bytes.fromhex,
    "complex": lambda body: complex(*map(float, body)),
    "range": lambda body: range(*(int(part, 16) for part in body)),
    "Decimal": Decimal,
    "Fraction": Fraction,
    "date": date.fromisoformat,
    "datetime": lambda body: datetime.fromisoformat(body[0]).replace(fold=body[1], tzinfo=_zone_from(body[2])),
    "time": lambda body: time.fromisoformat(body[0]).replace(fold=body[1], tzinfo=_zone_from(body[2])),
    "timedelta": lambda body: timedelta(*body),
    "singleton": {"Ellipsis": ..., "NotImplemented": NotImplemented, "nan": math.nan}.__getitem__,
    "type": lambda body: _TYPES[body],
    "numpy": lambda body: _array(body)[()],
}


# --- numbered objects ----------------------------------------------------------------------------------------------


class Container(NamedTuple):
    """A class of containers that can be changed.

    Args:
        read (`Callable`): the content as a flat list.
        fill (`Callable`): brings a container to that content.
        make (`Callable`): a container of a class, the given one or derived from it, for that content.
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
        raise ValueError("the greatest length of a deque does not change")
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
_MAKE_FIXED = {kind.__name__: (kind, make) for kind, make in FIXED.items()}
_MAKE_FIXED["nan"] = (float, lambda *_: float("nan"))  # equal to nothing, not even to itself: another is not the same
_CONTAINERS = {kind.__name__: (kind, container) for kind, container in CONTAINERS.items()}
_CLASSES: dict[str, type] = {kind.__name__: kind for kind in (*FIXED, *CONTAINERS)}
ITERATORS = ("iterator", "generator")
# classes that cross by their name: what a `defaultdict` calls, and answers to "of which type is it?"
_TYPES: dict[str, type] = {kind.__name__: kind for kind in (*SCALARS, *CONTAINERS)} | {
    name: kind for name, kind in vars(builtins).items() if isinstance(kind, type) and name == kind.__name__
}
# looked up by identity: the classes of a program may have a metaclass that says otherwise
_SCALAR_BY_ID = {id(kind): encode for kind, encode in SCALARS.items()}
_READ_BY_ID: dict[int, tuple[str, Callable[[Any], list]]] = {
    **{id(kind): (kind.__name__, _read_items(kind)) for kind in FIXED},
    **{id(kind): (kind.__name__, container.read) for kind, container in CONTAINERS.items()},
}


def attributes_of(value: Any) -> list:
    """Names and values of an instance's own attributes, one after the other."""
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
    """Whether a name is one that a class gives its instances, and not one of Python's for its own ends."""
    return type(name) is str and not (name.startswith("__") and name.endswith("__"))


def set_attributes(value: Any, items: list) -> None:
    """Gives an instance these attributes and no others, without running code of its class.

    A name for which the class has a method or a property keeps that.
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


# --- numpy, where it is allowed ------------------------------------------------------------------------------------


def _is_numpy(kind: type, name: str) -> bool:
    """Whether a class is numpy's own of that name: `ndarray`, or `generic` with the classes of all scalars."""
    numpy = sys.modules.get("numpy") if kind.__module__ == "numpy" else None
    if numpy is None or name not in ("ndarray", "generic"):
        return False
    return kind is numpy.ndarray if name == "ndarray" else issubclass(kind, numpy.generic)


def _array_parts(value) -> list | None:
    """Format, bytes and sizes of an array or a scalar; `None` where it is more than its bytes."""
    if value.dtype.kind not in _NUMPY_KINDS:
        return None
    return [value.dtype.str, value.tobytes().hex(), *map(int, value.shape)]


def _array(parts: list) -> Any:
    """A new array from such parts."""
    numpy, (form, data, *sizes) = import_module("numpy"), parts
    if numpy.dtype(form).kind not in _NUMPY_KINDS:
        raise ValueError("an array of objects")
    return numpy.frombuffer(bytes.fromhex(data), form).reshape(sizes).copy()


def _fill_array(value, parts):
    made = _array(parts)
    if made.shape != value.shape or made.dtype != value.dtype:
        raise ValueError("the sizes of an array do not change")
    value[...] = made


_CONTAINERS["ndarray"] = (object, Container(_array_parts, _fill_array, lambda _, parts: _array(parts)))


# --- the two ends --------------------------------------------------------------------------------------------------


def _references(table: dict[int, Any], number: int) -> int:
    return sys.getrefcount(table[number])


_ALONE = _references({0: object()}, 0)  # references to an object that nothing but the table holds


def _text(parts: list) -> str:
    """JSON without the first bracket, which a number goes before."""
    return json.dumps(parts, separators=(",", ":"))[1:]


def _take(iterator) -> list:
    """Whether an iterator may have more than the items that cross, and these."""
    items, size, end = [], 0, process_time() + TAKING_SECONDS
    for item in iterator:
        size += sys.getsizeof(item, LOOK)
        over = len(items) >= LONGEST_ITERATOR or size > LARGEST_ITEMS
        if over or (len(items) >= FIRST_ITEMS and process_time() > end):
            return [True, *items]
        items.append(item)
    return [False, *items]


def _generator(items: Iterator) -> Iterator:
    yield from items


def _kind_of(kind: type, class_name: str | None) -> tuple[str, Callable[[Any], list]] | None:
    """What numbered objects of a class cross as, and how they are read; `None` for what is no plain value."""
    if kind is GeneratorType:
        return "generator", _take
    for base in kind.__mro__:
        if base is object and (class_name is None or issubclass(kind, BaseException)):
            break
        if id(base) in _READ_BY_ID:
            return _READ_BY_ID[id(base)]
    return ("iterator", _take) if hasattr(kind, "__next__") else None


def _can_more(kind: type) -> bool:
    """Whether the class of an iterator has methods that iterators as such have not."""
    of_all = OF_ALL_OBJECTS | {"__iter__", "__next__", "__copy__", "__deepcopy__"}
    names = {name for base in kind.__mro__ for name in base.__dict__}
    return kind is not GeneratorType and any(not name.startswith("_") or name in PROTOCOL - of_all for name in names)


def _same(one: list, other: list) -> bool:
    """Whether two lists hold the same objects, or the same text and integers."""
    if len(one) != len(other):
        return False
    return all(map(is_, one, other)) or all(
        part is before or (type(part) is type(before) and type(part) in (str, int) and part == before)
        for part, before in zip(one, other, strict=True)
    )


class Node:
    """A numbered object on its way: what is encoded of it, and what is to come.

    Args:
        moving (`bool`): whether iterators in it that the other side has the items of come along.
        read (`Callable`, *optional*): what gives the items.
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
        return _text(parts)


class Seen:
    """A container as the other side knows it.

    Args:
        kind (`type`): the class of the container.
        text (`int`): the hash of what was told of it.
        atoms (`list`): what stood for its parts.
        node ([`Node`]): what it then held.
        turn (`int`): the message for which it was last found to be so.
    """

    __slots__ = ("attributes", "cost", "deep", "items", "kind", "named", "read", "text", "turn")

    def __init__(self, kind: type, text: int, atoms: list, node: Node, turn: int):
        self.text = text
        self.deep = any(type(atom) is list for atom in atoms)  # whether it holds numbered objects
        self.confirm(kind, node, turn)

    def confirm(self, kind: type, node: Node, turn: int) -> None:
        """Takes what is held now as what was told."""
        self.kind, self.items, self.attributes, self.turn = kind, node.items, node.attributes, turn
        self.read, self.named = node.read, node.class_name is not None
        # bytes, of which the text is made for every look, are among the first two items
        self.cost = (LOOK_AT_ATTRIBUTES if self.named else LOOK) + len(node.items)
        self.cost += sum(len(part) for part in node.items[:2] if type(part) is str)

    def matches(self, value: Any) -> bool:
        """Whether a container still holds the very same objects."""
        return (
            type(value) is self.kind
            and _same(self.read(value), self.items)
            and (not self.named or _same(attributes_of(value), self.attributes))
        )


class Wire:
    """One side's end: makes messages and reads them, and keeps the table of what both sides hold.

    Args:
        side (`int`): 0 or 1: whether the numbers that it gives are even or odd.
        space (`dict`): the globals of the test, or of the program.
    """

    def __init__(self, side: int, space: dict):
        self.side = self.next = side
        self.space = space
        self.classes: frozenset[str] = frozenset()  # names of those that both sides know
        self.arrays = True  # whether those of numpy cross
        self.known: dict[int, Any] = {}  # what both sides hold, by number
        self.numbers: dict[int, int] = {}  # by the identity of an object, which the table keeps alive
        self.states: dict[int, Seen] = {}  # of containers: the content that the other side knows
        self.turn = 0  # messages made
        self.looks = LOOKS  # items that may still be looked at besides those that a message hands over
        self.partial = self.late = False  # what this side or the other did not look at, or saw too late
        self.reduced: str | None = None  # a class whose instances this side gave without all that they are
        self.reduced_there: str | None = None  # the same of the other side
        self.sweep = 0  # size of the table from which on it is gone through for what can be forgotten
        # not to be forgotten before the other side does: what it has a handle of, and what it left the items of
        self.kept: set[int] = set()
        self.recent: set[int] = set()  # values of the last message, if they were long to tell
        # of the message that is being made: numbers and states given in it, whether an iterator gave its items
        self.given: list[int] = []
        self.pending: dict[int, Seen] = {}
        self.whole = True  # whether everything is looked at
        self.walked: set[int] = set()  # where not, what was looked at, since it can be reached from the values
        self.taken = False

    # what the two sides do differently

    def stranger(self, value: Any) -> tuple[Any, Node | None]:
        """What stands for an object that is no plain value, and its node, if the other side needs one."""
        raise TypeError(f"{type(value).__name__} is not a plain value")

    def handle(self, kind: str, has: list) -> Any:
        """What stands for an object of a class that the other side lends, which has some methods of [`PROTOCOL`]."""
        raise ValueError("a handle")

    def named(self, name: str) -> Any:
        """A global of the program."""
        raise ValueError("a name")

    def class_named(self, name: str) -> type:
        """The class of the prompt of that name."""
        raise ValueError("a class")

    def beyond(self) -> None:
        """Called where more items of an iterator are asked for than cross."""
        raise RuntimeError("only the first items of a long iterator cross")

    def class_name(self, kind: type) -> str | None:
        """The name of the nearest class that both sides know which a class is or is derived from."""
        for base in kind.__mro__ if self.classes else ():
            if base.__name__ in self.classes and self.space.get(base.__name__) is base:
                return base.__name__
        return None

    # writing

    def pack(self, message: dict, values: list) -> bytes:
        """A message with values. `values` is emptied, so that what nobody else holds can be dropped."""
        self.given, self.pending, self.walked, self.taken = [], {}, set(), False
        self.whole = self.looks > 0
        self.partial = self.partial or not self.whole
        nodes: list[str] = []
        try:
            self._add_changed(nodes)
            atoms = self._add(Node(None, "", values), nodes)
            if self.taken:  # which may have run code that changed other containers
                self._add_changed(nodes)
        except BaseException:
            for number in self.given:
                self._forget(number)
            raise
        self.states.update(self.pending)
        self.pending = {}
        values.clear()
        self.turn += 1
        dropped = self._drop()
        message = {**message, "values": atoms, "dropped": dropped, "reduced": self.reduced}
        message |= {"late": self.late, "partial": self.partial}
        return f'{json.dumps(message)[:-1]}, "heap": [{",".join(nodes)}]}}'.encode()

    def _add_changed(self, nodes: list[str]) -> None:
        """Adds the nodes of containers that are not any more as the other side knows them; of those alone that this
        message has come upon, where not everything is looked at."""
        told = self.states if self.whole else self.walked.intersection(self.states)
        for number in [*told, *(number for number in self.pending if number not in told)]:
            if (node := self._changed(number)) is not None:
                node.moving = False
                self._add(node, nodes)

    def _changed(self, number: int) -> Node | None:
        """The node of a container if it may not be any more as the other side knows it."""
        value, seen = self.known[number], self.pending.get(number) or self.states[number]
        self.looks -= seen.cost
        if not seen.matches(value):
            return self._node(value)
        seen.turn = self.turn
        return None

    def _reached(self, number: int, value: Any) -> Node | None:
        """The node of an object that both sides hold, or of what it holds, where not everything is looked at."""
        if number in self.walked or number in self.kept or hasattr(type(value), "__next__"):
            return None
        self.walked.add(number)
        if number in self.states or number in self.pending:
            if (node := self._changed(number)) is not None:
                node.moving = False
                return node
            seen = self.pending.get(number) or self.states[number]
            parts = [*seen.items, *seen.attributes] if seen.deep else []
        else:
            node = self._node(value)
            parts = [] if node is None else [*node.items, *node.attributes]
        parts = [part for part in parts if id(part) in self.numbers]
        return Node(None, "", parts, moving=False) if parts else None

    def _add(self, node: Node, nodes: list[str]) -> list:
        """Adds a node behind those of all that is new in it; gives what stands for its parts."""
        stack = [node]
        while stack:
            last = stack[-1]
            for part in last.left:
                atom, inner = self.atom(part, last.moving)
                last.atoms.append(atom)
                if inner is not None:
                    inner.moving = inner.moving and last.moving
                    stack.append(inner)
                    break
            else:
                self._finish(stack.pop(), nodes)
        return node.atoms

    def _finish(self, node: Node, nodes: list[str]) -> None:
        if node.number is None:
            return
        text = node.text()
        if node.kind in _CONTAINERS:
            seen = self.pending.get(node.number) or self.states.get(node.number)
            kind, state = type(self.known[node.number]), hash(text)
            if seen is not None:
                self.looks -= len(text)
            if seen is not None and seen.text == state:
                seen.confirm(kind, node, self.turn)
                return
            self.late = self.late or (seen is not None and self._was_left_out(seen))
            self.pending[node.number] = Seen(kind, state, node.atoms, node, self.turn)
        nodes.append(f"[{node.number},{text}")

    def _was_left_out(self, seen: Seen) -> bool:
        """Whether a container was not looked at for the message before."""
        return seen.turn < self.turn - 1

    def atom(self, value: Any, moving: bool) -> tuple[Any, Node | None]:
        """What stands for a value, and its node, if the other side needs one."""
        kind = type(value)
        encode = _SCALAR_BY_ID.get(id(kind))
        if encode is not None and (kind is not float or value == value):
            return encode(value), None
        number = self.numbers.get(id(value))
        if number is not None:
            if moving and number in self.kept and hasattr(kind, "__next__"):
                return [number], self._node(value)
            return [number], None if self.whole else self._reached(number, value)
        if kind is float:
            if value is math.nan:
                return {"singleton": "nan"}, None
            number = self._give(value)
            return [number], Node(number, "nan", [])
        if issubclass(kind, type):
            return self._class(value)
        if issubclass(kind, Enum) and (class_name := self.class_name(kind)) is not None:
            if value._name_ in kind.__members__:
                return {"member": [class_name, value._name_, None]}, None
            return {"member": [class_name, None, _integer(value._value_)]}, None  # several of a `Flag`
        if self.arrays and _is_numpy(kind, "generic") and (parts := _array_parts(value)) is not None:
            return {"numpy": parts}, None
        for base in kind.__mro__:
            if (encode := _SCALAR_BY_ID.get(id(base))) is not None:
                if not _is_numpy(kind, "generic"):
                    self.reduce(kind)
                return encode(value), None
        node = self._node(value)
        return ([node.number], node) if node is not None else self.stranger(value)

    def reduce(self, kind: type) -> None:
        """Notes that an instance of a class crosses without all that it is."""
        self.reduced = self.reduced or str(kind.__name__)[:LONGEST_NAME]

    def _is_view(self, value: Any) -> bool:
        """Whether a value is an array that has its numbers in another that both sides hold."""
        return _is_numpy(type(value), "ndarray") and id(value.base) in self.numbers

    def _class(self, value: type) -> tuple[Any, Node | None]:
        if _TYPES.get(value.__name__) is value:
            return {"type": value.__name__}, None
        name = self.class_name(value)
        return ({"class": name}, None) if name and self.class_named(name) is value else self.stranger(value)

    def _node(self, value) -> Node | None:
        """The node of a container or the like, with the number that it has or now gets."""
        kind = type(value)
        class_name = self.class_name(kind)
        if self.arrays and _is_numpy(kind, "ndarray"):
            name, read = "ndarray", _array_parts
        else:
            name, read = _kind_of(kind, class_name) or (None, None)
        items = read(value) if read is not None else None
        if items is None:
            return None
        whole = self.space.get(class_name) if class_name is not None else _CLASSES.get(name, kind)
        # a test may go on with an iterator that it gave, where the program left off
        not_whole = (name == "iterator" and _can_more(kind)) or (name in ITERATORS and self.side == 0)
        if whole is not kind or not_whole or self._is_view(value):
            self.reduce(kind)
        number = self.numbers.get(id(value))
        if number is None:
            number = self._give(value)
        if name in ITERATORS:
            self.kept.discard(number)
            self.taken = True
        attributes = [] if class_name is None else attributes_of(value)
        return Node(number, name, items, class_name, attributes, read=read)

    # reading

    def unpack(self, body: bytes) -> tuple[dict, list]:
        """A message, and its values.

        Raises:
            `Closed`: it is not what [`pack`] gives.
        """
        try:
            message = json.loads(body)
            heap, atoms, dropped = (message.pop(part) for part in ("heap", "values", "dropped"))
            self.reduced_there = message.pop("reduced", None) or self.reduced_there
            self.late = bool(message.pop("late", False)) or self.late
            self.partial = bool(message.pop("partial", False)) or self.partial
            for node in heap:
                self._create(*node)
            self._settle_all(heap)
            values = [self._value(atom) for atom in atoms]
            numbers = {atom[0] for atom in atoms if type(atom) is list}
            self.recent = numbers if len(body) > LONG_MESSAGE else numbers & self.recent
            for number in dropped:
                self._note_if_late(number)  # the other side may have read what it does not hold any more
                self._forget(number)
        except (Closed, MemoryError, NameError):  # a program may lack a name that the test asks for
            raise
        except Exception as error:
            raise Closed(f"an answer that cannot be read ({type(error).__name__})") from error
        return message, values

    def _create(self, number, kind, items, class_name=None, attributes=()) -> None:
        """Makes a container that is new, still empty: others may refer to it."""
        if type(number) is not int or number < 0 or (number % 2 == self.side and number >= self.next):
            raise ValueError("a number that was never given")
        if kind == "handle" and number not in self.known:
            name, *has = items
            self._learn(number, self.handle(str(name)[:LONGEST_NAME], has))
        if kind not in _CONTAINERS:
            return
        if kind == "ndarray" and not self.arrays:
            raise ValueError("an array")
        wanted, container = _CONTAINERS[kind]
        if class_name is not None:
            wanted = self.class_named(class_name)
        if number not in self.known:
            self._learn(number, container.make(wanted, items))
        found = self.known[number]
        same = _is_numpy(type(found), kind) or (_kind_of(type(found), class_name) or (None,))[0] == kind
        if not (same and isinstance(found, wanted)):
            raise ValueError("an object of another kind")

    def _settle_all(self, heap: list) -> None:
        """Gives all nodes their content; a node may have to wait for what it holds."""
        while heap:
            failed, reason = [], None
            for node in heap:
                try:
                    self._settle(*node)
                except MemoryError:
                    raise
                except Exception as error:
                    failed.append(node)
                    reason = type(error)
            if len(failed) == len(heap):
                raise ValueError(f"content that cannot be had: {reason}")
            heap = failed

    def _settle(self, number, kind, items, class_name=None, attributes=()) -> None:
        values = [self._value(item) for item in items]
        own = [self._value(item) for item in attributes]
        if kind in _CONTAINERS:
            value = self.known[number]
            self._note_if_late(number)  # what this side has changed is lost
            _CONTAINERS[kind][1].fill(value, values)
            if class_name is not None:
                set_attributes(value, own)
            parts = [kind, items] if class_name is None else [kind, items, class_name, attributes]
            state, atoms = hash(_text(parts)), [*items, *attributes]
            self.states[number] = Seen(type(value), state, atoms, self._node(value), self.turn - 1)
        elif kind in _MAKE_FIXED:
            if number in self.known:
                raise ValueError("what never changes is sent once")
            wanted, make = _MAKE_FIXED[kind]
            made = make(wanted if class_name is None else self.class_named(class_name), values)
            if class_name is not None:
                set_attributes(made, own)
            self._learn(number, made)
        elif kind in ITERATORS:
            taken = chain(values[1:], self._beyond()) if values[0] else iter(values[1:])
            self._learn(number, _generator(taken) if kind == "generator" else taken)
            self.kept.add(number)
        elif kind != "handle":
            raise ValueError("an unknown kind")

    def _value(self, atom) -> Any:
        if type(atom) is list:
            (number,) = atom
            return self.known[number]
        if type(atom) is not dict:
            return atom
        ((tag, body),) = atom.items()
        if tag == "member":
            kind, name, value = body
            kind = self.class_named(kind)
            if not issubclass(kind, Enum):
                raise ValueError("a member of no enumeration")
            return kind.__members__[name] if name is not None else kind(value)
        if tag == "numpy" and not self.arrays:
            raise ValueError("a number of numpy")
        other = {"class": self.class_named, "name": self.named}.get(tag)
        return (other or _MAKE_SCALAR[tag])(body)

    def _beyond(self) -> Iterator:
        self.beyond()
        yield

    def _note_if_late(self, number: int) -> None:
        """Before what this side has of a container is given up: whether it has a change that it did not tell."""
        seen = self.states.get(number)
        if seen is not None and self._was_left_out(seen) and self._changed(number) is not None:
            self.late = True

    # the table

    def _give(self, value) -> int:
        number, self.next = self.next, self.next + 2
        self.given.append(number)
        self._learn(number, value)
        return number

    def _learn(self, number: int, value) -> None:
        self._forget(number)
        self.known[number] = value
        self.numbers[id(value)] = number

    def _forget(self, number: int) -> None:
        if number in self.known:
            value = self.known.pop(number)
            if self.numbers.get(id(value)) == number:
                del self.numbers[id(value)]
        self.states.pop(number, None)
        self.kept.discard(number)

    def _drop(self) -> list[int]:
        """Forgets what nothing on this side holds any more, and says which numbers that were.

        A large table is gone through each time that it has grown by half.
        """
        alone: list[int] = []
        if len(self.known) < self.sweep:
            return alone
        for number in sorted(self.known):  # what holds others was numbered before them
            if number not in self.kept and number not in self.recent and _references(self.known, number) <= _ALONE:
                self._note_if_late(number)
                self._forget(number)
                alone.append(number)
        self.sweep = len(self.known) * 3 // 2 if len(self.known) > SMALL_TABLE else 0
        return alone
