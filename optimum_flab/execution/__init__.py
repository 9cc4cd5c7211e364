"""Runs programs that a model wrote, and decides whether they are right.

Two processes per program, each in its own sandbox: the *guest* runs the program and answers calls, the *judge* runs
the problem's test and makes the calls. Only plain values cross, so a verdict cannot be forged by what the program
prints, by how it exits, or by the objects that it returns.

`runner.py` runs many programs, `seat.py` runs them one after another and `sandbox.py` runs a process; `isolation.py`
isolates programs from the machine, `packages.py` says what they may import. `inside/` is the folder that a sandbox
sees: plain scripts that import each other by name. `serve.py` starts the rest, `guest.py` runs the program, `judge.py`
runs the test, and `wire.py` carries values between them.
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
