"""Never ends while imported."""
while True:
    pass


def solve(x):
    return x + 1
