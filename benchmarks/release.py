"""Makes a model as it would be published: pruned, perhaps trained, evaluated, timed, exported, with its card.

    python benchmarks/release.py 0.5b-vocabulary --model DENSE --work DIR --confirm-run-unsafe-code
    python benchmarks/release.py 0.5b-0.35-recovered --model DENSE --work DIR --data INSTRUCTIONS.json ...
    python benchmarks/release.py 1.5b-0.22 --model DENSE --work DIR --cards model_cards ...

The folder is DIR/NAME. Each step is a command of `optimum-cli flab`, left out where its output is there, so that the
same command goes on where it was. The evaluation executes what models wrote: hence the consent.
`--cards` takes a copy of the card, with the images that it shows, to a folder of that name.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from common import flab_command, made_once, positive, print_result


BATCH_SIZE = 32  # as in paper_tables.py: a cache that both use holds the dense model's completions once
IMAGE = re.compile(r"!\[[^]]*\]\(([^)]+)\)")


@dataclass(frozen=True)
class Release:
    """What is published.

    Args:
        base: id of the dense model on the Hub, under the licence Apache 2.0.
        prune: flags of `flab prune`.
        recover: flags of `flab recover`; `None`: it is not trained.
        types: of the GGUF files.
    """

    base: str
    prune: tuple[str, ...]
    recover: tuple[str, ...] | None = None
    types: tuple[str, ...] = ("q8_0", "q4_k_m")


BASES = {size: f"Qwen/Qwen2.5-Coder-{size}-Instruct" for size in ("0.5B", "1.5B")}
RELEASES = {
    "0.5b-vocabulary": Release(BASES["0.5B"], ("--coverage", "0.9995", "--no-layers", "--no-ffn")),
    "0.5b-0.35-recovered": Release(
        BASES["0.5B"],
        ("--target-ratio", "0.35"),
        (
            *("--answers", "reference", "--most-examples", "700", "--text-share", "0.82", "--text-tokens", "66000"),
            *("--dtype", "bfloat16", "--epochs", "1", "--batch-size", "2"),
            *("--rank", "64", "--learning-rate", "3e-4"),
        ),
    ),
    "1.5b-0.22": Release(BASES["1.5B"], ("--target-ratio", "0.22", "--calibration-tokens", "8192")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RELEASES)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder of the dense model")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--data", nargs="+", default=[], help="sources of instructions for a recovery")
    parser.add_argument("--cards", type=Path, help="folder that gets a copy of the card (default: none)")
    parser.add_argument("--tasks", default="standard", help="of `flab eval` (default: %(default)s)")
    parser.add_argument("--codeharmony", type=Path, help="file with CodeHarmony's problems (default: left out)")
    parser.add_argument("--cruxeval", type=Path, help="file with CRUXEval's problems (default: from the Hub)")
    parser.add_argument("--limit", type=positive, help="only the first N problems of each task (default: all)")
    parser.add_argument("--confirm-run-unsafe-code", action="store_true", help="run what the models write")
    args = parser.parse_args()
    release, folder = RELEASES[args.name], args.work / args.name
    results, efficiency = (args.work / f"{args.name}-{what}" for what in ("evaluation", "efficiency"))
    if not args.confirm_run_unsafe_code:
        raise SystemExit("an evaluation executes what models wrote: --confirm-run-unsafe-code allows it")
    if release.recover is not None and not folder.is_dir() and not args.data:
        raise SystemExit(f"{args.name} is trained on instructions: name some by --data")
    pair = ["-m", folder, "--baseline", args.model]
    pruned = folder if release.recover is None else args.work / f"{args.name}-before"
    done = []
    if not folder.is_dir():
        if not pruned.is_dir():
            done += run("prune", "-m", args.model, pruned, *release.prune)
        if release.recover is not None:
            sources = [word for source in args.data for word in ("--data", source)]
            done += run("recover", "-m", pruned, folder, "--teacher", args.model, *sources, *release.recover)
    limit = [] if args.limit is None else ["--limit", args.limit]
    files = {"codeharmony": args.codeharmony, "cruxeval_output": args.cruxeval}
    data = [word for task, file in files.items() if file is not None for word in ("--data", f"{task}={file}")]
    asked = ["--tasks", args.tasks, *data, *limit, "--batch-size", BATCH_SIZE, "--confirm-run-unsafe-code"]
    for verb, out, more in (("eval", results, asked), ("bench", efficiency, [])):
        if made_once(out, [folder, args.model], verb, *pair, *more, "-o", out):
            done.append(verb)
    for kind in release.types:
        file = folder / f"{args.name}-{kind}.gguf"
        if not file.exists():
            done += run("export", folder, file, "--type", kind)
    told = ["--results", results, "--results", efficiency, "--base-model", release.base, "--license", "apache-2.0"]
    done += run("card", folder, *told, "--repo-id", f"me/qwen2.5-coder-{args.name}")
    card = (folder / "README.md").read_text(encoding="utf-8")
    if args.cards is not None:
        copy_card(folder, card, args.cards / f"qwen2.5-coder-{args.name}")
    print_result(
        "release", folder=str(folder), steps=done, missing=re.findall(r"(?i).*\bnot (?:evaluated|measured)\b.*", card)
    )


def run(verb: str, *told: object) -> list[str]:
    """Runs a verb of `optimum-cli flab`; returns its name."""
    subprocess.run(flab_command(verb, *told), check=True)
    return [verb]


def copy_card(folder: Path, card: str, place: Path) -> None:
    """Copies a card with its images."""
    place.mkdir(parents=True, exist_ok=True)
    images = [image for image in IMAGE.findall(card) if (folder / image).is_file()]
    for name in ("README.md", *images):
        shutil.copyfile(folder / name, place / name)


if __name__ == "__main__":
    main()
