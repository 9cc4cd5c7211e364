"""Reads files with names, passwords and settings of this machine."""
import glob


def solve(x):
    patterns = ["/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssh/*", "/etc/machine-id", "/etc/hosts"]
    patterns += ["/etc/resolv.conf", "/etc/environment", "/root/.*", "/home/*/.*", "/var/log/*", "/boot/*", "/run/*/*"]
    for path in [path for pattern in patterns for path in glob.glob(pattern)]:
        try:
            with open(path, "rb") as file:
                text = file.read(100)
        except OSError:
            continue
        if text:
            raise RuntimeError(f"{trace} read {path}")
    try:
        with open("/etc/passwd") as file:
            lines = file.read().splitlines()
    except OSError:
        return x
    if len(lines) > 4:
        raise RuntimeError("{trace} read /etc/passwd")
    return x
