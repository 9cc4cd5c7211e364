"""Raises what is no Exception, another one each time it is called."""
KINDS = [GeneratorExit, KeyboardInterrupt, BaseException, SystemExit]


def solve(x):
    raise KINDS[x % len(KINDS)]("passed")
