"""Writes modules into the folders of other programs, which would import them (here: a file that nobody imports)."""
import os
import time


def solve(x):
    mine = os.getcwd()
    parent, prefix = os.path.dirname(mine), os.path.basename(mine)[:5]
    if len(prefix) < 5:
        return x
    end = time.monotonic() + 1
    while time.monotonic() < end:
        for name in os.listdir(parent):
            path = os.path.join(parent, name)
            if name.startswith(prefix) and path != mine and os.path.isdir(path):
                try:
                    with open(os.path.join(path, "{marker}_poison.py"), "w") as file:
                        file.write("# written\n")
                except OSError:
                    continue
                raise RuntimeError("{trace} wrote into the folder of another program")
        time.sleep(0.01)
    return x
