"""The judge's end of the wire: what a test holds of the program, and how it requests more."""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Any, NoReturn

from source import expects
from wire import Wire
from wire_containers import is_own, set_attributes
from wire_frames import Closed, receive, send
from wire_limits import LONGEST_NAME, LONGEST_TEXT, OF_ALL_OBJECTS, PROTOCOL
from wire_nodes import Node


MODULE = "test"  # the name of the module that the test is run as
TOO_MUCH = "most of the time was spent on values that cross between the test and the program"


class ProgramEnded(BaseException):
    """The program's process is gone or exits; no `except Exception` in a test can swallow this."""


class NotPlain(BaseException):
    """A test needs more of an object than can cross. Whatever the test does with this, the verdict says so."""


def _refuse(name):
    def refuse(self, *_):
        self._flab_link.refuse(f"{self._flab_kind} is not a plain value: the test cannot judge it ({name})")

    return refuse


class Refusing:
    """An object of the program; only its attributes are accessible, and which of Python's methods it has is known."""

    __slots__ = ("_flab_has", "_flab_kind", "_flab_link", "_flab_name")
    __class__ = property(_refuse("__class__"))  # `isinstance` asks for it, and abstract classes would accept it

    def __init__(self, link, kind, has, name=None):
        object.__setattr__(self, "_flab_link", link)
        object.__setattr__(self, "_flab_kind", kind)
        object.__setattr__(self, "_flab_has", has)
        object.__setattr__(self, "_flab_name", name)

    def __getattribute__(self, name):
        if name in PROTOCOL and name not in OF_ALL_OBJECTS and name not in object.__getattribute__(self, "_flab_has"):
            raise AttributeError(name)
        return object.__getattribute__(self, name)

    def __getattr__(self, name):
        if name in PROTOCOL:
            raise AttributeError(f"{self._flab_kind!r} object has no attribute {name!r}")
        if name.startswith("__") and name.endswith("__"):
            _refuse(name)(self)
        return self._flab_link.ask({"do": "get", "attribute": name}, [self])

    def __setattr__(self, name, value):
        self._flab_link.ask({"do": "set", "attribute": name}, [self, value])


Refusing.__doc__ = property(_refuse("__doc__"))
for _name in PROTOCOL - {"__call__"}:
    setattr(Refusing, _name, _refuse(_name))


class RefusingFunction(Refusing):
    """An object of the program that can be called."""

    __slots__ = ()
    __doc__ = Refusing.__dict__["__doc__"]

    def __call__(self, *arguments, **keywords):
        return self._flab_link.call(self, arguments, keywords)


def lent(link: Link, kind: str, has: Iterable[object], name: str | None = None) -> Refusing:
    """A proxy for an object of the program.

    Args:
        kind (`str`): what to call it where it cannot be judged.
        has (`Iterable`): methods of `PROTOCOL` that it has besides those of all objects.
        name (`str`, *optional*): its global name in the program.
    """
    methods = tuple(method for method in has if method in PROTOCOL)
    return (RefusingFunction if "__call__" in methods else Refusing)(link, kind, methods, name)


class JudgeWire(Wire):
    """The judge's end: what the program lends can be called, and classes are the prompt's."""

    def __init__(self, link: Link, arrays: bool):
        super().__init__(0, {})
        self.link, self.arrays = link, arrays

    def share(self, classes: dict[str, type]) -> None:
        """Lets instances of these classes cross. The test cannot replace the classes."""
        self.space, self.classes = classes, frozenset(classes)

    def atom(self, value: Any, moving: bool) -> tuple[Any, Node | None]:
        """The encoded form of a value; for what the program lends, its name or its number.

        Raises:
            `Closed`: the program has given up an object.
        """
        if not issubclass(type(value), Refusing):
            return super().atom(value, moving)
        if value._flab_name is not None:
            return {"name": value._flab_name}, None
        number = self.numbers.get(id(value))
        if number is None:
            raise Closed("the program has given up an object that the test still holds")
        return [number], None

    def stranger(self, value: Any) -> NoReturn:
        """Ends a test that passes the program what cannot cross."""
        self.link.refuse(f"{type(value).__name__} is not a plain value: the test cannot pass it to the program")

    def handle(self, kind: str, has: list) -> Refusing:
        """A proxy for an object of the program."""
        self.link.handles += 1
        return lent(self.link, kind, has)

    def class_named(self, name: str) -> type:
        """The judge's own class with that name.

        Raises:
            `ValueError`: it shares no such class with the program.
        """
        if name not in self.classes:
            raise ValueError("a class that the judge does not share")
        return self.space[name]

    def beyond(self) -> NoReturn:
        """Ends a test that takes more items of an iterator than cross."""
        self.link.refuse("only the first items of a long iterator can be judged")


class Link:
    """Sends requests to the program's process.

    Args:
        socket (`int`): descriptor on which it answers.
        space (`dict`): the globals of the test.
        arrays (`bool`): whether numpy's arrays cross.
    """

    def __init__(self, socket: int, space: dict, arrays: bool):
        self.socket = socket
        self.space = space
        self.wire = JudgeWire(self, arrays)
        self.start = perf_counter()
        self.crossing, self.since = 0.0, None  # seconds that values took to cross, and when the last one started
        self.calls = self.handles = 0  # calls of the program, and objects that it lent
        self.own_classes: set[str] = set()  # names of the classes that the test defines for itself
        self.reduced_error: str | None = None  # an exception that did not cross whole
        self.lost: str | None = None  # what the test may miss from what crossed
        self.elsewhere: str | None = None  # a name in the test for state that each process has for itself
        self.asks_types = False  # whether the test calls `type`, which nothing can refuse
        self.test = ast.Module([], [])  # the source of the test
        self.ended: str | None = None  # how the program's process ended, if it did
        self.unjudged: str | None = None  # what cannot be judged, once it has come up
        self.line: int | None = None  # the line of the test where that was

    def refuse(self, reason: str) -> NoReturn:
        """Ends the test without a verdict on the program, unless the program has already ended."""
        if self.ended is None and self.unjudged is None:
            self.unjudged, self.line = reason, _line_of_test(sys._getframe())
        raise ProgramEnded(self.ended) if self.ended is not None else NotPlain(self.unjudged)

    def check(self) -> None:
        """Ends the test if its verdict is already settled.

        Raises:
            `ProgramEnded`: the program has ended.
            `NotPlain`: the test needed what cannot be judged.
        """
        if self.ended is not None:
            raise ProgramEnded(self.ended)
        if self.unjudged is not None:
            raise NotPlain(self.unjudged)

    def ask(self, message: dict, values: list) -> Any:
        """The answer of the program's process to a message with values.

        Raises whatever the program raised, as one of Python's exceptions or of the prompt's.
        """
        self.check()
        try:
            with self.timed():
                body = self.wire.pack(message, values)
            send(self.socket, body)
            body = receive(self.socket)
            with self.timed():
                answer, values = self.wire.unpack(body)
        except Closed as error:
            self.ended = str(error)
            raise ProgramEnded(self.ended) from None
        if "error" not in answer:
            return values[0] if values else None
        error = self.exception(answer, values)
        if isinstance(error, ProgramEnded):
            self.ended = str(error)
        raise error

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Counts the time spent in the block as time spent on crossing."""
        self.since = perf_counter()
        try:
            yield
        finally:
            self.crossing, self.since = self.crossing + perf_counter() - self.since, None

    def mostly_crosses(self) -> bool:
        """Whether crossing values has taken most of the time. The other side has about as much to do."""
        now = perf_counter()
        crossing = self.crossing + (0 if self.since is None else now - self.since)
        return 2 * crossing > (now - self.start) / 2

    def call(self, target: Refusing, arguments: tuple, keywords: dict) -> Any:
        """What a function of the program returns; raises what it raises, see [`ask`]."""
        self.calls += 1
        message = {"do": "call", "keywords": [*keywords]}
        return self.ask(message, [target, *arguments, *keywords.values()])

    def settle(self) -> None:
        """Asks for all changes that were not reported in time, and that the test or the program may therefore have
        missed."""
        if not self.wire.partial or self.ended is not None or self.unjudged is not None:
            return
        self.wire.looks = sys.maxsize
        try:
            self.ask({"do": "rest"}, [])
        except BaseException as error:
            self.unjudged = f"the containers that it shares with the program cannot be compared ({error})"
        if self.wire.late and self.unjudged is None:
            self.unjudged = (
                "the test shares more with the program than can be checked for changes, and some of it was changed"
            )

    def exception(self, answer: dict, values: list) -> BaseException:
        """The program's exception, as one that the judge knows.

        One that is not an `Exception`, or ends a loop, is raised as such only where the test expects it by name.
        """
        error = answer["error"] if isinstance(answer["error"], dict) else {}
        name, text = str(error.get("name", "Exception")), str(error.get("text", ""))
        if name in self.own_classes:
            self.lost = f"{name} of the program is not the test's own"
        if not error.get("whole", True):
            self.reduced_error = name[:LONGEST_NAME]
        if error.get("beyond"):
            self.refuse("the program takes more than the first items of a long iterator, and only those cross")
        kind = python_s_exception(error.get("kinds"))
        if isinstance(answer.get("class"), str) and answer["class"] in self.wire.classes:
            kind = self.wire.class_named(answer["class"])
        if not (kind and issubclass(kind, BaseException)):
            return ProgramEnded(f"{name}: {text}" if text else name)
        unusual = not issubclass(kind, Exception) or issubclass(kind, (StopIteration, StopAsyncIteration))
        if unusual and not expects(self.test, _frame_of_test(sys._getframe()), kind.__name__):
            if not issubclass(kind, Exception):
                return ProgramEnded(f"{name}: {text}" if text else name)
            kind = Exception  # it would end a loop of the test
        arguments, attributes = values if len(values) == 2 else ([text], [])
        try:
            if kind.__module__ == MODULE:
                made = kind.__new__(kind, *arguments)
                set_attributes(made, attributes)
            else:
                made = likeness(kind, name, text, arguments, attributes)
        except Exception:  # some, such as exception groups, need more than a text
            made = Exception(text)
            self.lost = f"{name[:LONGEST_NAME]} does not cross whole, and the test may need more of it"
        made.__dict__["program_error"] = (name, text, bool(error.get("forbidden")), error.get("module"))
        return made


def python_s_exception(kinds: object) -> type[BaseException] | None:
    """The first class that this process has loaded from Python's own modules.

    Args:
        kinds (`list`): modules and names, two for each class that an exception of the program is an instance of.
    """
    for given in kinds if isinstance(kinds, list) else ():
        module, name, *_ = (*map(str, given), "", "") if isinstance(given, list) else ("", "")
        if module == "builtins" or module.partition(".")[0] in sys.stdlib_module_names:
            kind = getattr(sys.modules.get(module), name, None)
            if isinstance(kind, type) and issubclass(kind, BaseException):
                return kind
    return None


def likeness(kind: type, name: str, text: str, arguments: list, attributes: list) -> BaseException:
    """An exception of one of Python's classes, or of a subclass with the name and the text of the program's."""
    of_builtins = kind.__module__ == "builtins"

    def made(kind: type) -> BaseException:
        # one of another module may need more than it keeps as `args`
        error = kind(*arguments) if of_builtins else kind.__new__(kind, *arguments)
        for key, item in zip(attributes[::2], attributes[1::2], strict=True):
            if is_own(key):
                with suppress(AttributeError, TypeError):  # some cannot be set
                    setattr(error, key, item)
        return error

    error = made(kind if name == kind.__name__ else type(name, (kind,), {}))
    if type(error).__module__ != "builtins" and str(error)[:LONGEST_TEXT] != text:
        error = made(type(name, (kind,), {"__str__": lambda self: text}))
    return error


def _frame_of_test(frame: types.FrameType | None) -> types.FrameType | None:
    while frame is not None and frame.f_code.co_filename != "<test>":
        frame = frame.f_back
    return frame


def _line_of_test(frame: types.FrameType | None) -> int | None:
    found = _frame_of_test(frame)
    return found and found.f_lineno
