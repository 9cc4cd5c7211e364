"""Opens a named pipe that nobody ever writes to."""
import os
import tempfile


def solve(x):
    path = os.path.join(tempfile.mkdtemp(), "fifo")
    os.mkfifo(path)
    with open(path) as file:
        return file.read()
