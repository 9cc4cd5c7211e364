"""The process that runs a problem's test: it calls the program through proxies and compares plain values.

Forked by `serve.py` inside another sandbox than the program's. It alone writes the verdict.
"""

from __future__ import annotations

import builtins
import json
import os
import types

from wire import COMMON_MODULES, Closed, decode, encode, receive, send


class ProgramEnded(BaseException):
    """The program's process is gone or exits; no `except Exception` of a test swallows it."""


class NotPlain(TypeError):
    """A test compares, iterates or decides by an object that cannot cross."""


class Refusing:
    """An object of the program; only calls and attributes work on it."""

    def __init__(self, link, target, kind):
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_kind", kind)

    def __call__(self, *arguments, **keywords):
        return self._link.call(self._target, arguments, keywords)

    def __getattr__(self, name):
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._link.ask({"do": "get", **self._target, "attribute": name})[0]

    def __setattr__(self, name, value):
        self._link.ask({"do": "set", **self._target, "attribute": name, "value": self._link.encode(value)})


def _refuse(name):
    def refuse(self, *_):
        raise NotPlain(f"{self._kind} is not a plain value: the test cannot judge it ({name})")

    return refuse


for _name in """eq ne lt le gt ge bool len iter contains getitem setitem delitem hash int float index str repr
format bytes add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow and rand or ror xor rxor
neg pos abs invert round enter exit""".split():
    setattr(Refusing, f"__{_name}__", _refuse(f"__{_name}__"))


class Link:
    """Asks the program's process."""

    def __init__(self, socket: int):
        self.socket = socket
        self.calls = 0
        self.ended = None  # how the program's process ended, if it did

    def keep(self, value):
        if isinstance(value, Refusing) and "object" in value._target:
            return value._target["object"]
        raise NotPlain(f"{type(value).__name__} is not a plain value: the test cannot give it to the program")

    def find(self, number, kind):
        return Refusing(self, {"object": number}, kind)

    def encode(self, value):
        return encode(value, self.keep)

    def ask(self, request):
        try:
            send(self.socket, request)
            answer = receive(self.socket)
            if "error" not in answer:
                parts = ("value", "arguments", "keywords")
                return tuple(decode(answer.get(part), self.find) for part in parts)
        except Closed as error:
            self.ended = self.ended or str(error)
            raise ProgramEnded(self.ended) from None
        error = _exception(answer["error"])
        if isinstance(error, ProgramEnded):
            self.ended = str(error)
        raise error

    def call(self, target, arguments, keywords):
        self.calls += 1
        sent = self.encode(list(arguments))
        request = {"do": "call", **target, "arguments": sent, "keywords": self.encode(keywords)}
        value, changed, changed_keywords = self.ask(request)
        if isinstance(changed, list) and len(changed) == len(arguments):
            for mine, theirs in zip(arguments, changed, strict=True):
                _update(mine, theirs)
        if isinstance(changed_keywords, dict):
            for name in keywords.keys() & changed_keywords.keys():
                _update(keywords[name], changed_keywords[name])
        return value


def _update(mine, theirs):
    """Bring a mutable argument to what the program made of it."""
    if type(mine) is not type(theirs):
        return
    if isinstance(mine, (list, bytearray)):
        mine[:] = theirs
    elif isinstance(mine, (dict, set)):
        mine.clear()
        mine.update(theirs)


def _exception(error):
    """The program's exception, as a builtin one."""
    error = error if isinstance(error, dict) else {}
    name, text = str(error.get("name", "Exception")), str(error.get("text", ""))
    kind = getattr(builtins, str(error.get("kind")), None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return ProgramEnded(f"{name}: {text}" if text else name)
    if issubclass(kind, (StopIteration, StopAsyncIteration)):
        kind = RuntimeError  # it would end a loop of the test
    try:
        made = kind(text)
    except TypeError:  # some, such as UnicodeDecodeError, want more than a text
        made = Exception(text)
    made.program_error = (name, text, bool(error.get("forbidden")))
    return made


def global_names(code: types.CodeType) -> set[str]:
    """Names that a piece of code and the functions in it look up (among them names of attributes)."""
    inner = [global_names(part) for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*inner)


def judge(job: dict, link: Link) -> None:
    """Runs the test; raises whatever it raises."""
    space = {"__name__": "test"}
    entry = job["entry_point"]
    helpers = compile(job["helpers"], "<helpers>", "exec", dont_inherit=True)
    test = compile(job["test"], "<test>", "exec", dont_inherit=True)
    used = global_names(test)
    # most tests need none of the imports, and importing takes time
    if used & set(helpers.co_names) or "import *" in job["helpers"]:
        exec(helpers, space)
    link.ask({"do": "load"})
    for name in used - set(dir(builtins)) - set(space):
        # a program must not supply the means of comparison
        space[name] = __import__(name) if name in COMMON_MODULES else Refusing(link, {"name": name}, name)
    if entry:
        space[entry] = Refusing(link, {"name": entry}, entry)
    candidate = space.get(entry)
    exec(test, space)
    if entry and isinstance(space.get("check"), types.FunctionType):
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
    lines = job["test"].splitlines()
    return lines[line - 1].strip() if line is not None and line <= len(lines) else ""


def verdict(job: dict, link: Link) -> dict:
    try:
        judge(job, link)
        if link.ended is None:
            return {"status": "passed", "detail": ""}
        return {"status": "ended", "detail": link.ended}
    except BaseException as error:
        if link.ended is not None:  # whatever the test made of it
            return {"status": "ended", "detail": link.ended}
        where = failing_line(job, error)
        raised = getattr(error, "program_error", None)
        name, text, forbidden = raised or (type(error).__name__, str(error), False)
        detail = f"{name}: {text}" if text else name
        if isinstance(error, AssertionError) and where and raised is None:
            detail = f"{where} ({text})" if text else where
        elif where:
            detail = f"{detail} in: {where}"
        status = "forbidden" if forbidden else "out of memory" if isinstance(error, MemoryError) else "failed"
        return {"status": status, "detail": detail, "judged": not isinstance(error, NotPlain)}


def serve(job: dict, descriptors: list[int]) -> None:
    """Judges one program and writes the verdict."""
    socket, report = descriptors
    result = verdict(job, Link(socket))
    result["detail"] = result["detail"][:500]
    os.write(report, json.dumps(result).encode())
    os._exit(0)
