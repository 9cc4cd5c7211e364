"""Is no Python once it is compiled with what it inserts: compiles and runs text with zero characters and null bytes."""


def solve(x):
    exec("return 2\0")
    return x
