"""A GGUF file in llama.cpp in a process of its own, since llama.cpp ends the one that it runs in on errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any

from ..utils.errors import FlabError


PACKAGE = "llama_cpp_py_sync"  # has llama.cpp's library in its wheel


def llama_version() -> str | None:
    """What llama.cpp there is in this environment; `None`: there is none."""
    name = PACKAGE.replace("_", "-")
    return f"llama.cpp ({name} {version(name)})" if find_spec(PACKAGE) else None


class LlamaProcess:
    """A GGUF file that is read token by token, on the CPU; what is likeliest to follow is computed from the file as it
    is.

    Args:
        path (`Path`): the file.
        threads (`int`): that compute.

    Raises:
        [`FlabError`]: llama.cpp refuses the file. Later, in any of its methods: it ended.
    """

    def __init__(self, path: Path, threads: int):
        self.path = path
        self._said = TemporaryFile()
        command = [sys.executable, str(Path(__file__).with_name("llama_file.py")), str(path), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, encoding="utf-8"
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # pipes, as asked for
        self._steps, self._answers = self._process.stdin, self._process.stdout
        self._answer()

    def begin(self, sequences: int, length: int) -> None:
        """Makes room for some sequences of at most `length` tokens, in place of those before."""
        self._step({"begin": [sequences, length]})

    def read(self, following: Sequence[tuple[int, Sequence[int]]]) -> list[int]:
        """Reads the next tokens of sequences, and returns the likeliest token after each."""
        return self._step({"read": following})

    def _step(self, step: dict[str, Any]) -> list[int]:
        with suppress(OSError):  # it ended: what it said is found below
            self._steps.write(json.dumps(step) + "\n")
            self._steps.flush()
        return self._answer()

    def _answer(self) -> list[int]:
        line = self._answers.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            said = [text for text in self._said.read().decode(errors="replace").splitlines() if text.strip()]
            reason = said[-1].strip() if said else f"it ended with status {self._process.returncode}"
            raise FlabError(f"llama.cpp ended while it read {self.path.name!r} ({reason})")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        with suppress(OSError):  # it ended with a step unread
            self._steps.close()
        self._process.wait()
        self._answers.close()
        self._said.close()

    def __enter__(self) -> LlamaProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()
