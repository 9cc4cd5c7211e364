"""The dense model's own answers as calibration text."""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoints.loading import LoadedModel
from ..records.work import WorkFolder
from ..running.answers import AnswerWriter
from ..running.generation import BatchCache
from ..running.processes import Processes
from ..settings.configuration import FlabPrunerConfig
from ..texts.answers import Answer, Question
from ..texts.kinds import ANSWERS


FOLDER = "answers"


def answer_writer(
    dense: LoadedModel, weights: str, config: FlabPrunerConfig, work: WorkFolder, processes: Processes | None = None
) -> Answer | None:
    """What writes a model's answers; `None` if they have no share of the text, or the model has its weights in their
    files, from which it would write slowly. Of several processes the first writes.

    Args:
        weights (`str`): their hash, see [`~checkpoints.hashes.dense_hash`].
        work ([`WorkFolder`]): its folder keeps what was written, for all runs.
        processes ([`Processes`], *optional*): those that share the pruning. Defaults to this one only.
    """
    if not config.data.mix.get(ANSWERS) or dense.stored is not None:
        return None
    processes = processes or Processes()
    cache, longest = BatchCache(work.root / FOLDER, reuse=work.resume), config.data.sequence_length
    write = AnswerWriter(dense.model, dense.tokenizer, weights, cache, longest, config.seed)

    def answer(questions: Sequence[Question]) -> list[tuple[str, int]]:
        return processes.of_each(write(questions) if processes.is_main else [])[0]

    return answer
