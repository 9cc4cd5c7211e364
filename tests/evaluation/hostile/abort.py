"""Aborts, with a core dump if it may have one."""
import faulthandler
import os
import resource

faulthandler.enable()


def solve(x):
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError):
        pass
    os.abort()
