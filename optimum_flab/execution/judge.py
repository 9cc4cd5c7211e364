"""The process that runs a problem's test: it calls the program through proxies and compares plain values.

Forked by `serve.py` inside another sandbox than the program's. It alone writes the verdict.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import signal
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from time import perf_counter
from typing import Any, NoReturn

from source import (
    assigned,
    class_attribute_used,
    compares_scalars_by_identity,
    defines,
    expects,
    global_names,
    state_used,
)
from wire import (
    COMMON_MODULES,
    LONGEST_NAME,
    LONGEST_TEXT,
    OF_ALL_OBJECTS,
    PROTOCOL,
    Closed,
    Node,
    Wire,
    is_own,
    receive,
    send,
    set_attributes,
)


MODULE = "test"  # the name of the one that the test is
TOO_MUCH = "most of the time went into values that cross between the test and the program"


class ProgramEnded(BaseException):
    """The program's process is gone or exits; no `except Exception` of a test swallows it."""


class NotPlain(BaseException):
    """A test wants more of an object than can cross. Whatever a test makes of this, the verdict says so."""


def _refuse(name):
    def refuse(self, *_):
        self._flab_link.refuse(f"{self._flab_kind} is not a plain value: the test cannot judge it ({name})")

    return refuse


class Refusing:
    """An object of the program; only its attributes can be had, and told is which methods of Python's it has."""

    __slots__ = ("_flab_has", "_flab_kind", "_flab_link", "_flab_name")
    __class__ = property(_refuse("__class__"))  # `isinstance` asks for it, and abstract classes would be content

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
    """What stands for an object of the program.

    Args:
        kind (`str`): what it is called where it cannot be judged.
        has (`Iterable`): methods of `PROTOCOL` that it has besides those of all objects.
        name (`str`, *optional*): the global name by which the program knows it.
    """
    methods = tuple(method for method in has if method in PROTOCOL)
    return (RefusingFunction if "__call__" in methods else Refusing)(link, kind, methods, name)


class JudgeWire(Wire):
    """The judge's end: what the program lends can be called, and classes are those of the prompt."""

    def __init__(self, link: Link, arrays: bool):
        super().__init__(0, {})
        self.link, self.arrays = link, arrays

    def share(self, classes: dict[str, type]) -> None:
        """Lets instances of these classes cross. The test cannot put others in their place."""
        self.space, self.classes = classes, frozenset(classes)

    def atom(self, value: Any, moving: bool) -> tuple[Any, Node | None]:
        """What stands for a value; for what the program lends, its name or its number.

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
        """Ends the test, which gives the program what cannot cross."""
        self.link.refuse(f"{type(value).__name__} is not a plain value: the test cannot give it to the program")

    def handle(self, kind: str, has: list) -> Refusing:
        """What stands for an object of the program."""
        self.link.handles += 1
        return lent(self.link, kind, has)

    def class_named(self, name: str) -> type:
        """The judge's own class of that name.

        Raises:
            `ValueError`: it shares none with the program.
        """
        if name not in self.classes:
            raise ValueError("a class that the judge does not share")
        return self.space[name]

    def beyond(self) -> NoReturn:
        """Ends the test, which takes more items of an iterator than cross."""
        self.link.refuse("only the first items of a long iterator can be judged")


class Link:
    """Asks the program's process.

    Args:
        socket (`int`): descriptor on which that answers.
        space (`dict`): the globals of the test.
        arrays (`bool`): whether numpy's arrays cross.
    """

    def __init__(self, socket: int, space: dict, arrays: bool):
        self.socket = socket
        self.space = space
        self.wire = JudgeWire(self, arrays)
        self.start = perf_counter()
        self.crossing, self.since = 0.0, None  # seconds that values took to cross, and when the last began to
        self.calls = self.handles = 0  # of the program, and objects that it lent
        self.own_classes: set[str] = set()  # names of those that the test defines for itself
        self.reduced_error: str | None = None  # an exception that crossed without all that it has
        self.lost: str | None = None  # what the test may miss of what crossed
        self.elsewhere: str | None = None  # a name in the test of what each process has for itself
        self.asks_types = False  # whether the test calls `type`, which nothing can refuse
        self.test = ast.Module([], [])  # the source of the test
        self.ended: str | None = None  # how the program's process ended, if it did
        self.unjudged: str | None = None  # what cannot be judged, once that was met
        self.line: int | None = None  # of the test, where that was

    def refuse(self, reason: str) -> NoReturn:
        """Ends the test without a verdict on the program, unless the program has ended before."""
        if self.ended is None and self.unjudged is None:
            self.unjudged, self.line = reason, _line_of_test(sys._getframe())
        raise ProgramEnded(self.ended) if self.ended is not None else NotPlain(self.unjudged)

    def check(self) -> None:
        """Ends the test if its verdict stands already.

        Raises:
            `ProgramEnded`: the program has ended.
            `NotPlain`: the test wanted what cannot be judged.
        """
        if self.ended is not None:
            raise ProgramEnded(self.ended)
        if self.unjudged is not None:
            raise NotPlain(self.unjudged)

    def ask(self, message: dict, values: list) -> Any:
        """What the program's process answers to a message with values.

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
        """Counts the time of what is done inside as spent on crossing."""
        self.since = perf_counter()
        try:
            yield
        finally:
            self.crossing, self.since = self.crossing + perf_counter() - self.since, None

    def mostly_crosses(self) -> bool:
        """Whether values have taken most of the time to cross. The other side has about as much to do."""
        now = perf_counter()
        crossing = self.crossing + (0 if self.since is None else now - self.since)
        return 2 * crossing > (now - self.start) / 2

    def call(self, target: Refusing, arguments: tuple, keywords: dict) -> Any:
        """What a function of the program returns; raises what it raises, see [`ask`]."""
        self.calls += 1
        message = {"do": "call", "keywords": [*keywords]}
        return self.ask(message, [target, *arguments, *keywords.values()])

    def settle(self) -> None:
        """Asks for all changes that were not told in time, of which the test or the program may then have been
        ignorant."""
        if not self.wire.partial or self.ended is not None or self.unjudged is not None:
            return
        self.wire.looks = sys.maxsize
        try:
            self.ask({"do": "rest"}, [])
        except BaseException as error:
            self.unjudged = f"the containers that it shares with the program cannot be compared ({error})"
        if self.wire.late and self.unjudged is None:
            self.unjudged = (
                "the test shares more with the program than can be watched for changes, and some of it was changed"
            )

    def exception(self, answer: dict, values: list) -> BaseException:
        """The program's exception, as one that the judge knows.

        One that is no `Exception`, or ends a loop, is raised as such only where the test expects it by name.
        """
        error = answer["error"] if isinstance(answer["error"], dict) else {}
        name, text = str(error.get("name", "Exception")), str(error.get("text", ""))
        if name in self.own_classes:
            self.lost = f"{name} of the program is not the test's own"
        if not error.get("whole", True):
            self.reduced_error = name[:LONGEST_NAME]
        if error.get("beyond"):
            self.refuse("the program takes more than the first items of a long iterator, which alone cross")
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
        except Exception:  # some, such as groups of exceptions, want more than a text
            made = Exception(text)
            self.lost = f"{name[:LONGEST_NAME]} does not cross whole, and the test may want more of it"
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
    """An exception of a class of Python's, or of one derived from it with the name and the text of the program's."""
    of_builtins = kind.__module__ == "builtins"

    def made(kind: type) -> BaseException:
        # one of another module may want more than it keeps as `args`
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


def judge(job: dict, link: Link) -> None:
    """Runs the test; raises whatever it raises."""
    space, entry, link.test = link.space, job["entry_point"], ast.parse(job["test"])
    helpers = compile(job["helpers"], "<helpers>", "exec", dont_inherit=True)
    test = compile(job["test"], "<test>", "exec", dont_inherit=True)
    used = global_names(test)
    link.asks_types = bool(used & {"type", "__class__"})
    link.elsewhere = state_used(link.test, assigned(job["helpers"]), entry)
    # most tests need none of the imports, and importing takes time
    if used & set(helpers.co_names) or "import *" in job["helpers"] or defines(job["helpers"]):
        exec(helpers, space)
    classes = {name: kind for name, kind in space.items() if isinstance(kind, type) and kind.__module__ == MODULE}
    # a class that the test has for itself, perhaps the right answer, says nothing of the program's of that name
    link.own_classes = {node.name for node in ast.walk(link.test) if isinstance(node, ast.ClassDef)}
    classes = {name: kind for name, kind in classes.items() if name not in link.own_classes}
    link.elsewhere = link.elsewhere or class_attribute_used(link.test, classes)
    names = used - set(dir(builtins)) - set(space)
    wanted = sorted(names.difference(COMMON_MODULES) | ({entry} if entry else set()))
    known, methods = link.ask({"do": "load", "classes": [*classes], "names": wanted}, [])
    for name in names.intersection(COMMON_MODULES):
        space[name] = __import__(name)  # a program must not supply the means of comparison
    for name in wanted:
        # one that the program lacks says so when it is called
        space[name] = lent(link, name, methods.get(name, ["__call__"]), name)
    link.wire.share({name: kind for name, kind in classes.items() if name in known})
    candidate = space.get(entry)
    exec(test, space)
    if entry and type(space.get("check")) is types.FunctionType:
        space["check"](candidate)
    if not link.calls:
        raise AssertionError("the test never called the program")


def failing_line(job: dict, error: BaseException) -> str:
    """The line of the test that raised."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<test>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line_of(job, line)


def line_of(job: dict, line: int | None) -> str:
    """A line of the test, counted from 1; empty where it has none of that number."""
    lines = job["test"].splitlines()
    return lines[line - 1].strip() if line is not None and line <= len(lines) else ""


def about_a_handle(text: str) -> bool:
    """Whether Python refused an object of the program by itself, before [`Refusing`] could."""
    return Refusing.__name__ in text or text.startswith("catching classes that do not inherit")


def missing_package(job: dict, module: object) -> str | None:
    """The package that a program lacks, from the name of a module that could not be imported."""
    package = str(module or "").partition(".")[0]
    known = package in sys.stdlib_module_names or package in job["packages"]
    return package if len(package) <= LONGEST_NAME and package.isidentifier() and not known else None


def verdict(job: dict, socket: int, write: Callable[[dict], NoReturn]) -> dict:
    """Judges a program by its test.

    Args:
        job (`dict`): `test`, `entry_point`, `helpers` and `packages` of a program.
        socket (`int`): descriptor on which the program's process answers.
        write (`Callable`): ends this process with another verdict.

    Returns:
        `dict`: `status`, which is `"ended"` where the program's process ended by itself, and `detail`; `judged` and
        `package` where there is something to say.
    """
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module  # where dataclasses look for the module of a class
    link = Link(socket, module.__dict__, "numpy" in job["packages"])
    error = None

    def late(*_: object) -> None:
        if link.mostly_crosses():
            write({"status": "timed out", "detail": TOO_MUCH, "judged": False})

    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGXCPU, late)
    signal.setitimer(signal.ITIMER_REAL, max(job["seconds"], 0.01))
    try:
        judge(job, link)
    except BaseException as raised:
        error = raised
    link.settle()
    if error is None and link.asks_types and link.wire.reduced_there and link.unjudged is None:
        link.unjudged = f"the test asks for a type, and {link.wire.reduced_there[:LONGEST_NAME]} does not cross whole"
    found = {"status": "passed", "detail": ""} if error is None else failure(job, link, error)
    if link.ended is not None:  # whatever the test made of it
        return {"status": "ended", "detail": link.ended, "crossing": link.mostly_crosses()}
    return found if link.unjudged is None else not_judged(link.unjudged, line_of(job, link.line))


def not_judged(reason: str, where: str) -> dict:
    """The verdict on a program of which its test wants more than can be judged, in a line of the test."""
    detail = f"not judged: {reason}"
    return {"status": "failed", "detail": f"{detail} in: {where}" if where else detail, "judged": False}


def is_of_an_iterator(text: str) -> bool:
    """Whether Python says that an iterator or a generator lacks something."""
    return any(f"'{kind.__name__}' object" in text for kind in (type(iter([])), chain, types.GeneratorType))


def lost_on_the_way(link: Link, error: BaseException, raised: bool) -> str | None:
    """Why a test may have failed that would not have where program and test are one process.

    Args:
        raised (`bool`): whether the program raised the exception.
    """
    # what the program raises is its own, unless it was given less than the test has, or than it gave before
    perhaps = not raised or isinstance(error, AttributeError)
    if not raised and isinstance(error, (AttributeError, TypeError)) and is_of_an_iterator(str(error)):
        return "iterators cross with their items alone"
    if name := link.wire.reduced or ((link.wire.reduced_there or link.reduced_error) if perhaps else None):
        return f"{str(name)[:LONGEST_NAME]} does not cross whole, and the test may want more of it"
    if link.lost is not None:
        return link.lost
    if link.elsewhere is not None:
        return f"the test uses {link.elsewhere}, which it does not share with the program"
    if not raised and isinstance(error, AssertionError) and compares_scalars_by_identity(link.test, error):
        return "the test asks whether a value is the same object, and it crosses as an equal one"
    return None


def failure(job: dict, link: Link, error: BaseException) -> dict:
    """The verdict where the test raised."""
    where = failing_line(job, error)
    raised = error.__dict__.get("program_error")
    try:
        text = str(error)
    except BaseException as failed:  # an object of the program's in it, which the link then knows of
        text = type(failed).__name__
    text = text.replace("'Refusing' object is not callable", "what the program gave is not callable")
    if raised is None and isinstance(error, TypeError) and about_a_handle(text):
        return not_judged(text, where)
    if raised is None and isinstance(error, AssertionError) and link.asks_types and link.handles:
        return not_judged("the test asks for a type, perhaps of an object that is not a plain value", where)
    name, text, forbidden, module = raised or (type(error).__name__, text, False, getattr(error, "name", None))
    detail = f"{name}: {text}" if text else name
    if isinstance(error, AssertionError) and where and raised is None:
        detail = f"{where} ({text})" if text else where
    elif where:
        detail = f"{detail} in: {where}"
    if isinstance(error, ImportError) and (package := missing_package(job, module)):
        return {"status": "missing package", "detail": detail, "package": package}
    status = "forbidden" if forbidden else "out of memory" if isinstance(error, MemoryError) else "failed"
    if status == "failed" and (reason := lost_on_the_way(link, error, raised is not None)):
        return not_judged(f"{reason} ({detail})", "")
    return {"status": status, "detail": detail}


def serve(job: dict, descriptors: list[int]) -> None:
    """Judges one program and writes the verdict."""
    socket, report = descriptors

    def write(result: dict) -> NoReturn:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        result["detail"] = result["detail"][:500]
        os.write(report, json.dumps(result).encode())
        os._exit(0)

    write(verdict(job, socket, write))
