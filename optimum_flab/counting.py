"""`flab count`: how often text uses each token of a model's tokenizer, however much text there is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .checkpoints.finding import find_model
from .checkpoints.model_config import read_model_config
from .checkpoints.tokenizer import check_vocabulary, load_tokenizer
from .records.counts import TokenCounts
from .records.pieces import Piece, Pieces
from .records.work import Stage, WorkFolder
from .texts.rows import without_lone_surrogates
from .texts.sources import parse_source
from .texts.streams import TextStream
from .utils.errors import ConfigurationError
from .utils.places import cache_root, user_path
from .utils.progress import progress_bar, say
from .vocabulary.closure import read_spec
from .vocabulary.usage import TokenUsage, count_tokens, no_usage, pieces_hash, usage_so_far


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


KEPT_EVERY = 1 << 26  # bytes of text, after which the counts are kept
SO_FAR = "so-far"  # the one piece of a source


@dataclass(frozen=True)
class CountedSource:
    """A source that was counted.

    Args:
        usage ([`TokenUsage`]): what its texts use.
        skipped (`int`): files in it that are not UTF-8 text.
    """

    usage: TokenUsage
    skipped: int


def _save(counted: CountedSource, folder: Path) -> None:
    _write(Pieces(folder), counted.usage, skipped=counted.skipped)


def _load(folder: Path) -> CountedSource:
    kept = Pieces(folder).finished(SO_FAR)
    return CountedSource(_usage_of(kept), kept.facts["skipped"])


STAGE = Stage("counts", _save, _load)


def count_sources(
    model_name_or_path: str | Path,
    sources: str | Path | Sequence[str | Path],
    *,
    name: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    family: str | Path | None = None,
    resume: bool = True,
    cache_dir: str | Path | None = None,
) -> TokenCounts:
    """Counts how often sources of text use each token of a model; memory does not grow with them.

    The model's weights are not read. Hub datasets are streamed, and so are files. The counts are kept while they grow:
    a run that was interrupted resumes where it stopped, as long as the sources are unchanged (the commit of a dataset,
    sizes and times of files).

    ```python
    >>> counts = count_sources("Qwen/Qwen2.5-Coder-7B", ["./src", "org/dataset:train[content]"])
    >>> counts.save("counts.npz")
    >>> FlabOptimizer.from_pretrained("Qwen/Qwen2.5-Coder-7B").prune(FlabPrunerConfig(data={"counts": "counts.npz"}))
    ```

    Args:
        model_name_or_path (`str` or `Path`): the model whose tokenizer is used: a Hub id, a local folder, or a GGUF
            file.
        sources (`Sequence[str]`): as of `data.corpus`, see [`~texts.sources.parse_source`].
        name (`str`, *optional*): the name of all of them as one source, for the parts of something larger. Defaults to
            one source each, named as given.
        revision (`str`, *optional*): branch, tag or commit of a model on the Hub.
        trust_remote_code (`bool`): whether code from the model's repository may run.
        family (`str` or `Path`, *optional*): a file that describes the model's family. Defaults to a known family.
        resume (`bool`): whether saved work may be used; otherwise everything starts over.
        cache_dir (`str` or `Path`, *optional*): where work is saved. Defaults to `optimum_flab/counting` in the folder
            of the Hugging Face cache (`HF_HOME`).

    Returns:
        [`TokenCounts`]: exact counts by source.

    Raises:
        [`FlabError`]: the model's tokenizer cannot be read or pruned, or a source cannot be read or holds no text.
        [`ConfigurationError`]: a source is named twice.
    """
    parsed = [parse_source(spec) for spec in _source_names(sources)]
    tokenizer = _tokenizer_of(model_name_or_path, revision, trust_remote_code, family)
    streams = [TextStream(source) for source in parsed]
    for stream in streams:
        stream.check()
    work = WorkFolder(user_path(cache_dir or cache_root("counting")), resume=resume)
    parts = []
    for stream in streams:
        source = stream.source
        inputs = {"model": {"tokenizer": pieces_hash(tokenizer), "source": source.spec}, "state": stream.state()}
        counted = work.value(STAGE, inputs, partial(_counted, tokenizer, stream))
        if counted.skipped:
            say(f"{source.spec}: {counted.skipped:,} files that are not UTF-8 text were skipped")
        parts.append(_counts(model_name_or_path, tokenizer, name or source.spec, counted.usage, source.dataset))
    return TokenCounts.merged(parts)


def count_texts(
    model_name_or_path: str | Path,
    texts: Iterable[str | None],
    name: str,
    *,
    dataset: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    family: str | Path | None = None,
) -> TokenCounts:
    """Counts how often texts use each token of a model, for texts read by another program.

    The other arguments, and the errors, are those of [`count_sources`].

    Args:
        texts (`Iterable[str]`): read in bounded amounts; there may be none, and `None` is an empty text, as in the
            columns of a table.
        name (`str`): of the source that they are, or are a part of.
        dataset (`str`, *optional*): id of the Hub dataset that they come from, which the card of a pruned model names.
    """
    tokenizer = _tokenizer_of(model_name_or_path, revision, trust_remote_code, family)
    usage = count_tokens(tokenizer, (without_lone_surrogates(text) for text in texts if text and text.strip()))
    return _counts(model_name_or_path, tokenizer, name, usage, dataset)


def _counts(
    model: str | Path, tokenizer: PreTrainedTokenizerBase, name: str, usage: TokenUsage, dataset: str | None
) -> TokenCounts:
    named = name.encode("utf-8", "backslashreplace").decode()  # JSON cannot hold paths that are not text
    return TokenCounts(str(model), pieces_hash(tokenizer), {named: usage}, frozenset(filter(None, [dataset])))


def _source_names(sources: str | Path | Sequence[str | Path]) -> list[str]:
    specs = [os.fspath(one) for one in ([sources] if isinstance(sources, (str, Path)) else sources)]
    if repeated := [spec for place, spec in enumerate(specs) if spec in specs[:place]]:
        raise ConfigurationError(f"sources: {repeated[0]!r} is named twice; name it once")
    return specs


def _tokenizer_of(
    name: str | Path, revision: str | None, trust_remote_code: bool, family: str | Path | None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, if its vocabulary can be pruned."""
    files = find_model(name, revision, family)
    config = read_model_config(files, trust_remote_code)
    tokenizer, note = load_tokenizer(files, config, trust_remote_code)
    check_vocabulary(tokenizer, config, files.name)
    read_spec(tokenizer)
    if note is not None:
        say(note)
    return tokenizer


def _counted(tokenizer: PreTrainedTokenizerBase, stream: TextStream, pieces: Pieces) -> CountedSource:
    """Counts a source from where counting stopped."""
    kept = pieces.read(SO_FAR)
    total = no_usage(tokenizer) if kept is None else _usage_of(kept)
    texts = stream.texts(None if kept is None else kept.facts["place"])
    done = total.bytes  # of what is kept
    with progress_bar(f"Counting {stream.source.spec}", None, "B", unit_scale=True, initial=done) as bar:
        for usage in usage_so_far(tokenizer, texts, total):
            bar.update(usage.bytes - total.bytes)
            total = usage
            if usage.bytes - done >= KEPT_EVERY:
                _write(pieces, usage, place=stream.place())
                done = usage.bytes
    return CountedSource(total, stream.skipped)


def _write(pieces: Pieces, usage: TokenUsage, **facts: Any) -> None:
    sizes = {"texts": usage.texts, "tokens": usage.tokens, "bytes": usage.bytes}
    pieces.write(SO_FAR, {"counts": torch.from_numpy(usage.counts)}, sizes=sizes, **facts)


def _usage_of(kept: Piece) -> TokenUsage:
    return TokenUsage(kept.tensors["counts"].numpy(), **kept.facts["sizes"])
