"""Runs programs that a model wrote, and decides whether they are right.

A program and its test run in one process, in a sandbox. The program has passed when a secret that the host made for it
comes back on a pipe of its own, which happens once the test has ended normally.

`runner.py` runs many programs, `worker.py` runs them one after another and `sandbox.py` is a sandbox's process;
`isolation.py` and `seccomp.py` isolate programs from the machine, `packages.py` says what they may import. A sandbox
sees the folder `inside/`: `serve.py` starts a process for each program, and `harness.py` runs it there.
"""

from .isolation import Isolation, Limits, candidates
from .runner import SandboxWarning, best_isolation, check_packages, check_system, run_programs, works
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
    "check_system",
    "run_programs",
    "works",
]
