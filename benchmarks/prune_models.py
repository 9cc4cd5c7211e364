"""Makes the checkpoints that the figures are measured on, with `optimum-cli flab prune`.

`0.22` and `0.35` aim at those shares of the parameters. `reference` has the shape of `0.35` (vocabulary, layers,
width) with the criteria of the reference: layers by last-token cosine, the first neurons of each layer. `vocabulary`
prunes only the vocabulary, to its natural size. Each goes into a folder of that name under `--output`; existing ones
are left as they are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from common import flab_command, kept_tokens, positive, print_result


JOBS = ("0.22", "0.35", "reference", "vocabulary")


def job_flags(job: str, output: Path) -> list[str]:
    """Flags of `flab prune` that make one checkpoint."""
    if job == "vocabulary":
        return ["--no-layers", "--no-ffn"]
    if job != "reference":
        return ["--target-ratio", job]
    source = output / "0.35" / "config.json"
    if not source.is_file():
        raise SystemExit(f"{source} does not exist: the reference takes its shape; make 0.35 first")
    config = json.loads(source.read_text(encoding="utf-8"))
    sizes = {
        "--vocab-size": "vocab_size",
        "--num-hidden-layers": "num_hidden_layers",
        "--intermediate-size": "intermediate_size",
    }
    shape = [str(word) for flag, name in sizes.items() for word in (flag, config[name])]
    return [*shape, "--layer-criterion", "last-token-cosine", "--ffn-criterion", "first"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder of the dense model")
    parser.add_argument("--output", required=True, type=Path, help="folder for the checkpoints")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=["0.22", "0.35", "reference"])
    parser.add_argument("--corpus", nargs="+", default=[], help="sources of the corpus")
    parser.add_argument("--calibration", nargs="+", default=[], help="sources of calibration text")
    parser.add_argument("--limit", type=positive, help="at most N calibration tokens, for a trial")
    parser.add_argument(
        "extra", nargs="*", metavar="-- FLAG", help="further flags of `flab prune`, for every checkpoint"
    )
    args = parser.parse_args()

    sources = [word for source in args.corpus for word in ("--corpus", source)]
    sources += [word for source in args.calibration for word in ("--calibration", source)]
    if args.limit:
        sources += ["--calibration-tokens", str(args.limit)]
    made = {}
    for job in sorted(args.jobs, key=JOBS.index):
        folder = args.output / job
        if (folder / "config.json").is_file():
            made[job] = "was there"
            continue
        command = flab_command("prune", "-m", args.model, folder, *job_flags(job, args.output), *sources, *args.extra)
        print(" ".join(command), file=sys.stderr, flush=True)
        start = time.perf_counter()
        # only the result may stand on stdout
        status = subprocess.run(command, stdout=sys.stderr).returncode
        if status:
            raise SystemExit(f"{job}: `optimum-cli flab prune` ended with status {status}")
        made[job] = round(time.perf_counter() - start, 1)
    values: dict[str, object] = {"model": args.model, "output": str(args.output), "seconds": made}
    if "reference" in made:
        same = kept_tokens(args.output / "reference") == kept_tokens(args.output / "0.35")
        values["reference_keeps_same_tokens"] = same
    print_result("prune_models", **values)


if __name__ == "__main__":
    main()
