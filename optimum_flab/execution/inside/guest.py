"""The process that runs a program: it loads it, then calls its functions as the judge asks.

Forked by `serve.py` inside the sandbox. The program can change everything in this process and write whatever it likes
to the socket: this affects only the values of its own answers.
"""

from __future__ import annotations

import errno
import os
import sys
import types
from contextlib import suppress
from typing import Any, NoReturn

from wire import Wire
from wire_containers import attributes_of, is_own
from wire_frames import Closed, receive, send
from wire_limits import LONGEST_NAME, LONGEST_TEXT, OF_ALL_OBJECTS, PROTOCOL
from wire_nodes import Node


NOT_ALLOWED = frozenset(
    getattr(errno, name)
    for name in (
        "EPERM",
        "EACCES",
        "EROFS",
        "ENETUNREACH",
        "ENETDOWN",
        "EAGAIN",
        "ENOSPC",
        "EFBIG",
        "EMFILE",
        "EDQUOT",
        "EAFNOSUPPORT",
    )
)


LONGEST_ARGUMENTS = 1 << 20  # characters; also for an attribute


def error_message(error: BaseException) -> dict:
    """What is sent about an exception: its class, the classes of Python that it is derived from, its text."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    of_python = [[kind.__module__, kind.__name__] for kind in type(error).__mro__ if is_python_s(kind)]
    try:
        text = str(error)
    except BaseException as failure:
        text = f"no text: its __str__ raised {type(failure).__name__}"
    forbidden = (isinstance(error, OSError) and error.errno in NOT_ALLOWED) or "gaierror" in kinds
    module = error.name if isinstance(error, ImportError) and isinstance(error.name, str) else None
    return {
        "kinds": of_python,
        "name": kinds[0][:LONGEST_NAME],
        "text": text[:LONGEST_TEXT],
        "forbidden": forbidden,
        "module": module and module[:LONGEST_NAME],
    }


def is_python_s(kind: type) -> bool:
    """Whether a class is the one of that name in one of Python's own modules."""
    module = kind.__module__ if isinstance(kind.__module__, str) else ""
    if module != "builtins" and module.partition(".")[0] not in sys.stdlib_module_names:
        return False
    return getattr(sys.modules.get(module), kind.__name__, None) is kind


def methods_of(value: object) -> list[str]:
    """The methods of [`PROTOCOL`] that an object has, except those that all objects have."""
    kinds = [*type(value).__mro__, *(value.__mro__ if issubclass(type(value), type) else ())]
    return sorted({name for kind in kinds for name in PROTOCOL & kind.__dict__.keys()} - OF_ALL_OBJECTS)


def has_more_than(kind: type, known: type | None) -> bool:
    """Whether the class of an exception has attributes or methods that neither Python's class nor a known one has."""
    own = [base for base in kind.__mro__ if not is_python_s(base)]
    of_known = known.__mro__ if known is not None else ()
    return any(is_own(name) for base in own if base not in of_known for name in [*base.__dict__])


class GuestWire(Wire):
    """The program's end: what is not a plain value is lent, and it has its own copies of the prompt's classes."""

    def __init__(self, space: dict):
        super().__init__(1, space)
        self.lending = True
        self.went_beyond = False  # whether the program wanted more of an iterator than crossed

    def beyond(self) -> NoReturn:
        """Ends a call of the program that takes more items of an iterator than crossed."""
        self.went_beyond = True
        super().beyond()

    def stranger(self, value: Any) -> tuple[Any, Node]:
        """A handle for an object that is not a plain value.

        Raises:
            `TypeError`: nothing may be lent now.
        """
        if not self.lending:
            return super().stranger(value)
        number = self._give(value)
        self.kept.add(number)
        return [number], Node(number, "handle", [str(type(value).__name__)[:LONGEST_NAME], *methods_of(value)])

    def named(self, name: str) -> Any:
        """A global of the program.

        Raises:
            `NameError`: it has none with that name.
        """
        if name not in self.space:
            raise NameError(f"name {name!r} is not defined")
        return self.space[name]

    def class_named(self, name: str) -> type:
        """The program's own class with the name of one of the prompt.

        Raises:
            `NameError`: it has none with that name.
        """
        return self.named(name)


class Guest:
    """A program, and the answers to what a judge asks of it.

    Args:
        code (`str`): the program.
    """

    def __init__(self, code: str):
        self.code = code
        self.module = types.ModuleType("program")
        self.wire = GuestWire(self.module.__dict__)

    def load(self, request: dict, values: list) -> list:
        """Runs the program; returns which of some names are classes in it, and what some others have."""
        space = self.module.__dict__
        sys.modules["program"] = self.module
        exec(compile(self.code, "<program>", "exec", dont_inherit=True), space)
        known = [name for name in request["classes"] if isinstance(space.get(name), type)]
        self.wire.classes = frozenset(known)
        return [known, {name: methods_of(space[name]) for name in request["names"] if name in space}]

    def call(self, request: dict, values: list) -> Any:
        """Calls the first value with the others, the last of which are passed under the names in `keywords`."""
        target, *arguments = values
        values.clear()  # nothing but the program holds its arguments
        names = request["keywords"]
        first = len(arguments) - len(names)
        keywords = dict(zip(names, arguments[first:], strict=True))
        return target(*arguments[:first], **keywords)

    def get(self, request: dict, values: list) -> Any:
        """An attribute of the value."""
        return getattr(*values, request["attribute"])

    def set(self, request: dict, values: list) -> None:
        """Sets an attribute of the first value to the second."""
        target, value = values
        setattr(target, request["attribute"], value)

    def rest(self, request: dict, values: list) -> None:
        """Makes the answer cover everything that both sides hold."""
        self.wire.looks = sys.maxsize

    def answer(self, body: bytes) -> bytes:
        """The answer to a request of the judge."""
        try:
            request, values = self.wire.unpack(body)
            actions = {"load": self.load, "call": self.call, "get": self.get, "set": self.set, "rest": self.rest}
            result = [actions[request["do"]](request, values)]
            values.clear()
            return self.wire.pack({}, result)
        except BaseException as error:
            return self.failed(error)

    def failed(self, error: BaseException) -> bytes:
        """The answer where the program raised an exception: with what it holds, if that is plain."""
        class_name = self.wire.class_name(type(error))
        message = {"error": error_message(error) | {"beyond": self.wire.went_beyond}, "class": class_name}
        try:
            self.wire.lending = False
            arguments = [*error.args]
            if sum(len(part) for part in arguments if isinstance(part, (str, bytes))) < LONGEST_ARGUMENTS:
                attributes = self.plain_attributes(error)
                left_out = set(filter(is_own, error.__dict__)) - set(attributes[::2])
                if left_out or has_more_than(type(error), self.wire.space.get(class_name)):
                    message["error"]["whole"] = False
                return self.wire.pack(message, [arguments, attributes])
        except BaseException:
            pass
        finally:
            self.wire.lending = True
        try:
            return self.wire.pack(message, [])
        except BaseException:
            return Wire(1, {}).pack(message, [])  # what the program has changed is not reported

    def plain_attributes(self, error: BaseException) -> list:
        """Names and values of the attributes of an exception that can cross by value and are not large."""
        found, given = [], attributes_of(error)
        for name, value in zip(given[::2], given[1::2], strict=True):
            trial = GuestWire(self.wire.space)
            trial.classes, trial.lending = self.wire.classes, False
            if name == "obj" or hasattr(
                type(value), "__next__"
            ):  # `obj`: the object that lacks an attribute, however large
                continue
            with suppress(BaseException):
                if len(trial.pack({}, [value])) < LONGEST_ARGUMENTS:
                    found += [name, value]
        return found


def serve(job: dict, descriptors: list[int]) -> None:
    """Answers on the socket until the judge is gone."""
    (socket,) = descriptors
    sys.path.insert(0, "")
    guest = Guest(job["code"])
    with suppress(Closed):
        while True:
            send(socket, guest.answer(receive(socket)))
    os._exit(0)
