"""The attack suite of the tests, as one line: how many attacks, and what became of them under each isolation.

An attack is stopped where it does not pass, where its verdict is one that the table in `tests/evaluation/attacks.py`
allows, and where it left no trace: no file outside, no secret read, nothing reached, ended or left running, and honest
programs beside and after it pass. Without bubblewrap, what the table excuses for an attack is not held against it.
"""

from __future__ import annotations

import argparse
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
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", str(SUITE)]
        subprocess.run(command, stdout=sys.stderr, cwd=SUITE.parents[2], check=False)
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
    print_result("attacks", **found)


def _outcome(case: ElementTree.Element) -> str:
    kinds = {child.tag for child in case}
    return "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"


if __name__ == "__main__":
    main()
