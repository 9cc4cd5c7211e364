"""What a fault at any request of a push leaves in the repository.

    python benchmarks/push_faults.py

Pushes go to a Hub on loopback (the one of the tests, with LFS) through the real library. At every request of a push to
a new repository, an update, a new branch and a pull request, every fault happens once, before and after the Hub has
processed the request: connection reset or refused, 429 with and without a time to wait, 403, 413, 500, 503, 504, body
truncated, process killed, repository deleted, gated or full; with `--lasting` also a Hub that is down from that
request on. After each the repository must hold the old or the new state, and the same push again must complete with
one commit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from common import positive, print_result, progress


sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

LASTING = ("reset!", "503!")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--limit", type=positive, help="only the first N requests of each push (default: all)")
    parser.add_argument("--lasting", action="store_true", help="also a Hub that is down from each request on")
    args = parser.parse_args()

    from hub.faults import SCENARIOS, talking_to, trials
    from hub.loopback import FAULTS, Hub
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()

    found = []
    with tempfile.TemporaryDirectory() as home, Hub().serving() as hub, talking_to(hub, home):
        kinds = (*FAULTS, *(LASTING if args.lasting else ()))
        for done, name in enumerate(SCENARIOS):
            progress(done, len(SCENARIOS), name)
            for trial in trials(
                hub, name, lambda number, path: kinds if args.limit is None or number < args.limit else ()
            ):
                found.append(trial)
                if trial.wrong:
                    print(f"{trial.scenario}, {trial.fault} at {trial.request}: {trial.wrong}", file=sys.stderr)
    print_result(
        "push_faults",
        pushes_with_a_fault=len(found),
        requests={name: len({trial.number for trial in found if trial.scenario == name}) for name in SCENARIOS},
        faults=list(kinds),
        outcomes=dict(Counter(trial.outcome for trial in found)),
        wrong=sum(bool(trial.wrong) for trial in found),
    )


if __name__ == "__main__":
    main()
