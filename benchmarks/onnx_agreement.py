"""Whether ONNX Runtime computes from an exported folder what transformers does from the checkpoint, in float32.

    optimum-cli export onnx --model OUT --task text-generation-with-past ONNX     # with optimum-onnx
    python benchmarks/onnx_agreement.py --model OUT --onnx ONNX                   # with onnxruntime

The texts are HumanEval's prompts with their solutions. ONNX Runtime reads each in two steps, the second of which
continues from the keys and values of the first, as generation does; transformers reads it at once.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from common import load_model, load_tokenizer, positive, print_result, progress, read_texts


TYPES = {"tensor(int64)": np.int64, "tensor(float)": np.float32}


class Graph:
    """The logits of an exported model, a step at a time."""

    def __init__(self, folder: Path, threads: int):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder")
    parser.add_argument("--onnx", required=True, type=Path, help="folder that it was exported to")
    parser.add_argument("--texts", default="humaneval", help="`humaneval`, or file.jsonl[column]")
    parser.add_argument("--limit", type=positive, help="only the first N texts")
    args = parser.parse_args()

    model, tokenizer = load_model(args.model, "float32"), load_tokenizer(args.model)
    graph = Graph(args.onnx, torch.get_num_threads())
    texts = [text for text in read_texts(args.texts, args.limit) if text]
    largest, tokens, same = [], 0, 0
    for number, text in enumerate(texts, start=1):
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0].numpy()
        half = len(ids) // 2
        first, past = graph.step(ids[:half], graph.begin(), 0)
        second, _ = graph.step(ids[half:], past, half)
        found = np.concatenate([first, second])
        largest.append(float(np.abs(found - expected).max()))
        tokens += len(ids)
        same += int((found.argmax(-1) == expected.argmax(-1)).sum())
        progress(number, len(texts), "texts")
    print_result(
        "onnx_agreement",
        paths={"model": args.model, "onnx": str(args.onnx)},
        texts=len(texts),
        tokens=tokens,
        same_next_token=same,
        largest_difference=max(largest),
        mean_of_largest=sum(largest) / len(largest),
        within=sum(value <= 1e-3 for value in largest),
        onnxruntime=version("onnxruntime"),
    )


if __name__ == "__main__":
    main()
