"""Writes through symbolic links that lead outside."""
import os
import tempfile


def solve(x):
    folder = tempfile.mkdtemp()
    os.symlink("{outside_path}", os.path.join(folder, "link"))
    for path in (os.path.join(folder, "link"), "/proc/1/root/{outside_path}", "/proc/self/root/{outside_path}"):
        try:
            with open(f"{path}/{marker}-linked", "w") as file:
                file.write("written")
        except OSError:
            pass
    return x
