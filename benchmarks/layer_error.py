"""Relative error of single FFNs of a pruned checkpoint, by kind of text.

    python benchmarks/layer_error.py --dense DENSE --pruned OUT/0.35 --layers 2 12 20
        --texts doctests='doctests.jsonl[text]'

Each layer of the pruned model is given what the dense model's layer reads, in the pruned tokenizer's tokens, so that
the error is that of a single layer: sum over tokens of c |dense output - pruned output|², divided by the same sum of c
|dense output|², where 1 / c is the mean square of the dense stream after the layer, as the next norm sees it. Divided
by the errors on the text that the model was calibrated on, sampled again by its plan (in the same environment).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from common import kept_tokens, load_model, load_tokenizer, positive, print_result, progress, read_texts

from optimum_flab.records.plan import PruningPlan
from optimum_flab.settings.pruning import DataSettings
from optimum_flab.texts.formats import formats_of
from optimum_flab.texts.reading import read_texts as read_sets
from optimum_flab.texts.sets import divide_texts
from optimum_flab.vocabulary.usage import token_lists


CALIBRATION = "calibration"


def calibration_texts(pruned: str, dense: str, limit: int | None) -> list[str]:
    """The first texts that a pruned model was calibrated on, of all kinds."""
    tokenizer, settings = load_tokenizer(dense), PruningPlan.load(pruned).settings

    def count(texts: list[str]) -> list[int]:
        return [len(ids) for ids in token_lists(tokenizer, texts)]

    data, seed = DataSettings(**settings["data"]), settings["seed"]
    sets = divide_texts(read_sets(data, seed), data, count, seed, formats_of(tokenizer))
    return [document.text for document in sets.calibration[:limit]]


def ffn_calls(model, ids, layers: list[int]) -> Iterator[tuple]:
    """What the FFN of each of some layers reads and gives, and the stream behind the layer, for one text."""
    import torch

    seen: dict[int, list] = {}
    handles = []
    for index in layers:
        layer = model.base_model.layers[index]
        handles.append(layer.mlp.register_forward_hook(lambda _, args, out, i=index: seen.update({i: [args[0], out]})))
        handles.append(
            layer.register_forward_hook(
                lambda _, args, out, i=index: seen[i].append(out if torch.is_tensor(out) else out[0])
            )
        )
    model.base_model(input_ids=ids[None], use_cache=False)
    for handle in handles:
        handle.remove()
    for index in layers:
        yield index, *seen[index]


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", required=True, help="checkpoint folder of the dense model")
    parser.add_argument("--pruned", required=True, help="checkpoint folder of the pruned model, with all its layers")
    parser.add_argument("--layers", nargs="+", type=int, default=[2, 12, 20], help="layers (default: 2 12 20)")
    parser.add_argument(
        "--texts",
        action="append",
        required=True,
        metavar="KIND=SOURCE",
        help="texts of a kind",
    )
    parser.add_argument("--limit", type=positive, help="take only the first so many texts of a kind")
    args = parser.parse_args()

    dense, pruned = load_model(args.dense, "float32"), load_model(args.pruned, "float32")
    if len(dense.base_model.layers) != len(pruned.base_model.layers):
        raise SystemExit(f"{args.pruned} has not all layers of {args.dense}: its FFNs cannot be compared one by one")
    tokenizer, kept = load_tokenizer(args.pruned), kept_tokens(args.pruned)
    sources = dict(item.split("=", 1) for item in args.texts)
    kinds = {CALIBRATION: calibration_texts(args.pruned, args.dense, args.limit)}
    kinds |= {kind: read_texts(source, args.limit) for kind, source in sources.items()}
    sums = {(kind, index): [0.0, 0.0] for kind in kinds for index in args.layers}
    with torch.inference_mode():
        for kind, texts in kinds.items():
            for number, text in enumerate(texts, start=1):
                ids = torch.tensor(tokenizer(text)["input_ids"][:512])
                ids = ids if kept is None else torch.tensor(kept)[ids]
                for index, read, given, behind in ffn_calls(dense, ids, args.layers):
                    weight = 1 / behind.square().mean(dim=-1)
                    wrong = (given - pruned.base_model.layers[index].mlp(read)).square().sum(dim=-1)
                    sums[kind, index][0] += float((weight * wrong).sum())
                    sums[kind, index][1] += float((weight * given.square().sum(dim=-1)).sum())
                progress(number, len(texts), kind)
    errors = {kind: {index: sums[kind, index][0] / sums[kind, index][1] for index in args.layers} for kind in kinds}
    first = errors[CALIBRATION]
    ratios = {kind: {index: error / first[index] for index, error in found.items()} for kind, found in errors.items()}
    print_result("layer_error", errors=errors, ratios=ratios, sources=sources)


if __name__ == "__main__":
    main()
