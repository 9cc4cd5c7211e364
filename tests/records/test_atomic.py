"""Files are there whole or not at all."""

from __future__ import annotations

import os

import pytest

from optimum_flab.records.atomic import write_atomically, write_files
from optimum_flab.utils.errors import FlabError


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_appears_once_it_is_whole(tmp_path):
    target = tmp_path / "new" / "a.json"

    def write(path):
        path.write_text("half")
        assert not target.exists() and path.parent == target.parent
        path.write_text("whole")

    write_atomically(target, write)
    assert content(tmp_path) == {"new/a.json": "whole"}


@pytest.mark.parametrize("error", [OSError("full"), ValueError("x"), KeyboardInterrupt()])
def test_what_was_there_stays_where_writing_fails(tmp_path, error):
    (tmp_path / "a.json").write_text("before")

    def write(path):
        path.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_atomically(tmp_path / "a.json", write)
    assert content(tmp_path) == {"a.json": "before"}


def test_what_is_stale_goes_once_the_new_files_are_there(tmp_path):
    (tmp_path / "a.json").write_text("before")
    (tmp_path / "old.json").write_text("old")
    with pytest.raises(FlabError, match="cannot be written"):
        write_files(tmp_path / "a.json", {"b.json": b"after"}, [tmp_path / "old.json"])
    write_files(tmp_path, {"a.json": b"after", "b.json": b"new"}, [tmp_path / "old.json"])
    assert content(tmp_path) == {"a.json": "after", "b.json": "new"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process to be killed")
def test_a_writer_that_is_killed_leaves_what_was_there(tmp_path):
    (tmp_path / "a.json").write_text("before")
    child = os.fork()
    if not child:

        def write(path):
            path.write_text("half")
            os._exit(1)

        write_atomically(tmp_path / "a.json", write)
    os.waitpid(child, 0)
    assert (tmp_path / "a.json").read_text() == "before"
