"""Identity, sharing and cycles across the wire: a test and a program in two processes see what they would in one."""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import Wire


class Node:
    """A class of the prompt; the program has one of its own by that name."""

    def __init__(self):
        self.left = self.right = None


NodeOfTheProgram = type("Node", (), {"__eq__": lambda self, other: True, "__hash__": lambda self: 0})


class Slotted:
    __slots__ = ("left", "right")


SlottedOfTheProgram = type("Slotted", (), {"__slots__": ("left", "right")})


class End(Wire):
    def __init__(self, side: int, *classes: type):
        super().__init__(side, {kind.__name__: kind for kind in classes})
        self.classes = frozenset(self.space)

    def class_named(self, name):
        return self.space[name]


# --- a small language for what tests and programs do ---------------------------------------------------------------


class World:
    """What the test holds and what the program holds; both may hold the same."""

    def __init__(self, node: type, slotted: type):
        self.kinds = {"node": node, "slotted": slotted}
        self.held: list = []

    def made(self, kind: int, parts: list):
        """A new object of some parts."""
        makers = [
            list,
            tuple,
            lambda items: dict(enumerate(items)),
            lambda items: OrderedDict((str(len(items) - place), item) for place, item in enumerate(items)),
            lambda items: defaultdict(list, enumerate(items)),
            lambda items: deque(items, maxlen=2),
            lambda items: deque(items),
            lambda items: Counter(dict(enumerate(items))),
            lambda items: {len(items), "text"},
            lambda items: bytearray([len(items)]),
            lambda items: frozenset([len(items), (1, "a")]),
            lambda items: self.instance("node", items),
            lambda items: self.instance("slotted", items),
        ]
        return makers[kind % len(makers)](parts)

    def instance(self, kind: str, items: list):
        made = self.kinds[kind].__new__(self.kinds[kind])
        for name, item in zip(("left", "right"), items, strict=False):
            setattr(made, name, item)
        return made


def parts_of(value) -> list:
    if isinstance(value, dict):
        return list(value.values())
    if type(value).__name__ in ("Node", "Slotted"):
        return [getattr(value, name) for name in ("left", "right") if hasattr(value, name)]
    return list(value) if isinstance(value, (list, tuple, deque)) else []


def reachable(roots: list) -> list:
    """All objects that are no scalars, in an order that depends on the graph alone."""
    found, seen, stack = [], set(), list(reversed(roots))
    while stack:
        value = stack.pop()
        if isinstance(value, (int, str, type(None))) or id(value) in seen:
            continue
        seen.add(id(value))
        found.append(value)
        stack += reversed(parts_of(value))
    return found


def graph(roots: list) -> list:
    """The graph of some objects: equal for two if and only if no program can tell them apart, but by `id`."""
    objects = reachable(roots)
    numbers = {id(value): number for number, value in enumerate(objects)}

    def named(value):
        return ("object", numbers[id(value)]) if id(value) in numbers else (type(value).__name__, value)

    described = []
    for value in objects:
        name = type(value).__name__
        if isinstance(value, dict):
            content = [(key, named(item)) for key, item in value.items()]
        elif name in ("Node", "Slotted"):
            content = [(slot, named(getattr(value, slot))) for slot in ("left", "right") if hasattr(value, slot)]
        elif isinstance(value, (set, frozenset)):
            content = sorted(map(repr, value))
        else:
            content = [named(item) for item in value]
        more = [getattr(value, extra, None) for extra in ("maxlen", "default_factory")]
        described.append((name, content, more))
    return [[named(root) for root in roots], described]


def change(value, item, how: int) -> None:
    """Changes a container in place."""
    if isinstance(value, list):
        actions = [
            lambda: value.append(item),
            lambda: value.insert(0, item),
            value.clear,
            value.reverse,
            lambda: value.pop() if value else None,
            lambda: value.__setitem__(slice(None), [item, item]),
        ]
    elif isinstance(value, OrderedDict):
        key = next(iter(value), "1")
        actions = [
            lambda: value.__setitem__("2", item),
            lambda: value.move_to_end(key) if value else None,
            lambda: value.pop(key, None),
        ]
    elif isinstance(value, dict):
        actions = [
            lambda: value.__setitem__(how % 3, item),
            lambda: value.pop(how % 3, None),
            value.clear,
        ]
    elif isinstance(value, deque):
        actions = [lambda: value.append(item), lambda: value.appendleft(item), lambda: value.rotate(1), value.clear]
    elif isinstance(value, set):
        actions = [lambda: value.add(how), lambda: value.discard("text"), value.clear]
    elif isinstance(value, bytearray):
        actions = [lambda: value.append(how % 256), value.clear]
    elif type(value).__name__ in ("Node", "Slotted"):
        actions = [
            lambda: setattr(value, "left", item),
            lambda: setattr(value, "right", item),
            lambda: delattr(value, "left") if hasattr(value, "left") else None,
        ]
    else:
        return
    actions[how % len(actions)]()


def act(world: World, roots: list, actions: list[tuple[int, int, int]]):
    """Does something to what can be reached from some objects; gives the last thing that was touched."""
    last = None
    for verb, one, other in actions:
        objects = [*reachable(roots), *reachable([last])]
        first = objects[one % len(objects)] if objects else one
        second = objects[other % len(objects)] if objects and other % 5 else other
        last = first
        if verb % 3 == 0:
            last = world.made(one, [second, first])
        elif verb % 3 == 1:
            change(first, second, other)
        else:
            change(first, world.made(other, [first, second]), one)
    return last


def called(world: World, arguments: list, actions: list, keep: int):
    """The program: does something to its arguments and what it kept, keeps and forgets, and returns something."""
    result = act(world, [*arguments, *world.held], actions)
    objects = reachable([*arguments, result])
    if keep % 3 == 0 and objects:
        world.held.append(objects[keep % len(objects)])
    elif keep % 3 == 1 and world.held:
        del world.held[keep % len(world.held)]
    return result


ACTIONS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)), max_size=6)
CALL = st.tuples(ACTIONS, st.lists(st.integers(0, 20), max_size=3), ACTIONS, st.integers(0, 20), st.integers(0, 20))


def as_in_one_process(calls: list, judge: End, guest: End) -> bool:
    """Whether a test and a program over the wire see at every step what they would see in one process.

    They change, keep and pass on objects; `test` and `program` are compared with two that share a process.
    """
    one_test, one_program = World(Node, Slotted), World(Node, Slotted)
    test, program = World(Node, Slotted), World(NodeOfTheProgram, SlottedOfTheProgram)
    for before, chosen, actions, keep, forget in calls:
        for world in (one_test, test):
            world.held.append(act(world, world.held, before))
        expected = [one_test.held[number % len(one_test.held)] for number in chosen]
        arguments = [test.held[number % len(test.held)] for number in chosen]
        _, arguments = guest.unpack(judge.pack({}, arguments))
        if graph([*arguments, *program.held]) != graph([*expected, *one_program.held]):
            return False
        one_test.held.append(called(one_program, expected, actions, keep))
        result = [called(program, arguments, actions, keep)]
        arguments.clear()
        _, result = judge.unpack(guest.pack({}, result))
        test.held += result
        result.clear()
        if graph(program.held) != graph(one_program.held) or graph(test.held) != graph(one_test.held):
            return False
        for world in (one_test, test):
            if forget % 2:
                del world.held[forget % len(world.held)]
    return True


def ends() -> tuple[End, End]:
    return End(0, Node, Slotted), End(1, NodeOfTheProgram, SlottedOfTheProgram)


@settings(max_examples=400, deadline=None)
@given(st.lists(CALL, min_size=1, max_size=6))
def test_two_processes_see_what_one_would(calls):
    judge, guest = ends()
    assert as_in_one_process(calls, judge, guest)
    assert not (judge.partial or judge.late or guest.partial or guest.late)


@settings(max_examples=400, deadline=None)
@given(st.lists(CALL, min_size=1, max_size=6), st.integers(0, 200), st.integers(0, 200))
def test_a_change_that_was_missed_is_known_in_the_end(calls, looks_of_judge, looks_of_guest):
    """Where not everything may be looked at, either nothing was missed or both sides learn that something was."""
    judge, guest = ends()
    judge.looks, guest.looks = looks_of_judge, looks_of_guest
    seen_all = as_in_one_process(calls, judge, guest)
    judge.looks = guest.looks = sys.maxsize
    guest.unpack(judge.pack({}, []))
    judge.unpack(guest.pack({}, []))
    assert seen_all or (judge.late and judge.partial)


def test_what_a_message_hands_over_is_always_looked_at_and_the_rest_is_not():
    judge, guest = End(0), End(1)
    mine, inner, other = {}, [], [[number] for number in range(1000)]
    mine["inner"] = (inner,)
    values = guest.unpack(judge.pack({}, [mine, other]))[1]
    judge.looks = guest.looks = 0
    inner.append(1)
    guest.unpack(judge.pack({}, [mine]))
    assert values[0] == {"inner": ([1],)}
    values[0]["inner"][0].append(2)
    judge.unpack(guest.pack({}, [(values[0],)]))
    assert mine == {"inner": ([1, 2],)}
    assert judge.looks > -1000  # where the 1,000 lists would have cost more than 20,000
    other[7].append(1)
    guest.unpack(judge.pack({}, []))
    assert values[1][7] == [7]
    guest.unpack(judge.pack({}, [other]))
    assert values[1] == other
    assert judge.late
    assert guest.late


def test_what_nobody_holds_is_forgotten():
    """A test that keeps thousands of results costs no more per call than one that keeps none."""
    judge, guest, kept = End(0), End(1), []
    for number in range(1000):
        guest.unpack(judge.pack({}, [[number], {number: [number]}]))
        kept += judge.unpack(guest.pack({}, [[number, (number,)]]))[1]
    guest.unpack(judge.pack({}, []))
    assert len(judge.known) + len(guest.known) == 0
    assert kept[41] == [41, (41,)]


def test_what_both_hold_is_remembered():
    judge, guest = End(0), End(1)
    mine = [1, {2: ()}]
    (theirs,) = guest.unpack(judge.pack({}, [mine]))[1]
    theirs.append(theirs)
    (back,) = judge.unpack(guest.pack({}, [theirs[1]]))[1]
    assert back is mine[1]
    assert mine[2] is mine
    before = len(judge.pack({}, []))
    mine[0] = "x" * 1000
    assert len(judge.pack({}, [])) > before + 1000
    assert len(judge.pack({}, [])) == before  # said once


@pytest.mark.thorough
def test_deep_structures_need_no_deep_calls():
    deep, chain = [], Node()
    for _ in range(100_000):
        deep, node = [deep], Node()
        node.right, chain = chain, node
    judge, guest = End(0, Node), End(1, NodeOfTheProgram)
    values = guest.unpack(judge.pack({}, [deep, chain, (((),),)]))[1]
    back = judge.unpack(guest.pack({}, values))[1]
    depth, node = 0, back[1]
    while node.right is not None:
        depth, node = depth + 1, node.right
    assert depth == 100_000
    assert back[2] == (((),),)
    while deep:
        (deep,) = deep


def test_an_iterator_is_one_wherever_it_goes():
    judge, guest = End(0), End(1)
    stream = (number for number in range(5))
    assert next(judge.unpack(guest.pack({}, [stream]))[1][0]) == 0
    guest.unpack(judge.pack({}, []))
    (first,) = judge.unpack(guest.pack({}, [stream]))[1]
    (second,) = judge.unpack(guest.pack({}, [stream]))[1]
    assert second is first
    assert next(second) == 1
    (back,) = guest.unpack(judge.pack({}, [second]))[1]
    assert [*back] == [2, 3, 4]
    del stream, first, second, back
    judge.unpack(guest.pack({}, []))
    guest.unpack(judge.pack({}, []))
    assert len(judge.known) + len(guest.known) == 0


def test_an_iterator_stays_where_it_is_until_it_is_given():
    judge, guest = End(0), End(1)
    shared = [1]
    (theirs,) = guest.unpack(judge.pack({}, [shared]))[1]
    theirs.append(iter("ab"))
    judge.unpack(guest.pack({}, []))
    theirs.append(2)
    judge.unpack(guest.pack({}, []))
    shared.append(3)
    guest.unpack(judge.pack({}, []))
    assert [*shared[1]] == ["a", "b"]
    assert theirs[2:] == shared[2:] == [2, 3]


def test_what_an_iterator_changes_while_it_gives_its_items_is_seen():
    judge, guest = End(0), End(1)
    seen = []
    (theirs,) = guest.unpack(judge.pack({}, [seen]))[1]

    def items():
        for number in range(3):
            theirs.append(number)
            yield number

    (numbers,) = judge.unpack(guest.pack({}, [items()]))[1]
    assert [*numbers] == seen == [0, 1, 2]


def test_cycles_through_what_cannot_change():
    judge, guest = End(0, Node), End(1, NodeOfTheProgram)
    node, inner = Node(), []
    outer = (inner, node)
    inner.append(outer)
    node.left = frozenset([node, outer[1]])
    (theirs,) = guest.unpack(judge.pack({}, [outer]))[1]
    assert theirs[0][0] is theirs
    assert [*theirs[1].left] == [theirs[1]]
    (back,) = judge.unpack(guest.pack({}, [theirs[0]]))[1]
    assert back is inner


def test_an_error_while_a_message_is_made_leaves_no_trace():
    judge, guest = End(0), End(1)
    value = [1]
    try:
        judge.pack({}, [value, object()])
    except TypeError:
        pass
    assert judge.known == {}
    assert guest.unpack(judge.pack({}, [value]))[1] == [[1]]


# --- what is given again -------------------------------------------------------------------------------------------


def test_what_was_long_to_tell_is_not_told_again_with_the_next_call():
    """A test calls with the same large list and other arguments, and the program keeps none of them."""
    judge, guest = End(0), End(1)
    large, sizes = [*range(10_000)], []
    for turn in range(4):
        if turn == 2:
            large[5] = -1
        body = judge.pack({}, [large, turn])
        _, given = guest.unpack(body)
        assert given == [large, turn]
        answer = guest.pack({}, [given.pop(0)[5]])
        given.clear()
        assert judge.unpack(answer)[1] == [large[5]]
        sizes.append(len(body))
    assert sizes[1] < 200 and sizes[3] < 200 < sizes[2], sizes
    for _ in range(3):
        _, given = guest.unpack(judge.pack({}, [1]))
        given.clear()
        judge.unpack(guest.pack({}, [1]))
    assert not guest.known and not judge.known  # with what is given no more, it goes
