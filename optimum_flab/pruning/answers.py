"""The dense model's own answers as calibration text."""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoints.hashes import dense_hash
from ..checkpoints.loading import LoadedModel
from ..records.work import WorkFolder
from ..running.answers import AnswerWriter
from ..running.generation import BatchCache
from ..running.processes import Processes
from ..settings.configuration import FlabPrunerConfig
from ..texts.answers import Answer, Question
from ..texts.kinds import ANSWERS


FOLDER = "answers"


def can_answer(dense: LoadedModel) -> bool:
    """Whether a model can write text: with its weights in memory."""
    return dense.stored is None


def answer_writer(
    dense: LoadedModel, config: FlabPrunerConfig, work: WorkFolder, processes: Processes | None = None
) -> Answer | None:
    """What writes a model's answers, or `None` where there is no time or no use for them. Of several processes the
    first writes.

    Args:
        work ([`WorkFolder`]): its folder keeps what was written, for all runs.
    """
    if not config.data.mix.get(ANSWERS) or not can_answer(dense):
        return None
    processes = processes or Processes()
    cache, longest = BatchCache(work.root / FOLDER, reuse=work.resume), config.data.sequence_length
    write = AnswerWriter(dense.model, dense.tokenizer, dense_hash(dense), cache, longest, config.seed)

    def answer(questions: Sequence[Question]) -> list[tuple[str, int]]:
        return processes.of_each(write(questions) if processes.is_main else [])[0]

    return answer
