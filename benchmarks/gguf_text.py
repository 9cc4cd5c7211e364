"""Size, and bits per byte of HumanEval text (or any other texts), for GGUF files in llama.cpp.

    python benchmarks/gguf_text.py dense-q4_k_m.gguf pruned-q4_k_m.gguf

Bits per byte: -log2 of the probability that a model gives to the tokens of its own tokenizer, divided by the UTF-8
bytes of the text; the first token of a text is predicted only if the file asks for a beginning-of-sequence. The others
are compared with the first file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import positive, print_result, progress, read_texts


def cost(path: str, texts: list[str]) -> dict[str, float]:
    """What a file takes on disk, and what the texts cost its model."""
    import torch
    from llama_cpp import Llama

    model = Llama(path, n_ctx=2048, n_batch=512, logits_all=True, verbose=False)
    nats, tokens = 0.0, 0
    for number, text in enumerate(texts):
        ids = model.tokenize(text.encode())
        model.reset()
        model.eval(ids)
        scores = torch.from_numpy(model.scores[: len(ids) - 1]).log_softmax(-1)
        nats -= float(scores.gather(1, torch.tensor(ids[1:])[:, None]).sum(dtype=torch.float64))
        tokens += len(ids) - 1
        progress(number + 1, len(texts), f"texts ({Path(path).name})")
    size = sum(len(text.encode()) for text in texts)
    return {
        "megabytes": Path(path).stat().st_size / 1e6,
        "bits_per_byte": nats / 0.6931471805599453 / size,
        "tokens": tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", help="GGUF files; the first is what the others are compared with")
    parser.add_argument("--source", default="humaneval", help="texts, see common.read_texts (default: %(default)s)")
    parser.add_argument("--limit", type=positive, help="only the first N texts (default: all)")
    args = parser.parse_args()
    texts = read_texts(args.source, args.limit)
    costs = {Path(path).name: cost(path, texts) for path in args.files}
    first = next(iter(costs.values()))
    for found in costs.values():
        for name in ("megabytes", "bits_per_byte"):
            found[f"{name}_ratio"] = found[name] / first[name]
    print_result("gguf_text", source=args.source, texts=len(texts), files=costs)


if __name__ == "__main__":
    main()
