"""Runs a program and then its test in one module, as plain Python would, and reports how they ended.

The report is the secret that the host made for this program where the test has ended normally, otherwise a status, a
missing package or the limit that was met, and a detail, one to a line.
"""

from __future__ import annotations
import __future__

import errno
import os
import sys
import types
from typing import Any, NoReturn


PROGRAM, TEST = "<program>", "<test>"
LONGEST_TEXT = 300
LONGEST_LINE = 150
LONGEST_NAME = 100  # characters: a report is written at once
ANNOTATIONS = __future__.annotations.compiler_flag
MOST_CAUSES = 20
THREADS = "threads and processes"
MEMORY = "memory"
# functions whose EAGAIN means that; of others it means that they would wait
STARTING = {"fork", "forkpty", "fork_exec", "_fork_exec", "posix_spawn", "posix_spawnp"}
LIMITS = {
    getattr(errno, name): limit
    for limit, names in {
        THREADS: "EAGAIN",
        "open files": "EMFILE",
        "size of a file": "EFBIG",
        "disk": "ENOSPC EDQUOT",
        "network": "ENETUNREACH ENETDOWN EAFNOSUPPORT",
        "permissions": "EPERM EACCES EROFS",
    }.items()
    for name in names.split()
}


def run(job: dict[str, Any], report: int) -> NoReturn:
    """Runs a program and its test, and ends this process.

    Args:
        job (`dict`): `code`, `test`, `entry_point`, `packages` and `secret`.
        report (`int`): descriptor to which the report is written.
    """
    # before the program runs, which can replace functions of every module
    write = os.write
    leave = os._exit
    process_id = os.getpid
    this = os.getpid()
    passed = job["secret"].encode()
    out_of_memory = f"out of memory\n{MEMORY}\nMemoryError".encode()
    code = 0
    try:
        execute(job["code"], job["test"], job["entry_point"])
        text = passed
    except MemoryError:
        text = out_of_memory
        code = 1
    except BaseException as error:
        text = failure(error, job["test"], job["packages"]).encode(errors="backslashreplace")
        code = exit_code(error)
    if process_id() == this:  # and not a process that the program forked, whose exit code it may look at
        write(report, text)
    leave(code)


def execute(code: str, test: str, entry_point: str | None) -> None:
    """Runs a program, its test, and the `check` that the test defines for the entry point.

    All are compiled before the program can replace anything that does so.
    """
    program = compile(code, PROGRAM, "exec", dont_inherit=True)
    flags = program.co_flags & ANNOTATIONS  # of the module, which the test is a part of
    tested = compile(test, TEST, "exec", flags, dont_inherit=True)
    checked = None if entry_point is None else compile(f"check({entry_point})", TEST, "exec", dont_inherit=True)
    execute_in = exec
    module = types.ModuleType("program")  # not `__main__`, whose blocks other harnesses do not run either
    sys.modules["program"] = module
    space = module.__dict__
    execute_in(program, space)
    of_program = space.get("check")
    execute_in(tested, space)
    if checked is not None and space.get("check") is not of_program:
        execute_in(checked, space)


def failure(error: BaseException, test: str, packages: list[str]) -> str:
    """The report where a program or its test raised an exception."""
    try:
        text = str(error)[:LONGEST_TEXT]
    except Exception as failed:
        text = f"no text: its __str__ raised {type(failed).__name__}"
    name, line = type(error).__name__[:LONGEST_NAME], failing_line(error, test)
    detail = (f"{name}: {text}" if text else name) + (f" in: {line}" if line else "")
    if package := missing_package(error, packages):
        return f"missing package\n{package}\n{detail}"
    limit = limit_met(error)
    return f"{'limited' if limit else 'failed'}\n{limit}\n{detail}"


def limit_met(error: BaseException | None) -> str:
    """The limit of the sandbox that caused an exception; empty where none did."""
    for _ in range(MOST_CAUSES):
        if error is None:
            break
        if isinstance(error, OSError):
            limit = "network" if type(error).__name__ == "gaierror" else LIMITS.get(error.errno, "")
            if limit and (limit != THREADS or starts_a_process(error)):
                return limit
        if isinstance(error, RuntimeError) and error.args == ("can't start new thread",):
            return THREADS
        # as Python shows them
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return ""


def starts_a_process(error: BaseException) -> bool:
    """Whether the function that raised an exception starts processes."""
    trace, names = error.__traceback__, set()
    while trace is not None:
        names, trace = {*trace.tb_frame.f_code.co_names}, trace.tb_next
    return not names.isdisjoint(STARTING)


def exit_code(error: BaseException) -> int:
    """With which code Python ends for an exception that nothing catches."""
    code = error.code if isinstance(error, SystemExit) else 1
    return code if isinstance(code, int) else int(code is not None)


def failing_line(error: BaseException, test: str) -> str:
    """The line of the test that raised; empty where none did."""
    number, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == TEST:
            number = trace.tb_lineno
        trace = trace.tb_next
    return "".join(test.split("\n")[number - 1 : number]).strip()[:LONGEST_LINE] if number else ""


def missing_package(error: BaseException, packages: list[str]) -> str:
    """The package that a program is missing, from the name of a module that could not be imported."""
    name = error.name if isinstance(error, ImportError) else None
    package = name.partition(".")[0] if isinstance(name, str) else ""
    known = package in sys.stdlib_module_names or package in packages
    return package if is_package(package) and not known else ""


def is_package(name: str) -> bool:
    """Whether a package can be called so."""
    return name.isidentifier() and len(name) <= LONGEST_NAME
