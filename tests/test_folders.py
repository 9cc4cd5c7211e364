"""Output folders: whole or as they were, one run at a time, and nobody's data is replaced."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from optimum_flab.checkpoints.finding import find_model
from optimum_flab.records.folders import FolderKind, OutputFolder, check_writable
from optimum_flab.utils.errors import ConfigurationError, FlabError


KIND = FolderKind("a result", "mark.json", lambda path: path.name in ("mark.json", "config.json", "card", "part"))


def fill(folder: Path, text: str = "new") -> None:
    (folder / "part").mkdir()
    for name in ("mark.json", "config.json", "card", "part/weights"):
        (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def write(folder: Path, text: str = "new", **options) -> None:
    with OutputFolder(folder, KIND, **options) as output, output.replacement() as new:
        fill(new, text)


NEW = {"card": "new", "config.json": "new", "mark.json": "new", "part/weights": "new"}


def test_a_folder_that_is_not_there_holds_nothing_until_all_is_written(tmp_path):
    folder = tmp_path / "a" / "b" / "out"
    with OutputFolder(folder, KIND) as output, output.replacement() as new:
        fill(new)
        assert os.listdir(folder) == [".flab-output"]
    assert content(tmp_path) == {f"a/b/out/{name}": text for name, text in NEW.items()}
    assert ".flab-output" not in os.listdir(folder)
    with pytest.raises(FlabError, match="exists and is not empty .* set `overwrite`"):
        write(folder)
    assert content(folder) == NEW


def test_a_folder_that_is_there_stays_the_same_one(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir(0o750)
    folder.chmod(0o2750)
    before = folder.stat()
    for options in ({}, {"overwrite": True}):
        write(folder, **options)
        after = folder.stat()
        assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
        assert content(tmp_path) == {f"out/{name}": text for name, text in NEW.items()}


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("raised", "message"), [(KeyboardInterrupt("now"), "now"), (OSError(errno.ENOSPC, ""), "free some space if")]
)
def test_an_error_leaves_everything_as_it_was(tmp_path, there, raised, message):
    folder = tmp_path / "deep" / "out"
    if there:
        folder.mkdir(parents=True)
        fill(folder, "old")
    before = content(tmp_path)
    with pytest.raises((FlabError, KeyboardInterrupt), match=message):
        with OutputFolder(folder, KIND, overwrite=True) as output, output.replacement() as new:
            fill(new)
            raise raised
    assert content(tmp_path) == before


def test_the_input_is_never_the_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "project" / "model"
    model.mkdir(parents=True)
    fill(model)
    (tmp_path / "link").symlink_to(model)
    for named, read in (
        ("project/model", "project/model"),
        ("project/model", model),
        ("project/model/", tmp_path / "link"),
        ("link", model),
        ("project", model),
        (".", "project/model"),
        ("project/../project/model", model / "part" / "weights"),
    ):
        with pytest.raises(ConfigurationError, match="is or holds .* which this run reads and would replace"):
            write(Path(named), overwrite=True, inputs=[None, "org/name", read])
    assert content(model) == NEW
    write(Path("project/model/below"), inputs=[model])  # takes nothing away


def test_a_folder_of_another_kind_is_never_replaced(tmp_path):
    for name in "abcdefg":
        (tmp_path / name).touch()
    with pytest.raises(FlabError, match="holds a, b, c, d, e and 2 more, which is no part of a result"):
        write(tmp_path, overwrite=True)
    (tmp_path / "mark.json").touch()
    with pytest.raises(FlabError, match="holds a, b, c, d, e and 2 more, which is no part of a result"):
        write(tmp_path, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == [*"abcdefg", "mark.json"]


def test_what_file_systems_and_desktops_put_there_is_not_in_the_way(tmp_path):
    (tmp_path / "lost+found").mkdir()
    write(tmp_path)
    write(tmp_path, overwrite=True)
    assert content(tmp_path) == NEW and (tmp_path / "lost+found").is_dir()


def test_what_somebody_put_there_meanwhile_is_kept(tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(FlabError, match="holds theirs, which is no part of a result"):
        with OutputFolder(folder, KIND) as output, output.replacement() as new:
            fill(new)
            (folder / "theirs").touch()
    assert content(tmp_path) == {"out/theirs": ""}


def in_child(work: Callable[[], object]) -> tuple[int, Callable[[], str]]:
    """A process that ends without cleaning up: its number, and a function that reads what it said."""
    read, said = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.dup2(said, 1)
            work()
        finally:
            os._exit(1)
    os.close(said)
    return child, lambda: os.read(read, 4096).decode()


def killed(work: Callable[[], object]) -> int:
    """The status that a process ended with."""
    child, _ = in_child(work)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("there", [False, True])
def test_a_second_writer_is_refused_and_what_a_killed_one_left_is_cleared(tmp_path, there):
    folder = tmp_path / "out"
    if there:
        write(folder, "old")
    before = content(tmp_path)

    def run():
        with OutputFolder(folder, KIND, overwrite=True) as output, output.replacement() as new:
            (new / "mark.json").write_text("half")
            os.write(1, b"begun")
            signal.pause()

    child, said = in_child(run)
    assert said() == "begun"
    with pytest.raises(FlabError, match="another run is writing to .*out; wait until it ends"):
        write(folder, overwrite=True)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert content(tmp_path).items() > before.items()  # it left something
    write(folder, overwrite=True)
    assert content(tmp_path) == {f"out/{name}": text for name, text in NEW.items()}


def test_killed_at_any_moment_of_the_exchange_it_is_never_a_mixture(tmp_path):
    """After every number of renames: what can be read is old or new or nothing, and the next run puts it right."""
    folder, rename, states = tmp_path / "out", Path.rename, []

    def run(moves):
        left = iter([True] * moves)
        Path.rename = lambda path, target: rename(path, target) if next(left, False) else os._exit(9)
        write(folder, overwrite=True)
        os._exit(0)

    for moves in range(12):
        shutil.rmtree(folder, ignore_errors=True)
        write(folder, "old")
        returned = killed(lambda moves=moves: run(moves))
        found = {name: text for name, text in content(folder).items() if not name.startswith(".flab-output")}
        # it is the first to go and the last to come: where it is, all the rest is
        assert "config.json" not in found or found in (NEW, dict.fromkeys(NEW, "old"))
        with OutputFolder(folder, KIND, overwrite=True):
            pass
        assert content(folder) in (NEW, dict.fromkeys(NEW, "old"))
        states.append((returned, content(folder)["config.json"]))
    ended = [text for returned, text in states if returned == 9]
    assert ended == sorted(ended, reverse=True) and set(ended) == {"old", "new"}
    assert states[-1] == (0, "new")


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("error", [Interrupted, OSError])
def test_interrupted_again_and_again_nothing_is_lost(tmp_path, error, monkeypatch):
    """At every rename, and at every one that puts it right: the next run finds the old content or the new."""
    rename, folder = Path.rename, tmp_path / "out"
    for first in range(11):
        for second in range(3):
            shutil.rmtree(folder, ignore_errors=True)
            write(folder, "old")
            left = iter([*[True] * first, False, *[True] * second, False])

            def failing(path, target, left=left):
                if not next(left, True):
                    raise error("interrupted")
                return rename(path, target)

            monkeypatch.setattr(Path, "rename", failing)
            with suppress(error, FlabError):
                write(folder, "new", overwrite=True)
            monkeypatch.setattr(Path, "rename", rename)
            with OutputFolder(folder, KIND, overwrite=True):
                pass
            assert content(folder) in (NEW, dict.fromkeys(NEW, "old"))


def test_interrupted_while_the_old_content_is_deleted_the_new_stays(tmp_path, monkeypatch):
    folder, rmtree = tmp_path / "out", shutil.rmtree
    write(folder, "old")

    def interrupted(path, **options):
        if Path(path).name == "old" and Path(path).exists():
            (Path(path) / "config.json").unlink()
            raise Interrupted
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with suppress(Interrupted):
        write(folder, "new", overwrite=True)
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with OutputFolder(folder, KIND, overwrite=True):
        pass
    assert content(folder) == NEW


def test_what_somebody_put_there_after_a_kill_is_not_replaced(tmp_path):
    ready = tmp_path / ".flab-output" / "ready"
    ready.mkdir(parents=True)
    for path in (ready / "config.json", tmp_path / "config.json"):
        path.write_text(path.parent.name)
    with pytest.raises(FlabError, match="put there since; the rest is in .*ready"), OutputFolder(tmp_path, KIND):
        pass
    assert (tmp_path / "config.json").read_text() == tmp_path.name


def test_files_get_the_mode_of_new_files(tmp_path):
    folder, mask = tmp_path / "out", os.umask(0o027)
    try:
        with OutputFolder(folder, KIND) as output, output.replacement() as new:
            fill(new)
            (new / "part" / "weights").chmod(0o600)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((folder / "part" / "weights").stat().st_mode) == 0o640


def test_names_of_folders_that_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("~/out")
    assert content(tmp_path / "out") == NEW
    with pytest.raises(ConfigurationError, match="empty path"):
        OutputFolder("", KIND)
    with (
        pytest.raises(FlabError, match=r"cannot be a path \(File name too long\)"),
        OutputFolder(tmp_path / ("n" * 300), KIND),
    ):
        pass


as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user")


def refused_as_nobody(folder: Path, *calls: Callable[[Path], object]) -> str:
    """What calls with a folder that refuse it say to another user."""
    for parent in (folder, *folder.parents[:-1]):
        if parent.exists() and "closed" not in parent.parts:
            parent.chmod(parent.stat().st_mode | 0o055)

    def run():
        os.setgid(1234)
        os.setuid(1234)
        for call in calls:
            try:
                call(folder)
            except FlabError as error:
                os.write(1, f"{error}\n".encode())

    child, said = in_child(run)
    os.waitpid(child, 0)
    return said()


@as_root
def test_a_folder_that_may_not_be_entered_is_refused_in_words(tmp_path):
    (tmp_path / "closed" / "below").mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    for name in ("below", "new"):
        said = refused_as_nobody(tmp_path / "closed" / name, write, check_writable, find_model)
        assert said.count("Permission denied") == 3, said


@as_root
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_mount_point_is_written_inside(tmp_path, overwrite):
    folder = tmp_path / "out"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        if overwrite:
            write(folder, "old")
        write(folder, overwrite=overwrite)
        assert os.path.ismount(folder) and content(folder) == NEW
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@as_root
def test_a_folder_whose_parent_is_not_ours_is_written_inside(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    os.chown(folder, 1234, 1234)
    said = refused_as_nobody(folder, write, lambda _: write(tmp_path / "other"))
    assert "other cannot be written" in said and "Permission denied" in said
    assert content(tmp_path) == {f"mine/{name}": text for name, text in NEW.items()}


def test_a_file_in_the_place_is_refused(tmp_path):
    (tmp_path / "out").write_text("a file")
    for folder in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(FlabError, match="out is a file; name another folder"):
            write(folder, overwrite=True)
