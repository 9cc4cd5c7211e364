"""What a log file gets of progress bars."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from optimum_flab.utils.progress import LogStream, bars_as_lines, duration, progress


def logged(seconds: float, *texts: str) -> str:
    stream = io.StringIO()
    log = LogStream(stream, seconds)
    for text in texts:
        log.write(text)
    return stream.getvalue()


def test_a_bar_becomes_its_first_and_its_last_state_and_what_is_between_every_so_often():
    moves = ["\rA 0%", "\rA 1%", "\rA 2%", "\rA 100%", "\n"]
    assert logged(3600, *moves) == "A 0%\nA 100%\n"
    assert logged(0, *moves) == "A 0%\nA 1%\nA 2%\nA 100%\n"
    assert logged(3600, "".join(moves)) == "A 100%\n"


def test_the_next_bar_says_at_once_what_is_being_done():
    assert logged(3600, "\rA 0%", "\rA 100%", "\n", "\rB 0%", "\rB 1%") == "A 0%\nA 100%\nB 0%\n"


def test_what_is_said_between_bars_is_kept():
    assert logged(3600, "\rA 0%", "\rA 50%", "\r        \r", "a remark\n", "\rA 60%", "\rA 100%\n") == (
        "A 0%\na remark\nA 100%\n"
    )


def test_what_is_said_while_a_bar_is_there_is_a_line_of_its_own():
    assert (
        logged(3600, "\rA 5%", "\rA 6%", "a.py:3: careful\n", "\rA 7%", "\n") == "A 5%\nA 6%\na.py:3: careful\nA 7%\n"
    )
    assert logged(3600, "\rA 5%", "error: x\n", "\rB 5%", "error: x\n") == "A 5%\nerror: x\nB 5%\nerror: x\n"


def test_a_closed_stream_is_no_reason_to_fail(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with bars_as_lines(), progress("Nowhere", 2, "step") as tick:
        tick()
        assert sys.stderr is None


def test_bars_below_each_other_leave_no_cursor_movements():
    assert "\x1b" not in logged(0, "\rA 0%", "\n\rB 0%\x1b[A", "\n\rB 100%\x1b[A", "\rA 100%", "\n")


@given(st.lists(st.text(st.characters(exclude_characters="\r"))))
def test_text_without_bars_passes_as_it_is(texts):
    assert logged(3600, *texts) == "".join(texts)


def test_bars_of_ours_and_of_others_are_lines_in_a_file():
    with redirect_stderr(io.StringIO()) as log:
        with bars_as_lines():
            with progress("Ours", 3, "step") as tick:
                for _ in range(3):
                    tick()
            for _ in tqdm(range(5), desc="Theirs"):
                pass
            print("plain", file=sys.stderr)
        assert sys.stderr is log
    lines = log.getvalue().splitlines()
    assert lines[0].startswith("Ours:   0% 0/3") and lines[-1] == "plain"
    assert any(line.startswith("Ours: 100% 3/3") for line in lines)
    assert any(line.startswith("Theirs: 100%") for line in lines)
    assert "\r" not in log.getvalue() and len(lines) <= 5


def test_a_bar_outside_of_the_command_line_is_lines_too():
    with redirect_stderr(io.StringIO()) as log, progress("Alone", None, "step") as tick:
        tick()
    assert log.getvalue().startswith("Alone: 0 so far [00:00]") and "\r" not in log.getvalue()


def test_a_terminal_draws_bars():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with redirect_stderr(Terminal()) as terminal, bars_as_lines():
        with progress("Drawn", 2, "step", ncols=60, dynamic_ncols=False) as tick:
            tick(2)
    assert terminal.getvalue().startswith("\rDrawn:   0%|")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (192, "3 min 12 s"), (3599.6, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
