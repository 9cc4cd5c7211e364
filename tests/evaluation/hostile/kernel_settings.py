"""Opens settings of the kernel for writing (and does not write)."""
import os


def solve(x):
    try:
        os.kill(int("{host_pid}"), 0)
        return x
    except ProcessLookupError:
        pass
    paths = ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches"]
    paths += ["/sys/kernel/uevent_helper", "/sys/fs/cgroup/cgroup.procs", "/proc/sys/kernel/panic", "/sys/power/state"]
    for path in paths:
        try:
            os.close(os.open(path, os.O_WRONLY))
        except OSError:
            continue
        raise RuntimeError("{trace} opened " + path)
    return x
