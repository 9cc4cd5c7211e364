"""From a model's files to smaller ones: which tokens stay, the files, and what is said of them."""

from __future__ import annotations

import gc
import hashlib
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoints.demo import DEMO_NAME, DEMO_TERMS
from ..checkpoints.finding import ModelFiles, find_license_files, find_model
from ..hub.card import write_card
from ..hub.frame import is_generated
from ..pruning.counts import CountsFile, read_counts
from ..pruning.vocabulary import TokenChoice, counted_tokens, source_counts
from ..records.base_card import base_card_of
from ..records.checkpoint import Checkpoint
from ..records.counts import TokenCounts
from ..records.folders import FolderKind, OutputFolder, check_space
from ..records.names import CARD_NAME
from ..records.plan import PLAN_NAME, TOKENS, PruningPlan
from ..records.trim import TRIM_NAME, GrownText, TrimmedText, TrimReport
from ..records.work import WorkFolder
from ..settings.trim import TrimSettings
from ..tensors.copying import combined_hash
from ..tensors.gguf_header import PART, part_paths
from ..texts.formats import formats_of
from ..texts.kinds import FEWEST_DOCUMENTS, OWN
from ..texts.presets import preset_words
from ..texts.reading import read_texts
from ..texts.sets import TextSets, divide_texts
from ..utils.errors import ConfigurationError, FlabError
from ..utils.places import cache_root, output_file, user_path
from ..utils.units import parse_bytes
from ..vocabulary.closure import SPACE, read_spec
from ..vocabulary.files import SAMPLES
from ..vocabulary.gguf import ENDS, NEWER_ENDS
from ..vocabulary.usage import token_lists
from .gguf import GgufModel
from .tables import TrimmedFiles


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .folder import FolderModel

    Model = GgufModel | FolderModel


PLAN_SUFFIX = ".flab_plan.json"  # of a single file's plan
TRIED = 8  # held-out texts that llama.cpp tokenises too
GROWN = 3
# the products of llama.cpp and others take so many rows of a head at once: the sums of the others are in another order
ROWS_AT_ONCE = 8
BEGINS = 60  # characters of a text
FEWEST = 16  # tokens of a text whose growth is worth showing


def trim(
    model_name_or_path: str | Path,
    output: str | Path,
    settings: TrimSettings | None = None,
    *,
    plan: PruningPlan | None = None,
    overwrite: bool = False,
    command: str | None = None,
    reads: Sequence[str | Path] = (),
    **options: Any,
) -> TrimReport:
    """Takes rows out of the tables of a model's vocabulary; every other tensor keeps its bytes.

    Nothing is computed, and no more than a few megabytes of weights are in memory. The output is in the format of the
    input, and whole or not there. Beside the files are the plan, a report, a card and the licence files; beside a
    single file only its plan.

    Args:
        model_name_or_path (`str` or `Path`): a GGUF file of any architecture and types (or one of its parts), or a
            folder or Hub id with safetensors files of any class that transformers can build, quantised or not.
        output (`str` or `Path`): a folder; for a GGUF file in one part also a path that ends in `.gguf`.
        settings ([`~settings.trim.TrimSettings`], *optional*): which tokens stay. Defaults to the natural vocabulary
            at a coverage of 0.9995.
        plan ([`PruningPlan`], *optional*): which tokens stay, in place of the settings.
        overwrite (`bool`): whether what an earlier trim wrote may be replaced.
        command (`str`, *optional*): for the report.
        reads (`Sequence`): further files that the output must not replace.
        options: `tokenizer`, `revision` and `trust_remote_code` as of [`open_model`].

    Raises:
        [`FlabError`]: the model is damaged, is not there, or has a table that rows cannot be cut from; a size is out
            of reach; the disk is full.
        [`ConfigurationError`]: the output exists or cannot be named so.
    """
    settings = settings or TrimSettings()
    path = user_path(output)
    sources = [*settings.data.sources, *settings.data.counts]
    inputs = [model_name_or_path, options.get("tokenizer"), *sources, *reads]
    if path.suffix == ".gguf":
        check_file(path, overwrite, model_name_or_path, inputs)
        folder = path.with_name(f".{path.name}.partial")
        report = trim(model_name_or_path, folder, settings, plan=plan, overwrite=True, command=command, **options)
        (folder / PLAN_NAME).replace(path.with_name(f"{path.stem}{PLAN_SUFFIX}"))
        (folder / next(iter(report.files))).replace(path)
        shutil.rmtree(folder)
        return report
    with OutputFolder(path, TRIMMED, overwrite=overwrite, inputs=inputs) as reserved, _no_collection():
        files, model = open_model(model_name_or_path, **options)
        texts = read_texts_for(model, settings) if plan is None else None
        kept = chosen_tokens(model, settings, texts, files.name) if texts else planned_tokens(model, plan)
        if len(kept) >= model.rows:
            raise FlabError(
                f"all {model.rows:,} tokens of {files.name!r} would stay: there is nothing to trim; ask for fewer with"
                " `coverage` or `vocab_size`"
            )
        check_space(path, model.bytes_with(kept), "the trimmed files take")
        earlier = Checkpoint(path).card
        with reserved.replacement() as folder:
            report = _write_files(files, model, kept, texts, folder)
            corpus_hash = texts.corpus_hash if texts else plan.corpus_hash if plan else ""
            PruningPlan(
                base_model=files.name,
                base_revision=files.revision,
                base_hash=tokens_hash(model.spellings(kept), kept),
                corpus_hash=corpus_hash,
                vocab_size=len(kept),
                kept={"vocab": list(kept), "layer": list(range(model.layers))},
                dtype="stored",
                settings=plan.settings if plan else settings.model_dump(),
            ).save(folder)
            for file in find_license_files(files.folder):
                shutil.copyfile(file, folder / file.name)
            others = {one.name for one in folder.iterdir()} | {CARD_NAME}
            others -= report.files.keys()
            report = report.model_copy(update={"others": tuple(sorted(others)), "command": command})
            report.save(folder)
            write_card(Checkpoint(folder), ask_hub=False, earlier=earlier)
    return report


def _write_files(
    files: ModelFiles, model: Model, kept: Sequence[int], texts: TextSets | None, folder: Path
) -> TrimReport:
    """Writes a model's files and measures what is different, while llama.cpp tokenises beside."""
    passages = [document.text for document in texts.held_out] if texts else []
    with ThreadPoolExecutor(1) as beside:
        compared = beside.submit(model.check_tokens, kept, folder, [*SAMPLES, *passages[:TRIED]])
        written = model.write(kept, folder, f"{_stem(files)}-trimmed")
        trouble = compared.result()
        notes = [DEMO_TERMS] if files.name == DEMO_NAME else []
        notes += [] if trouble is None else [f"its tokens were not compared with llama.cpp's own: {trouble}"]
        report = _report(files, model, kept, written, notes)
        if texts is None:
            return report
        found, grown = held_out_tokens(model, kept, texts)
        return report.model_copy(update={"held_out": found, "grown": grown})


def check_file(
    path: Path, overwrite: bool, model_name_or_path: str | Path, inputs: Sequence[str | Path | None]
) -> None:
    """Refuses a file that cannot be written, before any work.

    Raises:
        [`ConfigurationError`]: it exists or is read, or the model is no GGUF file in one part.
        [`FlabError`]: no trim wrote what is there.
    """
    name = Path(model_name_or_path).name
    if PART.fullmatch(name) or not (name.lower().endswith(".gguf") or name == DEMO_NAME):
        raise ConfigurationError(f"output: {str(path)!r} names one GGUF file, and {name!r} is none; name a folder")
    output_file(path, ".gguf", overwrite)
    if any(path.resolve() == user_path(one).resolve() for one in inputs if one is not None):
        raise ConfigurationError(f"output: {str(path)!r} is read by this run; name another file")
    if path.exists() and not path.with_name(f"{path.stem}{PLAN_SUFFIX}").is_file():
        raise FlabError(f"{str(path)!r} was not written by a trim, and is not replaced; name another file")


def read_texts_for(model: Model, settings: TrimSettings) -> TextSets:
    """The corpus, and text to measure on. A corpus of few documents is not measured on itself.

    Raises:
        [`FlabError`]: a source cannot be read, or there is too little text.
    """
    texts, data = read_texts(settings.data, settings.seed), settings.data
    if len({document.text for document in (texts.calibration or texts.corpus).documents}) < FEWEST_DOCUMENTS:
        data = data.model_copy(update={"mix": {**data.mix, OWN: 0.0}})

    def count_tokens(passages: list[str]) -> list[int]:
        return [len(ids) for ids in token_lists(model.tokenizer, passages)]

    return divide_texts(texts, data, count_tokens, settings.seed, formats_of(model.tokenizer))


def open_model(
    model_name_or_path: str | Path,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[ModelFiles, Model]:
    """Where a model is, and the model, whose weights are not read.

    Args:
        tokenizer (`str` or `Path`, *optional*): a folder or Hub id with the tokenizer, where that in a GGUF file
            cannot be read.
        revision (`str`, *optional*): branch, tag or commit of a Hub repository.
        trust_remote_code (`bool`): whether code from the repository may run.

    Raises:
        [`FlabError`]: it is not there or damaged, or has a table that rows cannot be cut from.
    """
    files = find_model(model_name_or_path, revision, parts=True)
    named = None if tokenizer is None else _named_tokenizer(tokenizer)
    if files.gguf is not None:
        return files, GgufModel(files.gguf, named)
    from .folder import FolderModel  # torch takes seconds to import, and GGUF files need none of it

    return files, FolderModel(files, named, trust_remote_code)


def _named_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    from ..checkpoints.tokenizer import check_loaded

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # conversions fail in many ways
        raise FlabError(
            f"tokenizer: {str(name)!r} holds none that can be loaded; name a folder or a Hub id"
        ) from error
    check_loaded(tokenizer, str(name))
    return tokenizer


# --- which tokens stay ---------------------------------------------------------------------------------------------


def chosen_tokens(model: Model, settings: TrimSettings, texts: TextSets, name: str) -> list[int]:
    """The ids that stay, ascending, by the settings of a pruning's vocabulary.

    Raises:
        [`FlabError`]: a size is out of reach; counts are of another tokenizer.
    """
    tokenizer, vocabulary = model.tokenizer, settings.vocabulary
    spec = read_spec(tokenizer)
    files: tuple[CountsFile, ...] = read_counts(settings.data.counts, tokenizer, name)
    words = [] if settings.data.preset is None else preset_words(settings.data.preset)
    counts = source_counts(tokenizer, texts.corpus, WorkFolder(cache_root("pruning")), words)
    if files:
        counts += [usage.counts for usage in TokenCounts.merged(one.counts for one in files).sources.values()]
    # llama.cpp knows these by their text, and models of any format may become GGUF files
    named = model.named_ids() | {index for index, token in spec.tokens.items() if token in {*ENDS, *NEWER_ENDS}}
    choice = TokenChoice(tokenizer, "", counted_tokens(spec, vocabulary, named, counts), spec)
    # rows that no token has, but a configuration names, follow those of the tokens
    last = max(spec.tokens)
    rows = sorted(index for index in named if index not in spec.tokens)
    if any(index < last for index in rows):
        raise FlabError(f"{name!r} names the id {rows[0]}, for which its tokenizer has no token")
    size, multiple = settings.vocab_size, vocabulary.pad_to_multiple_of or (1 if settings.vocab_size else ROWS_AT_ONCE)
    if settings.target_size is not None:
        size = _fitting(model, choice, rows, parse_bytes(settings.target_size) or 0, len(spec.tokens))
        size -= (size + len(rows)) % multiple
        if size < len(choice.counted.protected):
            raise ConfigurationError(f"pad_to_multiple_of: no multiple of {multiple:,} tokens fits into that size")
    else:
        # filled up with the next tokens: rows that nothing needs would take as much room
        size = size or len(choice.counted.natural)
        size = min(size + -(size + len(rows)) % multiple, len(spec.tokens))
    return [*choice(size).tolist(), *rows]


def _fitting(model: Model, choice: TokenChoice, rows: list[int], most: int, tokens: int) -> int:
    """The largest number of tokens with which the files are no larger than a size.

    Raises:
        [`FlabError`]: even the smallest is too large.
    """
    order, least = choice.order, len(choice.counted.protected)

    def size_with(number: int) -> int:
        kept = sorted(order[:number]) if number <= len(order) else choice(number).tolist()
        return model.bytes_with([*kept, *rows])

    if (smallest := size_with(least)) > most:
        raise FlabError(
            f"target_size: with the {least:,} tokens that have to stay it takes {smallest / 1e6:,.1f} MB, and"
            f" {most / 1e6:,.1f} MB are asked for; ask for more, or prune layers and FFNs too (`flab prune`)"
        )
    return least + bisect_right(range(least + 1, tokens + 1), most, key=size_with)


def planned_tokens(model: Model, plan: PruningPlan | None) -> list[int]:
    """The ids that a plan keeps.

    Raises:
        [`FlabError`]: the model has other tokens, or the plan is about more than those.
    """
    assert plan is not None
    kept = plan.kept_tokens or []
    if not plan.is_trim or not kept or plan.kept.keys() - {"vocab", "layer"}:
        raise FlabError(
            f"the plan for {plan.base_model!r} is that of a pruning, which needs the weights that it was made for;"
            " apply it with `optimum-cli flab apply` to those"
        )
    if max(kept) >= model.rows or tokens_hash(model.spellings(kept), kept) != plan.base_hash:
        raise FlabError(
            f"the plan was made for the tokens of {plan.base_model!r}, and this model has others; name a file of the"
            " same model, in whatever quantisation"
        )
    if lost := sorted(model.named_ids().difference(kept)):
        raise FlabError(
            f"the plan for {plan.base_model!r} lacks {model.spellings(lost[:1])[0]!r}, which this model names as a"
            " special token; trim this model by itself"
        )
    return kept


def tokens_hash(spellings: Sequence[str], kept: Sequence[int]) -> str:
    """What a trim's plan is for: the tokens that stay, as they are spelt with spaces, and their ids."""
    lines = (f"{index} {text.replace(SPACE, ' ')}\n" for index, text in zip(kept, spellings, strict=True))
    return TOKENS + hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


# --- what is said --------------------------------------------------------------------------------------------------


def held_out_tokens(
    model: Model, kept: Sequence[int], texts: TextSets
) -> tuple[dict[str, TrimmedText], tuple[GrownText, ...]]:
    """How held-out text of each kind is tokenised before and after, and the texts that grow most."""
    stays = np.zeros(model.rows, dtype=bool)
    stays[kept] = True
    passages = [document.text for document in texts.held_out]
    before = token_lists(model.tokenizer, passages)
    after = [*map(len, token_lists(model.trimmed_tokenizer(kept), passages))]
    kinds: dict[str, list[int]] = {}
    for place, document in enumerate(texts.held_out):
        kinds.setdefault(document.kind or "own", []).append(place)
    found = {}
    for kind, places in sorted(kinds.items()):
        ids = np.concatenate([np.array(before[place], dtype=np.int64) for place in places])
        whole = float(stays[ids].mean()) if len(ids) else 1.0
        found[kind] = TrimmedText(
            texts=len(places), tokens_before=len(ids), tokens_after=sum(after[place] for place in places), whole=whole
        )
    longer = [place for place in range(len(passages)) if FEWEST <= len(before[place]) < after[place]]
    longer.sort(key=lambda place: after[place] / len(before[place]), reverse=True)
    grown = (
        GrownText(
            kind=texts.held_out[place].kind or "own",
            begins=" ".join(passages[place].split())[:BEGINS],
            tokens_before=len(before[place]),
            tokens_after=after[place],
        )
        for place in longer[:GROWN]
    )
    return found, tuple(grown)


def _report(
    files: ModelFiles, model: Model, kept: Sequence[int], written: TrimmedFiles, notes: Sequence[str]
) -> TrimReport:
    sizes = {path.name: path.stat().st_size for path in written.paths}
    return TrimReport(
        base_model=files.name,
        base_revision=files.revision,
        card=base_card_of(files.folder, files.gguf and part_paths(files.gguf)[0]),
        kind=model.kind,
        files=sizes,
        bytes_before=model.size,
        bytes_after=sum(sizes.values()),
        tokens_before=model.rows,
        tokens_after=len(kept),
        tables=dict(written.cut),
        copied_tensors=len(written.copied),
        copied_bytes=written.copied_bytes,
        copied_sha256=combined_hash(written.copied),
        notes=tuple(notes),
    )


# --- where it is written -------------------------------------------------------------------------------------------


def _stem(files: ModelFiles) -> str:
    if files.gguf is None:
        return "model"
    part = PART.fullmatch(files.gguf.name)
    return part["stem"] if part is not None else files.gguf.stem


def _owns(path: Path) -> bool:
    """Whether a file is part of what a trim wrote; a card that somebody wrote or changed is not."""
    checkpoint = Checkpoint(path.parent)
    try:
        report = checkpoint.trim
        is_users = path.name == CARD_NAME and not is_generated(checkpoint.card or "")
    except FlabError:
        return path.name == TRIM_NAME
    return path.name in {*report.files, *report.others, TRIM_NAME} and not is_users


TRIMMED = FolderKind("a trimmed model", TRIM_NAME, _owns)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python looks through its objects again and again while millions of tokens are made, and finds none to free."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
