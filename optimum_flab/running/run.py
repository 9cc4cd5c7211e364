"""Where and how the work of a verb is done, and what the user is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..records.ledger import Ledger
from ..records.pieces import Pieces
from ..records.work import Stage, WorkFolder
from ..tensors.workspace import Workspace
from ..utils.progress import numbered, say
from .processes import Processes


T = TypeVar("T")


@dataclass
class Run:
    """The work folder, the processes and the notes that all stages of a pruning or of a recovery share.

    Args:
        work ([`WorkFolder`]): keeps the values of the stages.
        processes ([`Processes`]): those that share the run; only the first talks to the user.
        stages (`Sequence[str]`): names of stages and steps in their order, numbered for who watches.
        memory (`int`, *optional*): bytes that may be taken if weights are in files. Defaults to what is free.
        workspace ([`Workspace`]): where large tensors are.
        notes (`list[str]`): what the report says besides its figures.
    """

    work: WorkFolder
    processes: Processes = field(default_factory=Processes)
    stages: Sequence[str] = ()
    memory: int | None = None
    workspace: Workspace = field(default_factory=Workspace)
    notes: list[str] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)

    @classmethod
    def in_folder(
        cls,
        root: Path,
        processes: Processes | None = None,
        *,
        resume: bool = True,
        check: Callable[[], None] = lambda: None,
        ledger: Ledger | None = None,
        **fields: Any,
    ) -> Run:
        """A run that saves its work in a folder, of which each process has its own version.

        Args:
            resume (`bool`): whether saved work may be used.
            check (`Callable`): called before a value is saved; raises if its inputs have changed in the meantime.
            ledger ([`Ledger`], *optional*): for what stages cost. Defaults to a new one that counts no products.
            fields (`Any`): of the run.
        """
        processes = processes or Processes()
        folders = processes.own_folders(root)
        work = WorkFolder(
            folders[processes.rank],
            resume=resume,
            agree=processes.agree,
            is_main=processes.is_main,
            beside=folders if processes.is_main else (),
            check=check,
            ledger=ledger,
        )
        return cls(work, processes, **fields)

    @property
    def ledger(self) -> Ledger:
        """What stages and steps cost."""
        return self.work.ledger

    def stage(self, stage: Stage[T], inputs: Mapping[str, Any], make: Callable[[Pieces], T]) -> T:
        """The value of a stage: saved by an earlier run for the same inputs, or else made now, see
        [`WorkFolder.value`]."""
        with self._numbered(stage.name):
            return self.work.value(stage, inputs, make)

    @contextmanager
    def step(self, name: str, title: str = "") -> Iterator[None]:
        """A part of the work of which nothing is saved; what it costs is noted.

        Args:
            title (`str`): what is being done, said at once. Defaults to nothing: bars say it.
        """
        with self._numbered(name, title), self.ledger.stage(name):
            yield

    @contextmanager
    def _numbered(self, name: str, title: str = "") -> Iterator[None]:
        if name not in self.stages:
            yield
            return
        with numbered(self.stages.index(name) + 1, len(self.stages), title):
            yield

    def say(self, text: str) -> None:
        """A line for the user."""
        if self.processes.is_main:
            say(text)

    def note(self, text: str) -> None:
        """Something for the report, and a line for the user."""
        self.say(f"note: {text}")
        self.notes.append(text)

    def caution(self, warning: str) -> None:
        """What the user should know before the work; said once."""
        if warning not in self._said:
            self.say(f"warning: {warning}")
        self._said.add(warning)

    def warn(self, warning: str) -> None:
        """What the user should know, which is then also a note of the report."""
        self.caution(warning)
        self.notes.append(warning)
