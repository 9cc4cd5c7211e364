"""Raises all its limits, then uses 1.5 GB and never ends."""
import resource

RAISED = []
for name in ("AS", "CPU", "FSIZE", "NPROC", "NOFILE", "DATA", "STACK", "CORE"):
    kind = getattr(resource, "RLIMIT_" + name)
    before = resource.getrlimit(kind)
    try:
        resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        resource.prlimit(0, kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError):
        continue
    if before[1] != resource.RLIM_INFINITY:
        RAISED.append(name)


def solve(x):
    if RAISED:
        raise RuntimeError(f"{trace} raised {RAISED}")
    held = bytearray(b"x") * (1500 * 2**20)
    while held:
        pass
