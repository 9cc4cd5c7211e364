"""Keeps what is known of a model as a record: its report and settings, what it was evaluated by, and by which commit.

    python benchmarks/keep.py NAME MODEL --results RESULTS … --expected DENSE

The record is a folder of `records/models`, from which `pages.py` makes tables and a card. `--expected` asks `flab
inspect` which shape it expects of the command that made the model, so that a test can compare both.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
from pathlib import Path

from common import commit, flab_command, machine


MODELS = Path(__file__).with_name("records") / "models"
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:[\w.@+-]+/)+([\w.@+-]+)")  # a path, and its last name
FILES = ("config.json", "flab_config.json", "flab_plan.json", "flab_report.json", "flab_trim.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the record")
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--results", type=Path, nargs="+", default=[], help="what `flab eval` and `flab bench` wrote")
    parser.add_argument("--expected", type=Path, help="the dense model, for `flab inspect` (default: it is not asked)")
    parser.add_argument("--seconds", type=float, help="that it took, where its report does not say")
    parser.add_argument("--commit", default=commit(), help="of the model and its results (default: %(default)s)")
    args = parser.parse_args()
    kept = MODELS / args.name
    kept.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (path := args.model / name).is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            if name == "flab_plan.json":  # no page names single tokens and neurons, which are most of it
                content |= {"kept": {"layer": content["kept"]["layer"]}, "compensated": []}
            write(kept / name, content)
    for folder in args.results:
        for path in folder.glob("flab_e*.json"):
            target = kept / folder.name if len(args.results) > 1 else kept
            write(target / path.name, json.loads(path.read_text(encoding="utf-8")))
    about = {"commit": args.commit, "machine": machine()}
    if args.seconds is not None:
        about["seconds"] = args.seconds
    if args.expected is not None:
        about["expected"] = expected(args.model, args.expected)
    write(kept / "record.json", about)


def expected(model: Path, dense: Path) -> dict[str, int | None]:
    """The shape that `flab inspect` expects of the flags that made a model, for the type of its file if it has one."""
    report = json.loads((model / "flab_report.json").read_text(encoding="utf-8"))
    flags = shlex.split(report["command"])[6:]  # after optimum-cli flab prune -m DENSE OUT
    told = flab_command("inspect", "-m", dense, *(flag for flag in flags if flag not in ("--gguf", "auto")), "--json")
    found = json.loads(subprocess.run(told, stdout=subprocess.PIPE, text=True, check=True).stdout)["outlook"]
    return found["types"][report["files"][0]["type"]]["shape"] if report["files"] else found["shape"]


def write(path: Path, content: object) -> None:
    """Writes JSON without the paths of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(without_folders(content), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def without_folders(value: object) -> object:
    """The same with the last names of absolute paths."""
    if isinstance(value, dict):
        return {name: without_folders(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_folders(part) for part in value]
    return ABSOLUTE.sub(r"\1", value) if isinstance(value, str) else value


if __name__ == "__main__":
    main()
