"""The texts of a pruning, and what the report says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

from ..checkpoints.loading import LoadedModel
from ..records.texts import TextCounts
from ..running.answers import Writer, answers_to
from ..running.casting import estimates_dtype, on_device
from ..running.generation import BatchCache
from ..running.run import Run
from ..settings.pruning import TOKENS_PER_NEURON, DataSettings
from ..texts.answers import QUESTIONS_AT_ONCE, Answer
from ..texts.formats import Formats, formats_of
from ..texts.kinds import ANSWERS, CHAT, INFILLING
from ..texts.presets import preset_words
from ..texts.sets import TextSets, read_text_sets
from .counts import counts_report
from .request import Request
from .vocabulary import TokenChoice


FEWEST_PER_NEURON = 2  # calibration tokens
COMPARED = 1 << 20  # about how many characters of the corpus
ANSWERS_FOLDER = "answers"
LONGEST_ANSWER = 256  # tokens
# Notes for the report.
NOT_WRITTEN = (
    "the model's weights stay in their files, so that it would write too slowly: the share of the calibration text of"
    " the kind 'answers' goes to the problems themselves"
)
NO_ANSWERS = (
    "no answer of the model is in the calibration text, and the other kinds have its share: with their problems all"
    " were too long for `data.sequence_length`, empty, or repeated themselves"
)
COUNTED = (
    "text that was only counted may overlap with the text measured on, since counts do not reveal it; name held-out"
    " text that was not counted to be sure"
)


def read_pruning_texts(dense: LoadedModel, weights: str, request: Request, run: Run) -> TextSets:
    """The texts of a pruning; notes what kinds of text are left out, and where there is too little.

    Args:
        dense ([`LoadedModel`]): as it was loaded.
        weights (`str`): their hash, see [`~checkpoints.hashes.dense_hash`].
    """
    config = request.config
    answer = answer_writer(dense, weights, request, run)
    run.notes += text_notes(config.data, formats_of(dense.tokenizer), answer is not None)
    with run.step("texts", "Reading text"):
        texts = read_text_sets(dense.tokenizer, config.data, config.seed, answer)
    if answer is not None and not any(document.kind == ANSWERS for document in texts.calibration):
        run.warn(NO_ANSWERS)
    for warning in few_tokens(texts.calibration_tokens, tokens_per_neuron(request, texts)):
        run.warn(warning)
    return texts


def answer_writer(dense: LoadedModel, weights: str, request: Request, run: Run) -> Answer | None:
    """What writes a model's answers; `None` if they have no share of the text, or the model has its weights in their
    files, from which it would write slowly.

    Args:
        weights (`str`): their hash, see [`~checkpoints.hashes.dense_hash`].
        run ([`Run`]): its work folder keeps what was written, for all runs.
    """
    config = request.config
    if not config.data.mix.get(ANSWERS) or dense.stored is not None:
        return None
    cache, longest = BatchCache(run.work.root / ANSWERS_FOLDER, reuse=run.work.resume), config.data.sequence_length
    model, tokenizer = dense.model, dense.tokenizer
    writer = Writer(
        on_device(model, model.device, estimates_dtype(model.dtype, model.device)),
        tokenizer,
        weights,
        cache,
        closing=formats_of(tokenizer).closing,
        most_tokens=min(LONGEST_ANSWER, longest // 2),
        batch_size=QUESTIONS_AT_ONCE,
        seed=config.seed,
    )
    return partial(answers_to, writer, longest, run.processes)


def text_notes(data: DataSettings, formats: Formats, can_answer: bool) -> list[str]:
    """Notes on the kinds of text that are left out because a tokenizer cannot show them, or a model in its files not
    write them, and on what counts cannot tell."""
    kinds = (
        (CHAT, formats.chat, "chat template that shows a conversation"),
        (INFILLING, formats.infilling, "known tokens for infilling"),
    )
    notes = [
        f"the tokenizer has no {what}: calibration text of the kind {kind!r} is left out, and its share goes to the"
        " others"
        for kind, known, what in kinds
        if known is None and data.mix.get(kind)
    ]
    notes += [NOT_WRITTEN] * bool(data.mix.get(ANSWERS) and not can_answer)
    return [*notes, COUNTED] if data.counts else notes


def few_tokens(tokens: int, each: float | None) -> list[str]:
    """A note where calibration text is too little to tell a layer's neurons apart.

    Args:
        tokens (`int`): of calibration text.
        each (`float`, *optional*): the tokens for each neuron; `None`: none is to be removed.
    """
    if each is None or each >= FEWEST_PER_NEURON:
        return []
    return [
        f"{tokens:,} calibration tokens are {each:.1f} for each neuron of a layer: too few to tell them apart, so that"
        f" the model loses more than it has to; {TOKENS_PER_NEURON} for each are better"
    ]


def tokens_per_neuron(request: Request, texts: TextSets) -> float | None:
    """The calibration tokens for each neuron of a layer; `None` if none is to be removed."""
    if not request.config.ffn.enabled:
        return None
    return texts.calibration_tokens * request.routed_share / request.sizes.shape["neuron"]


def text_counts(texts: TextSets, tokens: TokenChoice, request: Request, kept: Sequence[int] | None) -> TextCounts:
    """The texts of a pruning, and how many a plan's tokens tokenise differently, for the report; of a corpus of more
    than [`COMPARED`] characters every so many texts are compared.

    Args:
        kept (`Sequence[int]`, *optional*): the plan's tokens; `None`: all of them.
    """
    corpus = [document.text for document in texts.corpus]
    if kept is not None and not tokens.keeps_corpus(kept):
        corpus = corpus[:: max(1, sum(map(len, corpus)) // COMPARED)]
    words = [word for part in (preset_words(texts.preset) if texts.preset else ()) for word in part.words]
    return TextCounts(
        corpus=len(texts.corpus),
        calibration=len(texts.calibration),
        validation=len(texts.validation),
        held_out=len(texts.held_out),
        set_aside=texts.set_aside,
        skipped_files=texts.skipped_files,
        corpus_compared=len(corpus),
        corpus_cut_differently=tokens.changed(corpus, kept),
        preset_words=len(words),
        preset_words_cut_differently=tokens.changed(words, kept),
        calibration_by_kind=dict(sorted(Counter(document.kind for document in texts.calibration).items())),
        tokens_per_neuron=tokens_per_neuron(request, texts),
        counts=tuple(counts_report(file, kept) for file in request.counts),
    )
