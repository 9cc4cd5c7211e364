"""What both ends of the wire agree on: names, and how much crosses at most."""

from __future__ import annotations


# loaded once per sandbox; a program must not supply them where a test forgot to import one
COMMON_MODULES = """bisect collections copy datetime decimal fractions functools heapq itertools json math operator os
random re statistics string sys typing""".split()
LARGEST_FRAME = 32 << 20  # bytes
LONGEST_ITERATOR = 100_000  # items taken from an iterator that crosses
LARGEST_ITEMS = 16 << 20  # bytes of these, after which no more are taken
FIRST_ITEMS, TAKING_SECONDS = 1_000, 1.0  # seconds of processor time, after which no more than the first are taken
LONGEST_NAME = 100  # characters of a class name
LONGEST_TEXT = 2000  # characters of an exception's text
LOOKS = 15_000_000  # items of containers, in all messages of a side; about a third of a second
LOOK, LOOK_AT_ATTRIBUTES = 20, 100  # of these per container, and per one with attributes, whatever its size
LONG_MESSAGE = 10_000  # bytes; what came with such a message may come again, and is not forgotten before the next
SMALL_TABLE = 1_000  # objects that are searched with every message for those that can be forgotten
# methods that Python itself calls and `hasattr` may ask for; all objects have some of them
PROTOCOL = frozenset(
    f"__{name}__"
    for name in """call eq ne lt le gt ge bool len iter next reversed contains getitem setitem delitem hash int float
    complex index str repr format bytes add radd iadd sub rsub mul rmul matmul truediv rtruediv floordiv rfloordiv mod
    rmod divmod rdivmod pow rpow and rand or ror xor rxor lshift rlshift rshift rrshift neg pos abs invert round trunc
    floor ceil enter exit instancecheck subclasscheck copy deepcopy reduce_ex delattr dir fspath""".split()
)
OF_ALL_OBJECTS = PROTOCOL & {*dir(object)}
