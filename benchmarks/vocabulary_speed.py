"""Time of the vocabulary step on a 20 MB corpus, compared with bare `encode_batch` over the same text in the same run.

The corpus is the source of the Python that runs this, standard library first, then installed packages, in a fixed
order and repeated from the start if it is too short. The vocabulary step is everything that pruning does with a corpus
once it is read: counting, closure, and rewriting the tokenizer; loading the tokenizer is in neither time. Each side
gets a freshly loaded tokenizer, so that none finds the other's cache. `encode_batch` gets all the texts in one call.
"""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
import time
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

from common import load_tokenizer, positive, print_result


ALLOWED_RATIO, ALLOWED_SECONDS = 1.3, 5.0


def python_sources() -> list[Path]:
    """Files of this Python's standard library, then of its packages; sorted, none twice."""
    paths = sysconfig.get_paths()
    folders = [Path(paths["stdlib"]), Path(paths["purelib"])]
    return list(dict.fromkeys(file for folder in folders for file in sorted(folder.rglob("*.py"))))


def corpus(size: int) -> list[str]:
    """Texts of `size` bytes of UTF-8 in all."""
    texts, left = [], size
    for file in chain.from_iterable(repeat(python_sources())):
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        data = text.encode("utf-8")[:left]
        texts.append(data.decode("utf-8", errors="ignore"))
        left -= len(data)
        if left <= 0:
            return texts
    raise SystemExit("this Python has no source files to make a corpus of")


def time_bare(model: str, texts: list[str]) -> tuple[float, int]:
    """Seconds of bare `encode_batch`, and how many tokens it found."""
    tokenizer = load_tokenizer(model).backend_tokenizer
    start = time.perf_counter()
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    seconds = time.perf_counter() - start
    return seconds, sum(len(encoding) for encoding in encodings)


def time_vocabulary_step(model: str, texts: list[str]) -> tuple[float, float, int]:
    """Seconds of the vocabulary step, seconds of its counting and closure, and how many tokens it keeps."""
    from transformers import AutoConfig, GenerationConfig

    from optimum_flab.settings.components import VocabularySettings
    from optimum_flab.vocabulary.closure import config_token_ids, natural_vocabulary, read_spec
    from optimum_flab.vocabulary.rewrite import rewrite_tokenizer
    from optimum_flab.vocabulary.usage import count_tokens

    tokenizer, settings = load_tokenizer(model), VocabularySettings()
    configs = [AutoConfig.from_pretrained(model, local_files_only=True)]
    if Path(model, "generation_config.json").is_file():
        configs.append(GenerationConfig.from_pretrained(model, local_files_only=True))
    start = time.perf_counter()
    counts = count_tokens(tokenizer, texts).counts
    vocabulary = natural_vocabulary(
        read_spec(tokenizer),
        counts,
        settings.min_count,
        settings.keep_merges,
        settings.keep_tokens,
        config_token_ids(*configs),
    )
    chosen = time.perf_counter() - start
    rewrite_tokenizer(tokenizer, vocabulary.kept)
    return time.perf_counter() - start, chosen, len(vocabulary.kept)


def rounds(args: argparse.Namespace, texts: list[str]) -> Iterator[dict[str, float]]:
    """Times of both sides; every other round in the opposite order, so that a drift of the machine hits both."""
    for number in range(args.rounds):
        times = {}
        for side in ("bare", "step") if number % 2 == 0 else ("step", "bare"):
            if side == "bare":
                times["bare"], times["tokens"] = time_bare(args.model, texts)
            else:
                times["step"], times["choice"], times["kept"] = time_vocabulary_step(args.model, texts)
        print(f"round {number + 1}: {times}", file=sys.stderr, flush=True)
        yield times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder with the tokenizer of the dense model")
    parser.add_argument("--megabytes", type=float, default=20.0, help="size of the corpus, in 10**6 bytes of UTF-8")
    parser.add_argument("--limit", type=positive, help="at most N bytes of corpus, for a trial")
    parser.add_argument("--rounds", type=int, default=1, help="how often to time both; the medians count")
    args = parser.parse_args()

    size = int(args.megabytes * 1e6)
    texts = corpus(min(size, args.limit or size))
    found = list(rounds(args, texts))
    median = {name: sorted(times[name] for times in found)[len(found) // 2] for name in found[0]}
    allowed = ALLOWED_RATIO * median["bare"] + ALLOWED_SECONDS
    print_result(
        "vocabulary_speed",
        model=args.model,
        bytes=sum(len(text.encode("utf-8")) for text in texts),
        texts=len(texts),
        tokens=median["tokens"],
        kept_tokens=median["kept"],
        seconds=round(median["step"], 3),
        choice_seconds=round(median["choice"], 3),
        bare_seconds=round(median["bare"], 3),
        allowed_seconds=round(allowed, 3),
        within=median["step"] <= allowed,
        rounds=len(found),
        parallelism=os.environ.get("TOKENIZERS_PARALLELISM", "unset"),
    )


if __name__ == "__main__":
    main()
