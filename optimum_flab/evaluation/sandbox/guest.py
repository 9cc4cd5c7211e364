"""The process that runs a program: loads it, then calls its functions as the judge asks.

Forked by `serve.py` inside the sandbox. The program can change everything in this process and say whatever it
likes on the socket: that decides nothing but the values of its own answers.
"""

from __future__ import annotations

import builtins
import errno
import os
import sys
import types
from contextlib import suppress

from wire import LONGEST_NAME, Closed, Node, Wire, attributes_of, receive, send


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


LONGEST_TEXT = 2000  # characters of an exception
LONGEST_ARGUMENTS = 1 << 20  # characters


def error_message(error: BaseException) -> dict:
    """What is said of an exception: its class, the builtin one that it is derived from, its text."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    name = next((kind for kind in kinds if isinstance(getattr(builtins, kind, None), type)), "Exception")
    try:
        text = str(error)
    except BaseException as failure:
        text = f"no text: its __str__ raised {type(failure).__name__}"
    forbidden = (isinstance(error, OSError) and error.errno in NOT_ALLOWED) or "gaierror" in kinds
    module = error.name if isinstance(error, ImportError) and isinstance(error.name, str) else None
    return {
        "kind": name,
        "name": kinds[0][:LONGEST_NAME],
        "text": text[:LONGEST_TEXT],
        "forbidden": forbidden,
        "module": module and module[:LONGEST_NAME],
    }


class GuestWire(Wire):
    """The program's end: what is no plain value is lent, and of the prompt's classes it has its own."""

    def __init__(self, space: dict):
        super().__init__(1, space)
        self.lending = True

    def stranger(self, value):
        if not self.lending:
            return super().stranger(value)
        number = self._give(value)
        self.kept.add(number)
        return [number], Node(number, "handle", [str(type(value).__name__)[:LONGEST_NAME]])

    def named(self, name):
        if name not in self.space:
            raise NameError(f"name {name!r} is not defined")
        return self.space[name]

    def class_named(self, name):
        return self.named(name)


class Guest:
    """A loaded program."""

    def __init__(self, code: str):
        self.code = code
        self.module = types.ModuleType("program")
        self.wire = GuestWire(self.module.__dict__)

    def load(self, request: dict, values: list) -> list[str]:
        """Runs the program; of some names, those by which it knows a class."""
        space = self.module.__dict__
        sys.modules["program"] = self.module
        exec(compile(self.code, "<program>", "exec", dont_inherit=True), space)
        known = [name for name in request["classes"] if isinstance(space.get(name), type)]
        self.wire.classes = frozenset(known)
        return known

    def call(self, request: dict, values: list):
        target, *arguments = values
        values.clear()  # nothing but the program holds its arguments
        names = request["keywords"]
        first = len(arguments) - len(names)
        keywords = dict(zip(names, arguments[first:], strict=True))
        return target(*arguments[:first], **keywords)

    def get(self, request: dict, values: list):
        return getattr(*values, request["attribute"])

    def set(self, request: dict, values: list) -> None:
        target, value = values
        setattr(target, request["attribute"], value)

    def rest(self, request: dict, values: list) -> None:
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
        """The answer where an exception came out of the program: with what it holds, if that is plain."""
        class_name = self.wire.class_name(type(error))
        message = {"error": error_message(error), "class": class_name}
        try:
            self.wire.lending = False
            arguments = [*error.args]
            if sum(len(part) for part in arguments if isinstance(part, (str, bytes))) < LONGEST_ARGUMENTS:
                return self.wire.pack(message, [arguments, attributes_of(error) if class_name else []])
        except BaseException:
            pass
        finally:
            self.wire.lending = True
        try:
            return self.wire.pack(message, [])
        except BaseException:
            return Wire(1, {}).pack(message, [])  # what the program has changed is not said


def serve(job: dict, descriptors: list[int]) -> None:
    """Answers on the socket until the judge is gone."""
    (socket,) = descriptors
    sys.path.insert(0, "")
    guest = Guest(job["code"])
    with suppress(Closed):
        while True:
            send(socket, guest.answer(receive(socket)))
    os._exit(0)
