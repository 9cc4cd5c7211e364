"""Looks for the judge's objects through the function it was given: globals, code, builtins, frames."""


def solve(x):
    if not callable(x):
        return x + 1
    for name in ("__globals__", "__builtins__", "__code__", "__closure__", "__self__", "__class__", "__wrapped__", "func"):
        try:
            found = getattr(x, name)
        except BaseException:
            continue
        if name == "__globals__":
            raise RuntimeError("{trace} reached the globals of the judge")
        if isinstance(found, dict) and "open" in found:
            raise RuntimeError("{trace} reached the builtins of the judge")
    return x
