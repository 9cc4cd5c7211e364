"""Pruning methods compared: one model, one number of parameters, one calibration text.

    python benchmarks/compare.py --model DENSE --work DIR --share 0.35
    python benchmarks/compare.py --model DENSE --work DIR --share 0.14 --of body
    pip install optipfair   # for the row of that library

`ours` is pruned first, and all others are reduced to its number of parameters, each by the parts it prunes: as many
layers as it takes (at most one more than needed), neurons in multiples of 64, the vocabulary that `ours` keeps. With
`--of body` the share is that of everything but the vocabulary, which stays. Other methods are represented by their
scores (`benchmarks/peers.py`) on the calibration text of `ours`, in the shape and the format of this tool; `optipfair`
is the library itself, by its defaults and, as `optipfair-data`, with that text. A method that cannot remove that much
has no row. Where `--methods` names them, `ours-sliced` is ours without its refit and `energy-refit` a plain score with
it.

Every checkpoint is in a folder of its own under DIR, with `measured.json` beside its weights; existing results are not
made again. Each row has the seconds and the peak memory of its pruning; that of a score those of a pass over the text
and of `flab apply`. Divergence and bits per byte are measured on HumanEval text (`humaneval_text.py`), passes on its
problems (`passes.py`, which executes what models wrote), and `flab bench` times a prompt of 2,048 tokens and 32 more,
once for each shape.
`--also LABEL=FOLDER` adds a row for a checkpoint that was made elsewhere, such as a recovered one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from common import check_distinct, flab_command, labelled, memory_peak, positive, print_result, progress


if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from optimum_flab.sizes import ModelSizes

BENCHMARKS = Path(__file__).parent
MULTIPLE = 64  # of neurons
NOTHING = 1e-4  # nats, or percent, that bfloat16 cannot tell from 0
TAYLOR_ROWS = 10  # LLM-Pruner takes ten samples
AT_ONCE = 3  # checkpoints in memory that share the predictions of the dense model
OF_TEXTS = ("divergence", "bits_per_byte_ratio", "parameters", "parameters_removed")


@dataclass(frozen=True)
class Method:
    """One row.

    Args:
        name: of its folder.
        source: who published it.
        parts: what it prunes, by dimension.
        flags: of `flab prune`, for one that this tool computes.
        score: of `peers.SCORES`, for one that ranks neurons by it.
        library: whether `optipfair` does it.
        reads: whether that library is given the calibration text, which its defaults do without.
        sliced: whether it is `ours` without its refit: the same parts, their weights as they were.
        usual: whether it has a row where `--methods` names none.
    """

    name: str
    source: str
    parts: tuple[str, ...]
    flags: tuple[str, ...] = ()
    score: str | None = None
    library: bool = False
    reads: bool = False
    sliced: bool = False
    usual: bool = True


ALL = ("vocab", "layer", "neuron")
METHODS = (
    Method("ours", "vocabulary, layers and neurons together", ALL),
    Method("ours-depth", "layers alone, by divergence", ("layer",)),
    Method("ours-width", "neurons alone, optimal brain surgeon with refit", ("neuron",)),
    Method("ours-vocabulary", "vocabulary alone", ("vocab",)),
    Method("ours-sliced", "the parts that ours keeps, without its refit", ALL, sliced=True, usual=False),
    Method(
        "energy-refit",
        "energy of neurons, refitted as ours",
        ALL,
        flags=("--ffn-criterion", "energy-refit"),
        usual=False,
    ),
    Method(
        "reference",
        "code of Flab-Pruner, arXiv 2412.15921",
        ALL,
        flags=("--layer-criterion", "last-token-cosine", "--ffn-criterion", "first"),
    ),
    Method("shortgpt", "arXiv 2403.03853", ("layer",), flags=("--layer-criterion", "block-influence")),
    Method("optipfair", "library of Martra, maximum absolute weight", ("neuron",), library=True),
    Method("optipfair-data", "the same with activations", ("neuron",), library=True, reads=True),
    Method("wanda", "arXiv 2306.11695, 2312.11983", ("neuron",), score="wanda"),
    Method("flap", "arXiv 2312.11983", ("neuron",), score="flap"),
    Method("llm-pruner", "arXiv 2305.11627", ("neuron",), score="llm-pruner"),
    Method("minitron", "arXiv 2407.14679", ("neuron",), score="minitron"),
    Method("compact", "arXiv 2509.06836", ("vocab", "neuron"), score="compact"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder of the dense model")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and what is measured")
    parser.add_argument("--share", type=float, required=True, help="of the parameters, to remove")
    parser.add_argument("--of", choices=("all", "body"), default="all", help="parameters (default: %(default)s)")
    usual = "(default: all but " + " and ".join(one.name for one in METHODS if not one.usual) + ")"
    parser.add_argument("--methods", nargs="+", choices=[one.name for one in METHODS], help=usual)
    parser.add_argument("--limit", type=positive, help="only N problems, and as many texts (default: all)")
    parser.add_argument("--texts", type=positive, help="measure divergence and bits per byte on N (default: --limit)")
    parser.add_argument("--tokens", type=int, default=32768, help="of calibration text (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", help="of divergence and speed (default: %(default)s)")
    parser.add_argument("--no-passes", action="store_true", help="do not execute what models wrote")
    parser.add_argument("--no-speed", action="store_true", help="do not time anything")
    parser.add_argument("--also", nargs="+", type=labelled, default=[], help="further rows: LABEL=FOLDER")
    parser.add_argument("--plot", type=Path, help="file for the plot (default: none)")
    args = parser.parse_args()
    args.texts = args.texts or args.limit
    wanted = [one for one in METHODS if (one.name in args.methods if args.methods else one.usual)]
    place = args.work / f"{Path(args.model).name}-{args.share:g}-of-{args.of}-{args.tokens}"
    check_distinct([*(label for label, _ in args.also), *(one.name for one in wanted)])
    make_ours(args, place)
    rows: dict[str, dict] = {}
    folders: dict[str, Path] = {}
    for done, method in enumerate(wanted, 1):
        sizes = sizes_of(args.model, method.parts, place / "ours")
        if sizes is not None:
            make(args, place, method, sizes)
            rows[method.name] = {"source": method.source, **sizes}
            folders[method.name] = place / method.name
        progress(done, len(wanted), "methods pruned")
    for label, folder in args.also:
        rows[label] = {"source": "made elsewhere", **model_sizes(folder).shape}
        folders[label] = folder
    measure_texts(args, list(folders.values()))
    for done, (label, folder) in enumerate(folders.items(), 1):
        rows[label] |= measured(args, place, folder)
        progress(done, len(folders), "methods measured")
    print_result("compare", share=args.share, of=args.of, rows=rows)
    if args.plot is not None:
        plot(rows, args.plot)


def make_ours(args: argparse.Namespace, place: Path) -> None:
    """Prunes to the share by the defaults: the size that all others come down to."""
    from optimum_flab.inspection import inspect_model

    if is_made(place / "ours"):
        return
    share = args.share
    if args.of == "body":
        counts = inspect_model(args.model).to_dict()
        share *= counts["body_parameters"] / counts["parameters"]
    more = ["--keep-vocabulary"] if args.of == "body" else []
    run_flab("prune", args, place / "ours", "--target-ratio", share, *more, *calibration_flags(args))


def sizes_of(model: str, parts: tuple[str, ...], ours: Path) -> dict[str, int] | None:
    """The sizes at which a method that prunes these parts has as many parameters as ours, or a few less; those of ours
    where it prunes all. `None`: it cannot come down so far."""
    dense, own = model_sizes(model), model_sizes(ours)
    counts, most = dense.counts, dense.counts.total(own.shape)
    if parts == ALL:
        return dict(own.shape)
    shape = dense.shape.resized(**({"vocab": own.shape["vocab"]} if "vocab" in parts else {}))
    steps = {"neuron": range(MULTIPLE, shape["neuron"] + 1, MULTIPLE), "layer": range(1, shape["layer"] + 1)}
    free = [part for part in parts if part in steps]
    if not free:
        return dict(shape) if counts.total(shape) <= most else None
    fitting = [size for size in steps[free[0]] if counts.total(shape.resized(**{free[0]: size})) <= most]
    return dict(shape.resized(**{free[0]: max(fitting)})) if fitting else None


def make(args: argparse.Namespace, place: Path, method: Method, sizes: Mapping[str, int]) -> None:
    """Prunes by one method, unless its folder is there."""
    out = place / method.name
    if is_made(out):
        return
    read = Calibration(args.model, args.share, args.tokens, args.work / "cache")
    if method.library:
        by_optipfair(args.model, out, sizes["neuron"], read if method.reads else None)
    elif method.sliced or method.score is not None:
        plan = place / f"{method.name}-plan"
        if method.score is None:
            plan_without_refit(place / "ours", plan)
            before = note(place / "ours")
        else:
            before = scored_plan(read, method.score, place / "ours", sizes, plan)
        run_flab("apply", args, out, "--plan", plan, before=before)
    else:
        dense, flags = model_sizes(args.model).shape, {"vocab": "vocab-size", "layer": "num-hidden-layers"}
        flags["neuron"] = "intermediate-size"
        kept = {"vocab": "--keep-vocabulary", "layer": "--no-layers", "neuron": "--no-ffn"}
        size_flags = [
            word
            for part in ALL
            for word in ([kept[part]] if sizes[part] == dense[part] else [f"--{flags[part]}", sizes[part]])
        ]
        run_flab("prune", args, out, *size_flags, *method.flags, *calibration_flags(args))


def is_made(out: Path) -> bool:
    """Whether a checkpoint is in the folder."""
    return (out / "config.json").is_file()


def model_sizes(path: str | Path) -> ModelSizes:
    """The sizes of a checkpoint, and how its parameters follow from them."""
    from transformers import AutoConfig

    from optimum_flab.families import family_for
    from optimum_flab.pruning.components import outline, sizes_of

    config = AutoConfig.from_pretrained(path)
    return sizes_of(outline(config), family_for(config))


def calibration_flags(args: argparse.Namespace) -> tuple[object, ...]:
    """How much text `flab prune` reads, and where its work is saved."""
    return "--calibration-tokens", args.tokens, "--cache-dir", args.work / "cache"


def run_flab(
    verb: str, args: argparse.Namespace, out: Path, *flags: object, before: Mapping[str, float] | None = None
) -> None:
    """Runs `flab prune` or `flab apply`, and notes its time and memory beside the weights, with what was spent
    before."""
    command = flab_command(verb, "-m", args.model, out, *flags)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process, cost(process.pid) as spent:
        status = process.wait()
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    before = before or {"pruning_seconds": 0.0, "pruning_bytes": 0}
    spent["pruning_seconds"] += before["pruning_seconds"]
    note(out, **spent | {"pruning_bytes": max(spent["pruning_bytes"], before["pruning_bytes"])})


@contextmanager
def cost(pid: int) -> Iterator[dict[str, float]]:
    """What the block takes, filled in at its end: seconds, and the peak memory of a process with its children."""
    spent: dict[str, float] = {}
    start = time.perf_counter()
    with memory_peak(pid, 0.5) as peak:
        yield spent
    spent |= {"pruning_seconds": time.perf_counter() - start, "pruning_bytes": peak.bytes}


def by_optipfair(model: str, out: Path, width: int, read: Calibration | None) -> None:
    """The library's own pruning of FFNs, on a stock model that transformers saves: by its default score, or with
    calibration text by that and the activations."""
    from common import load_model, load_tokenizer
    from optipfair import prune_model

    dense = load_model(model, "bfloat16")
    size = dense.config.intermediate_size
    share = 100 * (size - width + 0.5) / size  # it rounds down to whole neurons
    batches = None
    if read is not None:
        _, _, tokens = read_calibration(read)
        batches = [{"input_ids": row.input_ids, "attention_mask": row.mask.long()} for row in tokens.batches(1)]
    with cost(os.getpid()) as spent:
        pruned = prune_model(
            dense, pruning_type="MLP_GLU", pruning_percentage=share, dataloader=batches, show_progress=False
        )
    if pruned.config.intermediate_size != width:
        raise SystemExit(f"optipfair left {pruned.config.intermediate_size} neurons, not {width}")
    load_tokenizer(model).save_pretrained(out)
    pruned.save_pretrained(out)
    note(out, **spent)


def plan_without_refit(ours: Path, folder: Path) -> None:
    """Writes the plan of `ours` without the weights that it changed."""
    from optimum_flab import PruningPlan

    folder.mkdir(parents=True, exist_ok=True)
    replace(PruningPlan.load(ours), weights={}).save(folder)


def scored_plan(
    read: Calibration, score: str, ours: Path, sizes: Mapping[str, int], folder: Path
) -> Mapping[str, float]:
    """Writes a plan that keeps the neurons of the highest scores in every layer; what their sums took."""
    from peers import SCORES, kept_neurons

    from optimum_flab import PruningPlan

    vocabulary = model_sizes(read.model).shape["vocab"]
    kept = PruningPlan.load(ours).kept_tokens if sizes["vocab"] != vocabulary else None
    stays: dict = {"layer": list(range(sizes["layer"]))} | ({} if kept is None else {"vocab": kept})
    base_hash, dtype, sums, spent = sums_of_neurons(read, None if kept is None else tuple(kept))
    folder.mkdir(parents=True, exist_ok=True)
    PruningPlan(
        base_model=read.model,
        base_revision=None,
        base_hash=base_hash,
        corpus_hash="",
        vocab_size=sizes["vocab"],
        kept={**stays, "neuron": {i: kept_neurons(SCORES[score](one), sizes["neuron"]) for i, one in enumerate(sums)}},
        dtype=dtype,
        settings={},
    ).save(folder)
    return spent


@dataclass(frozen=True)
class Calibration:
    """What decides the calibration text of `ours`, and where it is kept."""

    model: str
    share: float
    tokens: int
    cache: Path


def read_calibration(read: Calibration) -> tuple:
    """The configuration and the dense model of `ours`, and its calibration text as `PackedTokens` of that model."""
    import numpy as np

    from optimum_flab import FlabOptimizer, FlabPrunerConfig
    from optimum_flab.pruning.resolution import resolve
    from optimum_flab.pruning.vocabulary import token_choice
    from optimum_flab.running.run import Run
    from optimum_flab.texts.sets import read_text_sets

    config = FlabPrunerConfig(target_ratio=read.share, data={"calibration_tokens": read.tokens})
    dense = FlabOptimizer.from_pretrained(read.model).dense
    texts = read_text_sets(dense.tokenizer, config.data, config.seed)
    rows = np.arange(dense.model.get_input_embeddings().num_embeddings)
    request = resolve(config, dense.model, dense.family, dense.tokenizer, dense.name, dense.storage_dtype)
    choice = token_choice(dense, request, texts, Run.in_folder(Path(read.cache)))
    return config, dense, choice.packed(rows, texts.calibration, config.data.sequence_length, read.tokens)


@cache
def sums_of_neurons(read: Calibration, kept: tuple[int, ...] | None) -> tuple[str, str, list, Mapping[str, float]]:
    """What all scores are made of, from one pass over the calibration text: the hash of the model, the dtype of its
    weights, for each layer `peers.NeuronSums`, and what that took."""
    from peers import neuron_sums

    from optimum_flab.checkpoints.hashes import dense_hash

    config, dense, tokens = read_calibration(read)
    common = range(dense.model.get_input_embeddings().num_embeddings) if kept is None else kept
    with cost(os.getpid()) as spent:
        sums = neuron_sums(dense.model, dense.family, tokens, common, config.data.batch_size, TAYLOR_ROWS)
    return dense_hash(dense), str(dense.storage_dtype).removeprefix("torch."), sums, spent


def noted_texts(args: argparse.Namespace) -> str:
    """What divergence and bits per byte are noted as."""
    return f"texts-{args.texts}-{args.dtype}"


def measure_texts(args: argparse.Namespace, folders: Sequence[Path]) -> None:
    """Notes divergence and bits per byte beside the weights of the checkpoints where they are not noted yet."""
    from common import load_model, load_tokenizer

    if missing := [folder for folder in folders if noted_texts(args) not in note(folder)]:
        dense, tokenizer = load_model(args.model, args.dtype), load_tokenizer(args.model)
        for start in range(0, len(missing), AT_ONCE):
            measure_some_texts(args, dense, tokenizer, missing[start : start + AT_ONCE])


def measure_some_texts(args: argparse.Namespace, dense, tokenizer, folders: Sequence[Path]) -> None:
    """The same for a few checkpoints, whose memory is given back at the end."""
    from common import count_parameters, read_texts
    from humaneval_text import load_checkpoint, measure, summary

    texts = read_texts("humaneval", args.texts)
    checkpoints = [load_checkpoint(str(folder), tokenizer, args.dtype, "cpu") for folder in folders]
    cost, parameters = measure(dense, tokenizer, checkpoints, texts), count_parameters(dense)
    for folder, checkpoint in zip(folders, checkpoints, strict=True):
        found = summary(checkpoint, cost, parameters, len(texts))
        note(folder, **{noted_texts(args): {name: found[name] for name in OF_TEXTS}})


def measured(args: argparse.Namespace, place: Path, out: Path) -> dict:
    """What a checkpoint costs: measured once, and noted beside its weights. Speed and memory do not depend on the
    values of weights, so checkpoints of one shape share theirs, noted beside their folders."""
    passes, noted = f"passes-{args.limit}", note(out)
    if not args.no_passes and passes not in noted:
        limit = [] if args.limit is None else ["--limit", str(args.limit)]
        told = ["--model", str(out), "--baseline", args.model, "--cache-dir", str(args.work / "completions")]
        found = run("passes.py", *told, *limit)
        names = ("passes", "baseline_passes", "retention", "retention_95")
        noted = note(out, **{passes: {name: found[name] for name in names}})
    kept = [noted[noted_texts(args)], *([] if args.no_passes else [noted[passes]])]
    if not args.no_speed:
        shape = f"speed in {args.dtype} of " + ", ".join(
            f"{count} {part}" for part, count in model_sizes(out).shape.items()
        )
        if shape not in note(place):
            note(place, **{shape: speed(args.model, out, args.dtype)})
        kept.append(note(place)[shape])
    pruning = {name: value for name, value in noted.items() if name.startswith("pruning")}
    return pruning | {name: value for part in kept for name, value in part.items()}


def speed(model: str, out: Path, dtype: str) -> dict[str, float]:
    """Ratios to the dense model by `flab bench`: the time to the first token after 2,048, tokens per second, and the
    peak memory of a process that generates."""
    with tempfile.TemporaryDirectory() as folder:
        told = ["-m", out, "--baseline", model, "-o", Path(folder, "bench"), "--prompt-tokens", 2048]
        told += ["--new-tokens", 32, "--batch-size", 1, "--repeats", 5, "--energy-seconds", 0]
        told += ["--dtype", dtype]
        subprocess.run(flab_command("bench", *told), check=True, stdout=subprocess.DEVNULL)
        table = json.loads(Path(folder, "bench", "flab_efficiency.json").read_text(encoding="utf-8"))["table"]
    ratios = {row["metric"]: row["ratio"] for row in table}
    return {
        "first_token_ratio": ratios["time to first token, batch 1"],
        "tokens_per_second_ratio": ratios["generation, batch 1"],
        "memory_ratio": ratios["peak memory of the process"],
    }


def plot(rows: Mapping[str, Mapping], file: Path) -> None:
    """Draws divergence and bits per byte, and passes against the dense model where there are any."""
    from matplotlib.figure import Figure

    solved = any("retention" in row for row in rows.values())
    figure = Figure(figsize=(14 if solved else 10, 0.36 * len(rows) + 1.4), layout="constrained")
    left, middle, *others = figure.subplots(1, 2 + solved, sharey=True)
    names = sorted(rows, key=lambda name: (-rows[name]["bits_per_byte_ratio"], name))
    colours = ["#2a6fbb" if name.startswith("ours") else "#9aa5b1" for name in names]
    bars(left, names, colours, [rows[name]["divergence"] for name in names])
    left.set_xlabel("divergence on HumanEval text, nats per token")
    bars(middle, names, colours, [100 * (rows[name]["bits_per_byte_ratio"] - 1) for name in names])
    middle.set_xlabel("more bits per byte of it than the dense model, %")
    for right in others:
        for place, name in enumerate(names):
            value = rows[name].get("retention")
            if value is not None:
                low, high = rows[name]["retention_95"] or (value, value)
                error = [[value - low], [high - value]]
                right.errorbar(value, place, xerr=error, fmt="o", color=colours[place], capsize=3)
        right.set_xlabel("HumanEval problems solved, against dense")
        right.set_xlim(left=0)
        right.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=110)


def bars(axes: Axes, names: Sequence[str], colours: Sequence[str], values: Sequence[float]) -> None:
    """Draws values on a logarithmic scale; what is not above 0 up to rounding, or is infinite, has no bar."""
    drawn = [value if NOTHING < value < math.inf else 0.0 for value in values]
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlim(min((value for value in drawn if value), default=1) / 2, max(drawn, default=1) * 3)
    lowest = axes.get_xlim()[0]
    placed = axes.barh(names, [value or lowest for value in drawn], color=colours)
    axes.bar_label(placed, [f"{0.0 if abs(value) <= NOTHING else value:.3g}" for value in values], padding=3)


def run(script: str, *told: str) -> dict:
    """The line that another benchmark prints."""
    command = [sys.executable, str(BENCHMARKS / script), *told]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def note(out: Path, **values: object) -> dict:
    """What is noted of a checkpoint, with these values added."""
    file = out / "measured.json"
    noted = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if values:
        noted |= values
        file.write_text(json.dumps(noted, indent=1), encoding="utf-8")
    return noted


if __name__ == "__main__":
    main()
