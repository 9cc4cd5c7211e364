"""Never ends when called, whatever is raised inside it."""


def solve(x):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
