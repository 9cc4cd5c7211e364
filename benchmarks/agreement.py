"""Whether another runtime computes from an exported model what transformers does from its checkpoint, in float32.

    python benchmarks/agreement.py --model OUT --gguf model.gguf                  # llama.cpp
    optimum-cli export onnx --model OUT --task text-generation-with-past ONNX     # with optimum-onnx
    python benchmarks/agreement.py --model OUT --onnx ONNX                        # with onnxruntime

GGUF: strings of many kinds (the source of the standard library, prose in many scripts, random Unicode, the tokenizer's
own added tokens) are tokenised by both. Those that are tokenised alike only in the Unicode form NFC are counted
separately: some tokenizers normalise text to it, and llama.cpp does not. HumanEval's prompts are then continued
greedily by both; where a token differs first, the difference between the two candidates' logits in transformers is
reported.

ONNX: the texts are HumanEval's prompts with their solutions. ONNX Runtime reads each in two steps, the second of which
continues from the keys and values of the first, as generation does; transformers reads it at once.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import torch
from common import humaneval_problems, load_model, load_tokenizer, positive, print_result, progress, read_texts
from tokenizer_kinds import corpus, strings


CODE = 2_000_000  # bytes of source that strings are taken from
LENGTH = 2048  # most tokens of a string
TYPES = {"tensor(int64)": np.int64, "tensor(float)": np.float32}  # of ONNX


# --- GGUF ----------------------------------------------------------------------------------------------------------


def gguf_agreement(args: argparse.Namespace) -> dict[str, Any]:
    from llama_writer import Writer

    tokenizer = load_tokenizer(args.model)
    with Writer(args.gguf, None, 1, LENGTH) as writer:
        added = sorted(tokenizer.get_added_vocab())
        found = {"strings": compare_tokens(tokenizer, writer, strings(args.strings, added, corpus(CODE)))}
        prompts = [problem["prompt"] for problem in humaneval_problems(args.limit or 20)]
        model = load_model(args.model, "float32")
        found["completions"] = compare_completions(model, tokenizer, writer, prompts, args.tokens)
    return found


def compare_tokens(tokenizer, writer, texts: list[str]) -> dict[str, Any]:
    """How many strings both cut alike, as they are and in the form that the tokenizer's normaliser gives them."""

    def ids(text: str) -> list[int]:
        return writer.tokenize(text.encode(), special=True, begin=False)

    same = 0
    same_normalised = 0
    different = list[str]()
    for number, text in enumerate(texts, 1):
        expected = tokenizer(text, add_special_tokens=False).input_ids
        if ids(text) == expected:
            same += 1
        elif ids(normalize("NFC", text)) == expected:
            same_normalised += 1
        else:
            different.append(text)
        progress(number, len(texts), "strings")
    return {
        "strings": len(texts),
        "same": same,
        "same_in_nfc_only": same_normalised,
        "different": different,
    }


@torch.inference_mode()
def compare_completions(model, tokenizer, writer, prompts: list[str], tokens: int) -> dict[str, Any]:
    """How many greedy completions are the same, and how near the tie was where one is not."""
    same, gaps = 0, []
    for number, prompt in enumerate(prompts, 1):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        whole = model.generate(
            ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, repetition_penalty=1.0
        )
        expected = whole[0, ids.shape[1] :].tolist()
        found = list(islice(writer.generate(ids[0].tolist()), tokens))
        if found == expected:
            same += 1
        else:
            place = next(at for at, pair in enumerate(zip(expected, found, strict=True)) if len(set(pair)) > 1)
            logits = model(whole[:, : ids.shape[1] + place]).logits[0, -1].float()
            gaps.append(float(logits[expected[place]] - logits[found[place]]))
        progress(number, len(prompts), "prompts")
    return {"prompts": len(prompts), "tokens": tokens, "same": same, "gaps": gaps}


# --- ONNX ----------------------------------------------------------------------------------------------------------


class Graph:
    """The logits of an exported model, a step at a time."""

    def __init__(self, folder: Path, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])
        self.inputs = {one.name: one for one in self.session.get_inputs()}
        self.outputs = [one.name for one in self.session.get_outputs()]

    def begin(self) -> dict[str, np.ndarray]:
        """Keys and values of no tokens: of their four axes the batch, the heads, none, and the size of a head."""
        past = {name: one for name, one in self.inputs.items() if name.startswith("past_key_values")}
        return {
            name: np.zeros((1, one.shape[1], 0, one.shape[3]), dtype=TYPES[one.type]) for name, one in past.items()
        }

    def step(self, ids: list[int], past: dict[str, np.ndarray], before: int) -> tuple[np.ndarray, dict]:
        """The logits of some tokens behind those whose keys and values are known, and all keys and values."""
        places = np.arange(before, before + len(ids), dtype=np.int64)[None]
        feed = {
            "input_ids": np.array([ids], dtype=np.int64),
            "attention_mask": np.ones((1, before + len(ids)), dtype=np.int64),
            "position_ids": places,
        }
        feed = {name: value for name, value in feed.items() if name in self.inputs}
        found = dict(zip(self.outputs, self.session.run(None, {**feed, **past}), strict=True))
        logits = found.pop("logits")[0]
        return logits, {name.replace("present", "past_key_values"): value for name, value in found.items()}


@torch.no_grad()
def onnx_agreement(args: argparse.Namespace) -> dict[str, Any]:
    model, tokenizer = load_model(args.model, "float32"), load_tokenizer(args.model)
    graph = Graph(args.onnx, torch.get_num_threads())
    texts = [text for text in read_texts(args.texts, args.limit) if text]
    largest = []
    tokens = 0
    same = 0
    for number, text in enumerate(texts, start=1):
        ids = tokenizer(text)["input_ids"]
        expected = model(torch.tensor([ids])).logits[0].numpy()
        half = len(ids) // 2
        first, past = graph.step(ids[:half], graph.begin(), 0)
        second, _ = graph.step(ids[half:], past, half)
        found = np.concatenate([first, second])
        largest.append(float(np.abs(found - expected).max()))
        tokens += len(ids)
        same += int((found.argmax(-1) == expected.argmax(-1)).sum())
        progress(number, len(texts), "texts")
    return {
        "texts": len(texts),
        "tokens": tokens,
        "same_next_token": same,
        "largest_difference": max(largest),
        "within": sum(value <= 1e-3 for value in largest),
        "onnxruntime": version("onnxruntime"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder")
    exported = parser.add_mutually_exclusive_group(required=True)
    exported.add_argument("--gguf", help="file that was written from it")
    exported.add_argument("--onnx", type=Path, help="folder that it was exported to")
    parser.add_argument(
        "--limit", type=positive, help="only the first N prompts (of GGUF: 20) or texts (of ONNX: all)"
    )
    parser.add_argument("--strings", type=int, default=2000, help="strings to cut (default: %(default)s)")
    parser.add_argument(
        "--tokens", type=int, default=32, help="tokens to write for each prompt (default: %(default)s)"
    )
    parser.add_argument("--texts", default="humaneval", help="`humaneval`, or file.jsonl[column]")
    args = parser.parse_args()
    found = gguf_agreement(args) if args.gguf else onnx_agreement(args)
    print_result("agreement", paths={"model": args.model, "exported": str(args.gguf or args.onnx)}, **found)


if __name__ == "__main__":
    main()
