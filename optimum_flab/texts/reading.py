"""The contents of the sources of a run, before they are divided into sets."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings.pruning import DataSettings
from .kinds import INFILLING, LIBRARY, OWN
from .sources import Document, SourceTexts, default_corpus, hub_datasets, installed_sources, read_sources


TOKENS_PER_FILE = 48  # a file usually yields at least one passage, of about a hundred tokens; some yield none


@dataclass(frozen=True)
class ReadTexts:
    """The contents of the sources of a run, before they are divided.

    Args:
        corpus ([`SourceTexts`]): of the corpus, or of the default one; empty where a preset or counts replace it.
        calibration ([`SourceTexts`], *optional*): of the calibration sources, where some are named.
        held_out ([`SourceTexts`], *optional*): of the held-out sources, where some are named.
        datasets (`tuple[str, ...]`): ids of the Hub datasets among them.
        library (`list[Document]`): files of installed libraries.
        spare ([`SourceTexts`], *optional*): the default corpus where a preset or counts replace it: used as own text
            if there is no text of any other kind.
    """

    corpus: SourceTexts
    calibration: SourceTexts | None
    held_out: SourceTexts | None
    datasets: tuple[str, ...]
    library: list[Document]
    spare: SourceTexts | None = None

    @property
    def skipped(self) -> int:
        """The number of files of all sources that are not text."""
        return sum(part.skipped for part in (self.corpus, self.calibration, self.held_out) if part is not None)


def read_texts(data: DataSettings, seed: int = 0) -> ReadTexts:
    """Reads the sources that settings name, and a sample of installed libraries where the mix needs it.

    Args:
        seed (`int`): decides the sample of library files.

    Raises:
        [`FlabError`]: a source cannot be read.
    """
    files = 0
    if data.mix.get(LIBRARY) or data.mix.get(INFILLING):  # enough even if no other kind yields any text
        tokens = data.tokens + data.validation_tokens + data.held_out_tokens
        files = -(-tokens // TOKENS_PER_FILE)
    # with a preset or counts the default corpus may have to be calibrated on: which kinds the tokenizer can show is
    # not yet known
    needs_spare = not (data.uses_default_corpus or data.corpus or data.calibration) and data.mix.get(OWN)
    return ReadTexts(
        held_out=read_sources(data.held_out) if data.held_out else None,
        calibration=read_sources(data.calibration) if data.calibration else None,
        corpus=default_corpus() if data.uses_default_corpus else read_sources(data.corpus),
        datasets=tuple(hub_datasets(data.sources)),
        library=installed_sources(files, seed, standard_library=True) if files else [],
        spare=default_corpus() if needs_spare else None,
    )
