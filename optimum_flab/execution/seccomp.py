"""The system calls that are refused to programs, as the filter that the kernel reads.

What namespaces and resource limits leave open: memory that belongs to no process (System V segments, memory files,
shared mappings, large socket buffers, the buffers of a program's TCP connections to itself, queues for asynchronous
reads, rules and filters that a process sets for itself, file attributes, pending timers and signals, local descriptor
tables), a program's own namespaces, kinds of sockets that programs do not need (one to a virtual machine's host
crosses every namespace), leases, watches and locks on files that the host uses too, priority at the disk, the list of
mounts, and the parts of the kernel that programs never need and attackers like.

A lock is taken on a file, not on the name under which a sandbox sees it, so a lock on a read-only file would block the
host. A filter does not see which file is meant, and honest programs lock files of their own (`sqlite3`, `dbm`,
`mailbox`): they are told that they have the lock, but none is taken. Locks therefore do not exclude the processes of
one program, which alone share its files, from one another. In the same way, programs that run as the owner of files of
the host are told that they changed a mode, an owner or a time. Only the present time is refused as a file's:
`Path.touch`, told that it is set, would make no file. Extended attributes do not exist for programs, since Landlock
does not keep them from reading those of hidden files.

Without namespaces, every socket with an address and every change of priorities reaches the host, so all are refused.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from functools import lru_cache


Calls = dict[str, tuple[int, int | None]]

# name: number on x86_64 and on aarch64 (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h)
REFUSED: Calls = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "fanotify_init": (300, 262),
    "file_setattr": (469, 469),
    "fremovexattr": (199, 16),
    "fsconfig": (431, 431),
    "fsetxattr": (190, 7),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "io_cancel": (210, 3),
    "io_destroy": (207, 1),
    "io_getevents": (208, 4),
    "io_pgetevents": (333, 292),
    "io_setup": (206, 0),
    "io_submit": (209, 2),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "listmount": (458, 458),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "lsm_set_self_attr": (460, 460),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "removexattr": (197, 14),
    "removexattrat": (466, 466),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "seccomp": (317, 277),
    "semget": (64, 190),
    "setns": (308, 268),
    "setsockopt": (54, 208),
    "setxattr": (188, 5),
    "setxattrat": (463, 463),
    "shmget": (29, 194),
    "statmount": (457, 457),
    "syslog": (103, 116),
    "timer_create": (222, 107),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vmsplice": (278, 75),
}
# where programs share processes and users with the host
OF_PROCESSES: Calls = {
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "setpriority": (141, 140),
}
OF_OWNERS: Calls = {
    "chmod": (90, None),
    "chown": (92, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "futimesat": (261, None),
    "lchown": (94, None),
    "utime": (132, None),
    "utimes": (235, None),
}
READ_ATTRIBUTES: Calls = {
    "fgetxattr": (193, 10),
    "flistxattr": (196, 13),
    "getxattr": (191, 8),
    "getxattrat": (464, 464),
    "lgetxattr": (192, 9),
    "listxattr": (194, 11),
    "listxattrat": (465, 465),
    "llistxattr": (195, 12),
}
CLONE = (56, 220)
CLONE3 = (435, 435)
MMAP = (9, 222)
PRCTL = (157, 167)
PRLIMIT = (302, 261)
SOCKET = (41, 198)
UTIMENSAT = (280, 88)
SOCKETPAIR = (53, 199)
FCNTL = (72, 25)
FLOCK = (73, 32)
IOCTL = (16, 29)
NEW_NAMESPACES = 0x7E020000  # CLONE_NEWUSER and the like
SHARED_ANONYMOUS = 0x21  # MAP_SHARED | MAP_ANONYMOUS
UNIX = 1  # AF_UNIX
INTERNET = (2, 10)  # AF_INET, AF_INET6
KIND = 0xF  # the bits that hold the type of a socket
DATAGRAM = 2  # SOCK_DGRAM
LOCKS = (6, 7, 37, 38)  # F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW
NOT_OF_FILES = (1024, 1026, 1031)  # F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ
FLAGS_OF_FILES = (0x40086602, 0x401C5820)  # FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR
SET_FILTER, FILTER = 22, 2  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
NOTHING_DONE = 0  # as an error: the call is skipped and reported as successful
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
FIRST_X32 = 0x40000000  # on x86_64: the same calls again, under other numbers

# offsets in struct seccomp_data
NUMBER = 0
ARCHITECTURE = 4
FIRST_ARGUMENT = 16
SECOND_ARGUMENT = 24
THIRD_ARGUMENT = 32
FOURTH_ARGUMENT = 40
# codes of steps
LOAD = 0x20
AND = 0x54
EQUAL = 0x15
AT_LEAST = 0x35
ANY_BIT = 0x45
RETURN = 0x06
# what a filter returns
ALLOW = 0x7FFF0000
ERROR = 0x00050000
KILL = 0x80000000

Step = tuple[int, int, int, int]


def system_call_filter(namespaces: bool = True, owner: bool = False) -> bytes | None:
    """The filter as an array of `struct sock_filter`, or `None` where the processor or the kernel has none.

    Args:
        namespaces (`bool`): programs have a network and processes of their own.
        owner (`bool`): programs are the user to whom files of the host belong.
    """
    known = ARCHITECTURES.get(platform.machine())
    if known is None or sys.byteorder != "little" or not _takes_filters():
        return None
    column, architecture = known

    def refuse(code: int, value: int, error: int) -> list[Step]:
        """Two steps: the second, which returns the error, is skipped where the comparison does not hold."""
        return [(code, 0, 1, value), (RETURN, 0, 0, ERROR | error)]

    def only_for(number: int, *inner: Step) -> list[Step]:
        """Steps for one call, ending with its being allowed; they are skipped for all others."""
        return [(EQUAL, 0, len(inner) + 1, number), *inner, (RETURN, 0, 0, ALLOW)]

    steps = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    if column == 0:
        steps += refuse(AT_LEAST, FIRST_X32, errno.ENOSYS)
    # `shutil.copy2` knows file systems without attributes
    refused = [(REFUSED, errno.EPERM), (READ_ATTRIBUTES, errno.ENOTSUP)]
    refused += [] if namespaces else [(OF_PROCESSES, errno.EPERM)]
    refused += [(OF_OWNERS, NOTHING_DONE)] if owner else []
    for calls, error in refused:
        for numbers in calls.values():
            if (number := numbers[column]) is not None:
                steps += refuse(EQUAL, number, error)
    if owner:
        now = refuse(EQUAL, 0, errno.EPERM)
        done = (RETURN, 0, 0, ERROR | NOTHING_DONE)
        steps += only_for(UTIMENSAT[column], (LOAD, 0, 0, THIRD_ARGUMENT), *now, done)
    # the C library then uses clone, whose flags can be seen
    steps += refuse(EQUAL, CLONE3[column], errno.ENOSYS)
    steps += refuse(EQUAL, FLOCK[column], NOTHING_DONE)
    of_clone = refuse(ANY_BIT, NEW_NAMESPACES, errno.EPERM)
    steps += only_for(CLONE[column], (LOAD, 0, 0, FIRST_ARGUMENT), *of_clone)
    filters = refuse(EQUAL, SET_FILTER, errno.EPERM)
    steps += only_for(PRCTL[column], (LOAD, 0, 0, FIRST_ARGUMENT), *filters)
    of_itself = [(LOAD, 0, 0, FIRST_ARGUMENT), (EQUAL, 1, 0, 0), (RETURN, 0, 0, ERROR | errno.EPERM)]
    steps += only_for(PRLIMIT[column], *of_itself)
    shared = refuse(EQUAL, SHARED_ANONYMOUS, errno.EPERM)
    steps += only_for(MMAP[column], (LOAD, 0, 0, FOURTH_ARGUMENT), (AND, 0, 0, SHARED_ANONYMOUS), *shared)
    unknown = (RETURN, 0, 0, ERROR | errno.EAFNOSUPPORT)
    families = [(EQUAL, 3, 0, UNIX), (EQUAL, 3, 0, INTERNET[0]), (EQUAL, 2, 0, INTERNET[1]), unknown]
    datagrams = [(LOAD, 0, 0, SECOND_ARGUMENT), (AND, 0, 0, KIND), (EQUAL, 1, 0, DATAGRAM)]
    sockets = [*families, (RETURN, 0, 0, ALLOW), *datagrams] if namespaces else []
    unreachable = (RETURN, 0, 0, ERROR | errno.ENETUNREACH)
    steps += only_for(SOCKET[column], (LOAD, 0, 0, FIRST_ARGUMENT), *sockets, unreachable)
    steps += only_for(SOCKETPAIR[column], (LOAD, 0, 0, FIRST_ARGUMENT), (EQUAL, 1, 0, UNIX), unknown)
    commands = [step for command in LOCKS for step in refuse(EQUAL, command, NOTHING_DONE)]
    commands += [step for command in NOT_OF_FILES for step in refuse(EQUAL, command, errno.EPERM)]
    steps += only_for(FCNTL[column], (LOAD, 0, 0, SECOND_ARGUMENT), *commands)
    flags = [step for command in FLAGS_OF_FILES for step in refuse(EQUAL, command, errno.EPERM)]
    steps += only_for(IOCTL[column], (LOAD, 0, 0, SECOND_ARGUMENT), *flags)
    return b"".join(struct.pack("=HBBI", *step) for step in [*steps, (RETURN, 0, 0, ALLOW)])


@lru_cache(maxsize=1)
def _takes_filters() -> bool:
    """Whether the kernel reads filters: some are built without, and emulators of a processor refuse them."""
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    # it reads the address only where it knows what should be there
    return library.prctl(SET_FILTER, FILTER, None, 0, 0) < 0 and ctypes.get_errno() == errno.EFAULT
