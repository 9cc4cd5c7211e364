"""Runs programs that a model wrote, and decides whether they are right.

Two processes a program, each in a sandbox of its own: the *guest* runs the program and answers calls, the *judge* runs
the problem's test and calls. Only plain values cross, so that a verdict cannot be forged by what the program prints,
by how it exits, or by the objects that it returns.

`runner.py` is the host's side, `isolation.py` what keeps programs apart from the machine, `packages.py` what they may
import; `serve.py`, `guest.py`, `judge.py` and `wire.py` run inside.
"""

from .isolation import Isolation, Limits, candidates
from .runner import Program, SandboxWarning, Verdict, best_isolation, check_packages, run_programs, warn_of, works


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
