"""What a recovery regains, and what it costs: divergence on held-out text, wall time, peak memory.

    python benchmarks/recovery.py --dense DENSE --
        -m OUT/0.45 OUT/recovered --teacher DENSE --data SOURCE ... --held-out SOURCE

What follows `--` goes to `optimum-cli flab recover`, together with `--confirm-run-unsafe-code` if programs may run.
The time is that of the whole command, from start to exit; the memory the largest sum over its process tree (PSS: a
page shared by several processes counts once), sampled every second. Divergences are those of the recovery's own
report, on text that it neither trained on nor used to choose a checkpoint.

`--plain FOLDER` runs it a second time into that folder, as plain fine-tuning on the reference answers (only
cross-entropy) with the same sequences per step and the same number of steps, and prints both.

`--processes N` runs it a second time in N processes (`torchrun`), into the first one's folder with `-processes`
appended to its name, and prints how far apart the two loss curves are.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from common import count_parameters, fingerprint, flab_command, load_model, memory_peak, positive, print_result


PLAIN = ("--answers", "reference", "--loss", "cross-entropy")


def output_of(flags: list[str]) -> Path:
    """The output folder among the flags of `flab recover`: the word after that of `-m`."""
    for index, word in enumerate(flags):
        if word in ("-m", "--model") and index + 2 < len(flags):
            return Path(flags[index + 2])
    raise SystemExit("write the flags as '-m MODEL OUTPUT --teacher DENSE ...'")


def processor_seconds() -> float:
    """Processor time of the processes that have ended: what a shared machine does not change much."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measured(command: list[str], output: Path) -> dict[str, object]:
    """Runs a recovery; time, memory, and what its report says."""
    start, used = time.perf_counter(), processor_seconds()
    process = subprocess.Popen(command, stdout=sys.stderr)
    with memory_peak(process.pid, interval=1.0) as peak:  # more often, it takes a fifth of a core itself
        status = process.wait()
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    section = json.loads((output / "flab_report.json").read_text(encoding="utf-8"))["recovery"]
    before, after = section["held_out_before"], section["held_out_after"]
    return {
        "wall_seconds": round(wall, 1),
        "processor_seconds": round(processor_seconds() - used, 1),
        "peak_bytes": peak.bytes,
        "peak_kind": peak.kind,
        "divergence_before": before["divergence"],
        "divergence_after": after["divergence"],
        "divergence_ratio": round(after["divergence"] / before["divergence"], 4),
        "bits_per_byte": [before["pruned_bits_per_byte"], after["pruned_bits_per_byte"], after["dense_bits_per_byte"]],
        "held_out_positions": after["positions"],
        "data": section["data"],
        "training": {name: value for name, value in section["training"].items() if name != "curve"},
        "curve": section["training"]["curve"],
        "estimate": section["estimate"],
        "stages": section["stages"],
        "notes": section["notes"],
        "fingerprint": fingerprint(output),
    }


def with_output(flags: list[str], output: Path) -> list[str]:
    changed = list(flags)
    changed[changed.index(str(output_of(flags)))] = str(output)
    return changed


def with_own_cache(flags: list[str], output: Path) -> list[str]:
    """The same into another folder, from nothing: the first run's checkpoints would be gone on from."""
    return [*with_output(flags, output), "--cache-dir", str(output.with_name(f"{output.name}-cache"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", required=True, help="checkpoint folder of the dense model, for its size")
    parser.add_argument("--plain", type=Path, help="folder for a second run, plain fine-tuning on the references")
    parser.add_argument("--processes", type=int, help="processes of a second run, the same otherwise")
    parser.add_argument("--limit", type=positive, help="at most N steps, for a trial")
    parser.add_argument("recover", nargs="+", metavar="-- ARGUMENT", help="arguments of `optimum-cli flab recover`")
    args = parser.parse_args()
    flags = [*args.recover, *(["--max-steps", str(args.limit)] if args.limit else [])]
    output = output_of(flags)

    float32_bytes = 4 * count_parameters(load_model(args.dense, "bfloat16"))
    first = measured(flab_command("recover", *flags), output)
    result = {
        "command": ["optimum-cli", "flab", "recover", *flags],
        **first,
        "float32_bytes": float32_bytes,
        "peak_to_float32": round(first["peak_bytes"] / float32_bytes, 3),
    }
    if args.plain:
        steps = ["--max-steps", str(first["training"]["steps"])]
        second = measured(flab_command("recover", *with_output(flags, args.plain), *PLAIN, *steps), args.plain)
        result["plain"] = second
    if args.processes:
        other = output.with_name(f"{output.name}-processes")
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launch += ["--nproc_per_node", str(args.processes), "-m", "optimum_flab.recovery"]
        second = measured([*launch, *with_own_cache(flags, other)], other)
        gaps = [
            abs(one[name] - two[name])
            for one, two in zip(first["curve"], second["curve"], strict=True)
            for name in one
            if name != "step"
        ]
        result["processes"] = {"number": args.processes, "largest_gap": max(gaps), "curve": second["curve"]}
    print_result("recovery", **result)


if __name__ == "__main__":
    main()
