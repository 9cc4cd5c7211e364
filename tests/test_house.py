"""The rooms of the house: what stands above may use what is below, never the other way round; none is too large."""

from __future__ import annotations

import ast
from pathlib import Path

import optimum_flab


PACKAGE = Path(optimum_flab.__file__).parent
# from the ground up, as docs/concepts.md has them; rooms in one line may not use each other
FLOORS = (
    {"utils"},
    {"tensors", "families"},
    {"criteria"},
    {"settings"},
    {"sizes"},
    {"vocabulary"},
    {"texts"},
    {"records"},
    {"running"},
    {"measuring"},
    {"checkpoints"},
    {"export"},
    {"pruning"},
    {"inspection", "counting"},
    {"execution"},
    {"evaluation"},
    {"recovery"},
    {"hub"},
    {"trim"},
    {"pruned"},
    {"optimizer"},
    {"commands"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# `python -m optimum_flab.recovery` and that of pruning are doors to the command line
DOORS = {"recovery/__main__.py", "pruning/__main__.py"}
MOST_LINES, MOST_LINES_OF_FRONT_DOOR = 500, 360


def modules() -> list[tuple[str, Path]]:
    return [(path.relative_to(PACKAGE).as_posix(), path) for path in sorted(PACKAGE.rglob("*.py"))]


def imported_rooms(name: str, path: Path) -> set[str]:
    package = name.split("/")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            whole = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            found |= {whole[0]} if whole[0] else {alias.name for alias in node.names}
    return found & set(FLOOR)


def test_no_room_reaches_into_one_above_it():
    reaching = []
    for name, path in modules():
        room = name.split("/")[0].removesuffix(".py")
        if room.startswith("_") or name in DOORS:
            continue
        assert room in FLOOR, f"{room}: say on which floor it stands"
        reaching += [
            f"{name} uses {other}"
            for other in imported_rooms(name, path)
            if other != room and FLOOR[other] >= FLOOR[room]
        ]
    assert not reaching


def test_no_module_is_too_large():
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in modules()}
    assert max(lines.values()) < MOST_LINES
    assert lines["optimizer.py"] < MOST_LINES_OF_FRONT_DOOR


def test_no_more_than_two_values_are_assigned_at_once():
    packed = [
        f"{name}:{node.lineno}"
        for name, path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
        if any(isinstance(target, ast.Tuple) and len(target.elts) >= 3 for target in node.targets)
    ]
    assert not packed
