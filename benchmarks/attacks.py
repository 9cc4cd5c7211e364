"""The attacks of `tests/execution/attacks.yaml`: how many are stopped under each isolation that works here.

An attack is stopped if it does not pass, if its verdict is one that the file allows, and if it left no trace: no file
outside, no secret read, nothing reached, killed or left running. Honest programs run among them and must pass. Nothing
is excused here; the tests excuse what an isolation is known not to stop. If the host is root, programs get users of
their own; `--user` shows what applies to the other users of a machine.
"""

from __future__ import annotations

import argparse
import getpass
import os
import pwd
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from common import print_result


TESTS = Path(__file__).parents[1] / "tests" / "execution"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--user", help="user that this runs as, such as nobody (default: this one)")
    args = parser.parse_args()
    if args.user is not None and args.user != getpass.getuser():
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o777)
            group = pwd.getpwnam(args.user).pw_gid
            options = {"user": args.user, "group": group, "extra_groups": []}
            environment = {**os.environ, "HOME": folder, "TMPDIR": folder, "USER": args.user, "LOGNAME": args.user}
            raise SystemExit(subprocess.call([sys.executable, __file__], env=environment, cwd=folder, **options))
    sys.path.insert(0, str(TESTS))
    from attacks import ATTACKS, faults

    from optimum_flab.execution import SandboxWarning, candidates, works

    warnings.simplefilter("ignore", SandboxWarning)
    found = {}
    for isolation in filter(works, candidates()):
        failures = {name: said for name, said in faults([*ATTACKS.values()], isolation, excuse=False).items() if said}
        found[isolation.name + (", a user for each program" if isolation.own_user else "")] = {
            "attacks": len(ATTACKS),
            "stopped": len(ATTACKS) - len(failures.keys() & ATTACKS.keys()),
            "failures": failures,
        }
    print_result("attacks", user=getpass.getuser(), **{"isolations": found})


if __name__ == "__main__":
    main()
