"""Does a change keep every byte of output? Runs the verbs on tiny models, and keeps what they write and say.

    python benchmarks/same_bytes.py before.json                       # in a checkout of the state before
    python benchmarks/same_bytes.py after.json --against before.json  # in the changed one; exit code 1 if not

`--model MODEL` adds a pinned pruning and a recovery of Qwen2.5-Coder-0.5B, which take minutes. What may differ from
run to run is masked first: times, and the folder of the run.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from contextlib import chdir, redirect_stderr, redirect_stdout
from difflib import unified_diff
from pathlib import Path

import huggingface_hub.constants
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast


sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, whichever one is installed

NAMES = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon"
TEXTS = [
    f"def add_{name}(a, b):\n    '''Return the sum of {name} and b.'''\n    total = a + b * {number}\n"
    f"    return total\n\nclass {name.title()}Holder:\n    value = {number}\n"
    f"    def get(self):\n        return self.value + {number * 7}\n"
    for number, name in enumerate(NAMES.split())
]
PROBLEMS = [
    {
        "instruction": f"Write a function that adds {number} to its argument.",
        "output": f"def add(a):\n    return a + {number}\n",
        "test": f"assert add(1) == {number + 1}",
        "entry_point": "add",
    }
    for number in range(24)
]
SIZES = {
    "vocab_size": 600,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
MODELS = {
    "llama": {"tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 16},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1},
}
SMALL = """
data: {calibration_tokens: 512, validation_tokens: 128, held_out_tokens: 128, sequence_length: 64, corpus: [texts]}
vocabulary: {keep_merges: 0}
ffn: {multiple_of: 4}
"""
TRAINED = "--max-steps 4 --batch-size 4 --micro-batch-size 2 --sequence-length 64 --held-out-tokens 128"
SMALLER = "-c small.yaml --dtype float32"
RUNS = {
    "vocabulary": [f"prune llama vocabulary {SMALLER}"],
    "ratio": [f"prune qwen2 ratio {SMALLER} --target-ratio 0.3 --prompt def", "compare ratio", "card ratio"],
    "pinned": [f"prune llama pinned {SMALLER} --num-hidden-layers 3 --intermediate-size 96 --vocab-size 400 --json"],
    "size": [f"prune qwen2 size {SMALLER} --target-size 700KB", "compare size ratio --json"],
    "typed": [f"prune qwen2 typed {SMALLER} --target-size 200KB --target-type q8_0 --gguf q8_0 --gguf f16"],
    "gemma": [f"prune gemma3_text gemma {SMALLER} --target-ratio 0.3"],
    "streamed": [f"prune llama streamed {SMALLER} --target-ratio 0.3 --memory-budget 1.3GB"],
    "experts": [f"prune qwen3_moe experts {SMALLER} --target-ratio 0.3 --experts"],
    "counts": [
        "count texts -m qwen2 -o counts.npz",
        f"prune qwen2 counts {SMALLER} --counts counts.npz --target-ratio 0.2 --gguf bf16",
    ],
    "gguf": [
        "export llama llama.gguf --type f16 --no-imatrix",
        f"prune llama.gguf gguf {SMALLER} --gguf f16",
        f"prune llama.gguf gguf-ratio {SMALLER} --target-ratio 0.3",
    ],
    "recovered": [
        f"recover ratio recovered --teacher qwen2 --text texts --method full {TRAINED}",
        "recover ratio lora --teacher qwen2 --data problems.jsonl --answers reference --method lora --rank 2"
        f" {TRAINED}",
        "prune qwen2 both -c both.yaml --dtype float32",
        "compare ratio recovered lora",
    ],
    "applied": ["apply qwen2 applied --plan ratio", "export ratio ratio.gguf --type q8_0 -c small.yaml"],
    "trimmed": ["trim qwen2 trimmed -c small.yaml", "trim llama.gguf trimmed-gguf -c small.yaml"],
    "inspected": [
        "inspect qwen2",
        "inspect qwen2 --json -c small.yaml --target-ratio 0.3",
        "inspect llama -c small.yaml --target-size 700KB",
        "inspect qwen3_moe -c small.yaml --target-size 300KB --target-type q8_0",
    ],
    "evaluated": [
        "eval ratio --baseline qwen2 --tasks humaneval --limit 3 --max-new-tokens 8 --confirm-run-unsafe-code"
        " -o evaluated",
        "eval ratio --tasks humaneval --limit 2 --max-new-tokens 8 --confirm-run-unsafe-code --json",
        "card ratio --results evaluated",
    ],
    "refused": [
        f"prune llama refused-1 {SMALLER} --target-ratio 0.99",
        f"prune llama refused-2 {SMALLER} --intermediate-size 4096",
        f"prune llama refused-3 {SMALLER} --intermediate-size 97 --target-ratio 0.3",
        f"prune llama refused-4 {SMALLER} --num-experts 2",
        f"prune llama refused-5 {SMALLER} --experts",
        f"prune llama refused-6 {SMALLER} --target-size 4KB",
        f"prune llama refused-7 {SMALLER} --target-size 4GB",
        f"prune llama refused-8 {SMALLER} --keep-vocabulary",
        f"prune llama refused-9 {SMALLER} --sequence-length 100000",
        f"prune llama refused-10 {SMALLER} --counts counts.npz --vocab-size 3",
        f"prune gemma3_text refused-11 {SMALLER} --counts missing.json",
        f"prune llama refused-12 {SMALLER} --vocab-size 3",
        f"prune llama refused-13 {SMALLER} --memory-budget 1MB",
        f"prune llama refused-14 {SMALLER} --time-budget 1s --target-ratio 0.3",
        f"prune llama refused-15 {SMALLER} --keep-token nonsense",
        f"prune llama refused-16 {SMALLER} --align 3 --target-ratio 0.3",
        "inspect llama --target-ratio 0.99",
        "recover ratio refused-17 --teacher llama --text texts",
        "recover recovered refused-18 --teacher qwen2 --text texts",
        "recover ratio refused-19 --teacher qwen2 --data problems.jsonl",
        "apply llama refused-20 --plan ratio",
        "export ratio ratio.gguf",
        "push ratio someone/something --dry-run",
        "eval nowhere --tasks humaneval --confirm-run-unsafe-code",
    ],
}
REAL = {
    "pinned-model": [
        "prune {model} pinned-model --dtype float32 --vocab-size 32768 --intermediate-size 4608 --no-layers"
        " --calibration-tokens 1024 --held-out-tokens 512 --validation-tokens 512 --seed 0"
    ],
    "recovered-model": [
        "recover pinned-model recovered-model --teacher {model} --text texts --method full --max-steps 2"
        " --batch-size 2 --micro-batch-size 1 --sequence-length 128 --held-out-tokens 512 --dtype float32"
    ],
}
MASKED = (
    (re.compile(r'"(seconds|wall_seconds|cpu_seconds|bytes_written|peak_bytes)": [\d.e-]+'), '"seconds": 0'),
    (re.compile(r"\d+ h \d+ min|\d+ min \d+ s|\b[\d.,]+ s\b|\d+ ms|[\d.]+ GB"), "TIME"),
    (re.compile(r'"(commit|created|date|memory_bytes)": [^,}\n]*'), "CHANGING"),
    (re.compile(r'"(answer_seconds|disk_bytes)": [^,}\n]*'), "CHANGING"),
    (re.compile(r"^.*\b(\d{1,2}%.*\[|\d+%\|).*\n", re.MULTILINE), ""),  # bars on their way
    (re.compile(r"\[\d+:\d+<.*\]"), "[TIME]"),
    (re.compile(r"<tr><td>[\w, ()-]+</td>(<td>[\d.,–]+</td>){6}</tr>\n*"), ""),  # cost of a stage
    (re.compile(r"checksum [0-9a-f]{64}"), "checksum OF ALL"),
    (re.compile(r"reused from .*"), "reused"),  # a folder named by a hash of the code
    (re.compile(r"[\d.]+[kM]B/s| at 0x[0-9a-f]+"), ""),
)


def make_models(folder: Path) -> None:
    """Tiny models of real classes with one tokenizer, texts, problems and settings files."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|pad|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    sentences = [f"Write a function that adds numbers, {name}; the architecture of {name}." for name in NAMES.split()]
    tokenizer.train_from_iterator(TEXTS + sentences, trainer)
    template = "{% for message in messages %}{{ message['content'] }}" + special[0] + "{% endfor %}"
    written = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=special[0], pad_token=special[1], chat_template=template
    )
    for name, fields in MODELS.items():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**SIZES | fields)).save_pretrained(folder / name)
        written.save_pretrained(folder / name)
    (folder / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (folder / "texts" / f"{number}.py").write_text(text, encoding="utf-8")
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS), encoding="utf-8")
    (folder / "small.yaml").write_text(SMALL, encoding="utf-8")
    training = "recovery: {text: [texts], method: full, max_steps: 3, batch_size: 2, sequence_length: 64}\n"
    both = f"{SMALL}target_ratio: 0.2\n{training}"
    (folder / "both.yaml").write_text(both, encoding="utf-8")


def said(command: str) -> str:
    """What `optimum-cli flab` prints, and its exit code."""
    from optimum.commands.optimum_cli import main

    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    code: object = 0
    sys.argv = ["optimum-cli", "flab", *command.split()]
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    out, err = (stream.buffer.getvalue().decode() for stream in streams)
    return f"$ flab {command}\n{out}\n--\n{err}\n-- {code}\n"


def masked(text: str, folder: Path) -> str:
    text = text.replace(str(folder), "WORK").replace("\r", "\n")
    for pattern, instead in MASKED:
        text = pattern.sub(instead, text)
    return text


def contents(folder: Path, skipped: set[Path]) -> dict[str, str]:
    """All files that are new in a folder: text as it is, but for what is masked; of others the SHA-256."""
    found = {}
    for path in sorted(set(folder.rglob("*")) - skipped):
        if not path.is_file() or "cache" in path.relative_to(folder).parts:
            continue
        data = path.read_bytes()
        try:
            found[str(path.relative_to(folder))] = masked(data.decode(), folder)
        except UnicodeDecodeError:
            found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def differences(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> list[str]:
    """What differs, a line each, with the first lines of text that do."""
    lines = []
    for run in after:
        old, new = before.get(run, {}), after[run]
        for name in sorted({*old, *new}):
            if old.get(name) == new.get(name):
                continue
            texts = [side.get(name, "(missing)").splitlines() for side in (old, new)]
            changed = list(unified_diff(*texts, lineterm="", n=0))[2:]
            lines += [f"{run}: {name}", *(f"    {line[:300]}" for line in changed if line[0] in "+-")][:9]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON file to write")
    parser.add_argument(
        "runs", nargs="*", help=f"of {', '.join(RUNS)}, in this order; earlier ones that they need too"
    )
    parser.add_argument("--against", type=Path, help="what was written before the change")
    parser.add_argument("--model", type=Path, help="folder of a real model to prune and to recover too")
    args = parser.parse_args()
    torch.set_num_threads(1)  # another number may change the last bits of a sum
    runs = {name: RUNS[name] for name in args.runs or RUNS}
    if args.model is not None:
        runs |= {name: [one.format(model=args.model.resolve()) for one in commands] for name, commands in REAL.items()}
    before = json.loads(args.against.read_text(encoding="utf-8")) if args.against else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        huggingface_hub.constants.HF_HOME = os.environ["HF_HOME"] = str(folder / "cache")
        make_models(folder)
        after = {}
        for name, commands in runs.items():
            there = set(folder.rglob("*"))
            with chdir(folder):
                printed = "".join(said(command) for command in commands)
            after[name] = {"printed": masked(printed, folder), **contents(folder, there)}
            print(f"{name}: {len(after[name])} files and what was said", file=sys.stderr)
    args.output.write_text(json.dumps(after, indent=1), encoding="utf-8")
    changed = differences(before, after) if args.against else []
    print("\n".join(changed) or f"{sum(map(len, after.values()))} files and texts" + " are the same" * bool(before))
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
