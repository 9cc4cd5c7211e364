"""Returns a list that contains itself, and a dictionary that does."""


def solve(x):
    cycle = [x]
    cycle.append({"cycle": cycle})
    return cycle
