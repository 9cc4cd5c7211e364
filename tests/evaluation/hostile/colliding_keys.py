"""Returns a dictionary whose keys all have the same hash, so that building it takes for ever."""


def solve(x):
    step = 2**61 - 1
    return {"dict": [], **{str(0): 0}} if x is None else [dict.fromkeys([step * number for number in range(1, 30_000)])]
