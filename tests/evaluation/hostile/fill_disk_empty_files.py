"""Makes up to 40000 empty files, then links and folders."""
import os
import tempfile


def solve(x):
    folder = tempfile.mkdtemp()
    for number in range(40000):
        try:
            os.close(os.open(os.path.join(folder, str(number)), os.O_CREAT))
        except OSError:
            break
    path = folder
    for _ in range(2000):
        try:
            path = os.path.join(path, "d")
            os.mkdir(path)
        except OSError:
            break
    os.symlink(".", os.path.join(folder, "loop"))
    return x
