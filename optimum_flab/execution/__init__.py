"""Runs programs that a model wrote, and decides whether they are right.

Two processes a program, each in a sandbox of its own: the *guest* runs the program and answers calls, the *judge* runs
the problem's test and calls. Only plain values cross, so that a verdict cannot be forged by what the program prints,
by how it exits, or by the objects that it returns.

`runner.py` runs many programs, `seat.py` one after the other and `sandbox.py` a process; `isolation.py` keeps programs
apart from the machine, `packages.py` says what they may import. `inside/` is the folder that a sandbox sees, of plain
scripts that import each other by name: `serve.py` starts the rest, `guest.py` runs the program, `judge.py` the test,
and `wire.py` carries values between them.
"""

from .isolation import Isolation, Limits, candidates
from .runner import SandboxWarning, best_isolation, check_packages, run_programs, warn_of, works
from .values import Program, Verdict


__all__ = [
    "Isolation",
    "Limits",
    "Program",
    "SandboxWarning",
    "Verdict",
    "best_isolation",
    "candidates",
    "check_packages",
    "run_programs",
    "warn_of",
    "works",
]
