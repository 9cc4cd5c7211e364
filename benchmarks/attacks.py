"""The attack suite of the tests, as one line: how many attacks there are, and how they ended under each isolation.

An attack is stopped if it does not pass, if its verdict is one that the table in `tests/evaluation/attacks.py` allows,
and if it left no trace: no file outside, no secret read, nothing reached, killed or left running, and honest programs
run beside and after it pass. Without bubblewrap, what the table excuses for an attack is not counted. If the host is
root, programs get users of their own; `--user` shows what applies to the other users of a machine.
"""

from __future__ import annotations

import argparse
import getpass
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from common import print_result


SUITE = Path(__file__).parents[1] / "tests" / "evaluation" / "test_attacks.py"
ISOLATIONS = ("bubblewrap", "degraded")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--user", help="user that the suite runs as, such as nobody (default: this one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", str(SUITE)]
        options = {"env": {**os.environ, "HOME": folder, "TMPDIR": folder}}
        if args.user is not None:
            shutil.chown(folder, args.user)
            group = pwd.getpwnam(args.user).pw_gid
            options |= {"user": args.user, "group": group, "extra_groups": []}
        subprocess.run(command, stdout=sys.stderr, cwd=SUITE.parents[2], check=False, **options)
        if not report.is_file():
            raise SystemExit(
                f"the suite did not run; {args.user or 'this user'} may not be able to run {sys.executable}"
            )
        cases = list(ElementTree.parse(report).iter("testcase"))
    found = {}
    for isolation in ISOLATIONS:
        own = [
            case for case in cases if f"[{isolation}" in case.get("name", "") or f"{isolation}]" in case.get("name")
        ]
        outcomes = {case.get("name"): _outcome(case) for case in own}
        attacks = {name: outcome for name, outcome in outcomes.items() if name.startswith("test_attack[")}
        found[isolation] = {
            "attacks": len(attacks),
            "stopped": Counter(attacks.values())["passed"],
            "not_stopped": sorted(name for name, outcome in attacks.items() if outcome == "failed"),
            "skipped": Counter(attacks.values())["skipped"],
            "other_tests": dict(Counter(outcome for name, outcome in outcomes.items() if name not in attacks)),
        }
    print_result("attacks", user=args.user or getpass.getuser(), **found)


def _outcome(case: ElementTree.Element) -> str:
    kinds = {child.tag for child in case}
    return "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"


if __name__ == "__main__":
    main()
