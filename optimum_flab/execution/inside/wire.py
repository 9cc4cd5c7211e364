"""How values cross between the process that runs a program and the one that judges it.

Runs inside the sandbox, from its own folder and with only the standard library.

What arrives is rebuilt from plain data, so that nothing a program defines (`__eq__`, `__hash__`, a class that claims
to be `int`) can influence a comparison. Containers are numbered: both sides keep a table of those that both still
hold, so that one that comes back is the same object, one held twice is one object, and what either side changes in
place is changed for the other. What is not a plain value stays where it is and is referred to by its number.

A message is JSON with the keys of a request or an answer and

- `values`: what crosses. `[7]` is the object numbered 7, `{"tag": body}` a scalar that JSON lacks;
- `heap`: the numbered objects that are new to the other side or have changed, `[number, kind, items]`, followed by the
  name of a class of the prompt and its attributes; what an item needs in order to be hashed comes before it;
- `dropped`: numbers of objects that this side no longer holds;
- `reduced`: a class whose instances have crossed as its base class, or without methods that they have, if there is
  one;
- `late`: whether a change was found that an earlier message should have reported, `partial`: whether there may be one.

Everything that both sides hold is checked for changes with every message, which takes longer the more they hold. A
side does so for `LOOKS` items altogether. From then on it checks only what can be reached from the values of the
message, and says so; a last message in which it checks everything tells whether a change was missed.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from enum import Enum
from itertools import chain
from typing import Any

from wire_arrays import array_parts, is_numpy
from wire_containers import (
    CLASSES_BY_NAME,
    CONTAINERS_BY_NAME,
    FIXED_BY_NAME,
    TYPES_BY_NAME,
    attributes_of,
    set_attributes,
)
from wire_frames import Closed
from wire_limits import LONG_MESSAGE, LONGEST_NAME, LOOKS, SMALL_TABLE
from wire_nodes import ITERATORS, Node, Seen, as_text, can_more, generator, kind_of
from wire_scalars import MAKE_SCALAR, SCALAR_BY_ID, integer


def _references(table: dict[int, Any], number: int) -> int:
    return sys.getrefcount(table[number])


_ALONE = _references({0: object()}, 0)  # references to an object that nothing but the table holds


class Wire:
    """One side's end: makes messages and reads them, and keeps the table of what both sides hold.

    Args:
        side (`int`): 0 or 1: whether the numbers that it assigns are even or odd.
        space (`dict`): the globals of the test, or of the program.
    """

    def __init__(self, side: int, space: dict):
        self.side = self.next = side
        self.space = space
        self.classes: frozenset[str] = frozenset()  # names of the classes that both sides know
        self.arrays = True  # whether numpy arrays cross
        self.known: dict[int, Any] = {}  # what both sides hold, by number
        self.numbers: dict[int, int] = {}  # by the identity of an object, which the table keeps alive
        self.states: dict[int, Seen] = {}  # of containers: the content that the other side knows
        self.turn = 0  # messages made
        self.looks = LOOKS  # items that may still be checked besides those that a message carries
        self.partial = self.late = False  # whether this side or the other left something unchecked, or saw it too late
        self.reduced: str | None = None  # a class whose instances this side did not send whole
        self.reduced_there: str | None = None  # the same for the other side
        self.sweep = 0  # size of the table at which it is next searched for what can be forgotten
        # not to be forgotten before the other side does: what it has a handle to, and iterators whose items it has
        self.kept: set[int] = set()
        self.recent: set[int] = set()  # values of the last message, if it was long
        # for the message that is being made: numbers and states assigned in it, whether an iterator was read
        self.given: list[int] = []
        self.pending: dict[int, Seen] = {}
        self.whole = True  # whether everything is checked
        self.walked: set[int] = set()  # otherwise, what was checked because it can be reached from the values
        self.taken = False

    # what the two sides do differently

    def stranger(self, value: Any) -> tuple[Any, Node | None]:
        """The encoded form of an object that is not a plain value, and its node, if the other side needs one."""
        raise TypeError(f"{type(value).__name__} is not a plain value")

    def handle(self, kind: str, has: list) -> Any:
        """A proxy for an object that the other side lends, of a class with some methods of [`PROTOCOL`]."""
        raise ValueError("a handle")

    def named(self, name: str) -> Any:
        """A global of the program."""
        raise ValueError("a name")

    def class_named(self, name: str) -> type:
        """The class of the prompt with that name."""
        raise ValueError("a class")

    def beyond(self) -> None:
        """Called where more items of an iterator are requested than cross."""
        raise RuntimeError("only the first items of a long iterator cross")

    def class_name(self, kind: type) -> str | None:
        """The name of the nearest class known to both sides that a class is or is derived from."""
        for base in kind.__mro__ if self.classes else ():
            if base.__name__ in self.classes and self.space.get(base.__name__) is base:
                return base.__name__
        return None

    # writing

    def pack(self, message: dict, values: list) -> bytes:
        """A message with values. `values` is emptied so that what nobody else holds can be dropped."""
        self.given, self.pending, self.walked, self.taken = [], {}, set(), False
        self.whole = self.looks > 0
        self.partial = self.partial or not self.whole
        nodes: list[str] = []
        try:
            self._add_changed(nodes)
            atoms = self._add(Node(None, "", values), nodes)
            if self.taken:  # reading an iterator may have run code that changed other containers
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
        """Adds the nodes of containers that have changed since the other side last knew them; where not everything is
        checked, only of those that this message has reached."""
        told = self.states if self.whole else self.walked.intersection(self.states)
        for number in [*told, *(number for number in self.pending if number not in told)]:
            if (node := self._changed(number)) is not None:
                node.moving = False
                self._add(node, nodes)

    def _changed(self, number: int) -> Node | None:
        """The node of a container if it may have changed since the other side last knew it."""
        value, seen = self.known[number], self.pending.get(number) or self.states[number]
        self.looks -= seen.cost
        if not seen.matches(value):
            return self._node(value)
        seen.turn = self.turn
        return None

    def _reached(self, number: int, value: Any) -> Node | None:
        """The node of an object that both sides hold, or of what it holds, where not everything is checked."""
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
        """Adds a node after those of everything new in it; returns the encoded form of its parts."""
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
        if node.kind in CONTAINERS_BY_NAME:
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
        """Whether a container was not checked for the previous message."""
        return seen.turn < self.turn - 1

    def atom(self, value: Any, moving: bool) -> tuple[Any, Node | None]:
        """The encoded form of a value, and its node, if the other side needs one."""
        kind = type(value)
        encode = SCALAR_BY_ID.get(id(kind))
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
            return {"member": [class_name, None, integer(value._value_)]}, None  # several of a `Flag`
        if self.arrays and is_numpy(kind, "generic") and (parts := array_parts(value)) is not None:
            return {"numpy": parts}, None
        for base in kind.__mro__:
            if (encode := SCALAR_BY_ID.get(id(base))) is not None:
                if not is_numpy(kind, "generic"):
                    self.reduce(kind)
                return encode(value), None
        node = self._node(value)
        return ([node.number], node) if node is not None else self.stranger(value)

    def reduce(self, kind: type) -> None:
        """Notes that an instance of a class does not cross whole."""
        self.reduced = self.reduced or str(kind.__name__)[:LONGEST_NAME]

    def _is_view(self, value: Any) -> bool:
        """Whether a value is an array that shares its data with another that both sides hold."""
        return is_numpy(type(value), "ndarray") and id(value.base) in self.numbers

    def _class(self, value: type) -> tuple[Any, Node | None]:
        if TYPES_BY_NAME.get(value.__name__) is value:
            return {"type": value.__name__}, None
        name = self.class_name(value)
        return ({"class": name}, None) if name and self.class_named(name) is value else self.stranger(value)

    def _node(self, value) -> Node | None:
        """The node of a container or the like, with the number that it has or is now assigned."""
        kind = type(value)
        class_name = self.class_name(kind)
        if self.arrays and is_numpy(kind, "ndarray"):
            name, read = "ndarray", array_parts
        else:
            name, read = kind_of(kind, class_name) or (None, None)
        items = read(value) if read is not None else None
        if items is None:
            return None
        whole = self.space.get(class_name) if class_name is not None else CLASSES_BY_NAME.get(name, kind)
        # a test may continue with an iterator that it passed, where the program left off
        not_whole = (name == "iterator" and can_more(kind)) or (name in ITERATORS and self.side == 0)
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
            `Closed`: it is not what [`pack`] produces.
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
                self._note_if_late(number)  # the other side may have read what it no longer holds
                self._forget(number)
        except (Closed, MemoryError, NameError):  # a program may lack a name that the test asks for
            raise
        except Exception as error:
            raise Closed(f"an unreadable answer ({type(error).__name__})") from error
        return message, values

    def _create(self, number, kind, items, class_name=None, attributes=()) -> None:
        """Makes a new container, still empty, since others may refer to it."""
        if type(number) is not int or number < 0 or (number % 2 == self.side and number >= self.next):
            raise ValueError("a number that was never assigned")
        if kind == "handle" and number not in self.known:
            name, *has = items
            self._learn(number, self.handle(str(name)[:LONGEST_NAME], has))
        if kind not in CONTAINERS_BY_NAME:
            return
        if kind == "ndarray" and not self.arrays:
            raise ValueError("an array")
        wanted, container = CONTAINERS_BY_NAME[kind]
        if class_name is not None:
            wanted = self.class_named(class_name)
        if number not in self.known:
            self._learn(number, container.make(wanted, items))
        found = self.known[number]
        same = is_numpy(type(found), kind) or (kind_of(type(found), class_name) or (None,))[0] == kind
        if not (same and isinstance(found, wanted)):
            raise ValueError("an object of another kind")

    def _settle_all(self, heap: list) -> None:
        """Fills all nodes with their content; a node may have to wait for what it holds."""
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
                raise ValueError(f"content that cannot be resolved: {reason}")
            heap = failed

    def _settle(self, number, kind, items, class_name=None, attributes=()) -> None:
        values = [self._value(item) for item in items]
        own = [self._value(item) for item in attributes]
        if kind in CONTAINERS_BY_NAME:
            value = self.known[number]
            self._note_if_late(number)  # what this side has changed is lost
            CONTAINERS_BY_NAME[kind][1].fill(value, values)
            if class_name is not None:
                set_attributes(value, own)
            parts = [kind, items] if class_name is None else [kind, items, class_name, attributes]
            state, atoms = hash(as_text(parts)), [*items, *attributes]
            self.states[number] = Seen(type(value), state, atoms, self._node(value), self.turn - 1)
        elif kind in FIXED_BY_NAME:
            if number in self.known:
                raise ValueError("what never changes is sent once")
            wanted, make = FIXED_BY_NAME[kind]
            made = make(wanted if class_name is None else self.class_named(class_name), values)
            if class_name is not None:
                set_attributes(made, own)
            self._learn(number, made)
        elif kind in ITERATORS:
            taken = chain(values[1:], self._beyond()) if values[0] else iter(values[1:])
            self._learn(number, generator(taken) if kind == "generator" else taken)
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
                raise ValueError("not a member of an enumeration")
            return kind.__members__[name] if name is not None else kind(value)
        if tag == "numpy" and not self.arrays:
            raise ValueError("a number of numpy")
        other = {"class": self.class_named, "name": self.named, "type": TYPES_BY_NAME.__getitem__}.get(tag)
        return (other or MAKE_SCALAR[tag])(body)

    def _beyond(self) -> Iterator:
        self.beyond()
        yield

    def _note_if_late(self, number: int) -> None:
        """Before this side discards its version of a container: notes whether that has a change it did not report."""
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
        """Forgets what nothing on this side holds any more, and returns the numbers.

        A large table is searched each time it has grown by half.
        """
        alone: list[int] = []
        if len(self.known) < self.sweep:
            return alone
        for number in sorted(self.known):  # containers were numbered before what they hold
            if number not in self.kept and number not in self.recent and _references(self.known, number) <= _ALONE:
                self._note_if_late(number)
                self._forget(number)
                alone.append(number)
        self.sweep = len(self.known) * 3 // 2 if len(self.known) > SMALL_TABLE else 0
        return alone
