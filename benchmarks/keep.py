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
import shutil
import subprocess
from pathlib import Path
from typing import Any

import common


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
    parser.add_argument("--commit", default=common.commit(), help="of its program (default: %(default)s)")
    args = parser.parse_args()
    common.check_distinct([folder.name for folder in args.results])
    content = {Path(name): read(path) for name in FILES if (path := args.model / name).is_file()}
    if not {"flab_report.json", "flab_trim.json"} & set(map(str, content)):
        raise SystemExit(f"{args.model} is neither a pruned nor a trimmed model")
    if (plan := content.get(Path("flab_plan.json"))) is not None:  # of single tokens and neurons no page says anything
        plan |= {"kept": {"layer": plan["kept"]["layer"]}, "compensated": []}
    for folder in args.results:
        found = {path: read(path) for path in sorted(folder.glob("flab_e*.json"))}
        if not found:
            raise SystemExit(f"{folder} holds no results")
        for path, results in found.items():
            if not is_of(results, args.model):
                raise SystemExit(f"{path} is of another model than {args.model}")
            content[Path(folder.name if len(args.results) > 1 else "", path.name)] = results
    about = {"commit": args.commit, "machine": common.machine()}
    if args.seconds is not None:
        about["seconds"] = args.seconds
    if args.expected is not None:
        about["expected"] = expected(args.model, args.expected)
    kept = MODELS / args.name
    shutil.rmtree(kept, ignore_errors=True)
    for name, values in (content | {Path("record.json"): about}).items():
        write(kept / name, values)


def is_of(results: dict[str, Any], model: Path) -> bool:
    """Whether results are of a checkpoint, or of a GGUF file of its folder."""
    own = next(one for role, one in results["models"].items() if role in ("pruned", "model"))
    if (trim := model / "flab_trim.json").is_file():
        return Path(own["name"]).name in read(trim)["files"]
    report = read(model / "flab_report.json")
    files, weights = {one["name"] for one in report["files"]}, report["weights_sha256"]
    return Path(own["name"]).name in files or own.get("weights_sha256", weights) == weights  # `flab bench` hashes none


def expected(model: Path, dense: Path) -> dict[str, int | None]:
    """The shape that `flab inspect` expects of the flags that made a model."""
    report = read(model / "flab_report.json")
    flags = shlex.split(report["command"])[6:]  # after -m DENSE OUT
    told = common.flab_command("inspect", "-m", dense, *flags, "--json")
    found = json.loads(subprocess.run(told, stdout=subprocess.PIPE, text=True, check=True).stdout)["outlook"]
    return found["shape"]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


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
