"""The dense model's own answers as calibration text."""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoints.loading import LoadedModel
from ..running.answers import Writer, answers_to
from ..running.casting import estimates_dtype, on_device
from ..running.generation import BatchCache
from ..running.run import Run
from ..texts.answers import QUESTIONS_AT_ONCE, Answer, Completion, Question
from ..texts.formats import formats_of
from ..texts.kinds import ANSWERS
from .request import Request


FOLDER = "answers"
LONGEST_ANSWER = 256  # tokens


def answer_writer(dense: LoadedModel, weights: str, request: Request, run: Run) -> Answer | None:
    """What writes a model's answers; `None` if they have no share of the text, or the model has its weights in their
    files, from which it would write slowly. Of several processes the first writes.

    Args:
        weights (`str`): their hash, see [`~checkpoints.hashes.dense_hash`].
        run ([`Run`]): its work folder keeps what was written, for all runs.
    """
    config, processes = request.config, run.processes
    if not config.data.mix.get(ANSWERS) or dense.stored is not None:
        return None
    cache, longest = BatchCache(run.work.root / FOLDER, reuse=run.work.resume), config.data.sequence_length
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

    def answer(questions: Sequence[Question]) -> list[tuple[Completion, int]]:
        return processes.of_each(answers_to(writer, longest, questions) if processes.is_main else [])[0]

    return answer
