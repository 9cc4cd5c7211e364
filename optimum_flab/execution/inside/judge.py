"""The process that runs a problem's test: it calls the program through proxies and compares plain values.

Forked by `serve.py` inside a different sandbox from the program's. Only this process writes the verdict.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import signal
import sys
import types
from collections.abc import Callable
from itertools import chain
from typing import NoReturn

from judge_link import MODULE, TOO_MUCH, Link, Refusing, lent
from source import assigned, class_attribute_used, compares_scalars_by_identity, defines, global_names, state_used
from wire_limits import COMMON_MODULES, LONGEST_NAME


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
    # a class that the test defines for itself, perhaps the right answer, says nothing about the program's of that name
    link.own_classes = {node.name for node in ast.walk(link.test) if isinstance(node, ast.ClassDef)}
    classes = {name: kind for name, kind in classes.items() if name not in link.own_classes}
    link.elsewhere = link.elsewhere or class_attribute_used(link.test, classes)
    names = used - set(dir(builtins)) - set(space)
    wanted = sorted(names.difference(COMMON_MODULES) | ({entry} if entry else set()))
    known, methods = link.ask({"do": "load", "classes": [*classes], "names": wanted}, [])
    for name in names.intersection(COMMON_MODULES):
        space[name] = __import__(name)  # a program must not supply the means of comparison
    for name in wanted:
        # a function that the program lacks reports this when it is called
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
    """A line of the test, counted from 1; empty where it has no such line."""
    lines = job["test"].splitlines()
    return lines[line - 1].strip() if line is not None and line <= len(lines) else ""


def about_a_handle(text: str) -> bool:
    """Whether Python itself refused an object of the program, before [`Refusing`] could."""
    return Refusing.__name__ in text or text.startswith("catching classes that do not inherit")


def missing_package(job: dict, module: object) -> str | None:
    """The package that a program is missing, from the name of a module that could not be imported."""
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
        `package` where they apply.
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
    """The verdict on a program whose test needs more than can be judged, with the line of the test."""
    detail = f"not judged: {reason}"
    return {"status": "failed", "detail": f"{detail} in: {where}" if where else detail, "judged": False}


def is_of_an_iterator(text: str) -> bool:
    """Whether Python says that an iterator or a generator lacks something."""
    return any(f"'{kind.__name__}' object" in text for kind in (type(iter([])), chain, types.GeneratorType))


def lost_on_the_way(link: Link, error: BaseException, raised: bool) -> str | None:
    """Why a test may have failed that would not have failed with program and test in one process.

    Args:
        raised (`bool`): whether the program raised the exception.
    """
    # what the program raises is its own, unless it was given less than the test has, or less than it gave before
    perhaps = not raised or isinstance(error, AttributeError)
    if not raised and isinstance(error, (AttributeError, TypeError)) and is_of_an_iterator(str(error)):
        return "iterators cross with their items alone"
    if name := link.wire.reduced or ((link.wire.reduced_there or link.reduced_error) if perhaps else None):
        return f"{str(name)[:LONGEST_NAME]} does not cross whole, and the test may need more of it"
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
    except BaseException as failed:  # because of an object of the program in it, which the link then knows about
        text = type(failed).__name__
    text = text.replace("'Refusing' object is not callable", "what the program returned is not callable")
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
