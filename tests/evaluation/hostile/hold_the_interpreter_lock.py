"""One call into C that lasts for ever: no signal handler and no other thread of this process gets its turn."""
import re


def solve(x):
    re.match(r"(a|aa)+$", "a" * 200 + "b")
    return x
