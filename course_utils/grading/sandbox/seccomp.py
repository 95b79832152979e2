"""A seccomp filter: no new processes or programs, no sockets, no signals to others, no tracing, mounting or kernel keys."""

from __future__ import annotations

import ctypes
import errno
import os

from course_utils.grading.sandbox import linux

# name: (x86_64, aarch64); None where the architecture has no such call
DENIED: dict[str, tuple[int | None, int | None]] = {
    # new processes and programs (threads are allowed: see `program`)
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    # signals to others, and handles on others
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    # network: without a socket there is nothing to connect (socketpair stays)
    "socket": (41, 198),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    # other processes' memory
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "migrate_pages": (256, 238), "move_pages": (279, 239),
    # ways round a filter, or large parts of the kernel nobody needs here
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224),
    "swapoff": (168, 225), "acct": (163, 89), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "clock_adjtime": (305, 266), "adjtimex": (159, 171), "sethostname": (170, 161), "setdomainname": (171, 162),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "syslog": (103, 116),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "vhangup": (153, 58), "personality": (135, 92),
    "lookup_dcookie": (212, 18), "mknod": (133, None), "mknodat": (259, 33),
    # memory that outlives the process or escapes its limits
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "mq_unlink": (241, 181),
    # priorities (of others of the same user, too)
    "setpriority": (141, 140), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274), "ioprio_set": (251, 30),
}  # fmt: skip
# Landlock does not cover these. Where the child has the grader's own user id they say "done" and do nothing,
# because honest code (writing a file, then setting its mode) may call them inside its scratch folder.
ATTRIBUTES: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
}  # fmt: skip
CLONE, CLONE3, IOCTL = (56, 220), 435, (16, 29)
SELF_ONLY = {"kill": (62, 129), "tgkill": (234, 131)}
SELF_OR_ZERO = {"prlimit64": (302, 261), "sched_setaffinity": (203, 122)}
LAST_KNOWN = 462
"""Calls newer than this list (mseal, Linux 6.10) do not exist as far as a submission can see."""

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = 0x7FFF0000, 0x80000000
LOAD, JEQ, JGE, JSET, RET = 0x20, 0x15, 0x35, 0x45, 0x06
NR, ARCH_AT, ARG0, ARG1 = 0, 4, 16, 24
CLONE_THREAD = 0x00010000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C

Instruction = tuple[int, int, int, int]


def _errno(code: int) -> int:
    return 0x00050000 | code


def program(pid: int, freeze_attributes: bool, machine: str = linux.MACHINE) -> list[Instruction]:
    """The filter as classic BPF instructions for the process `pid`."""
    column = 0 if machine == "x86_64" else 1
    refuse, unknown = _errno(errno.EPERM), _errno(errno.ENOSYS)
    code: list[Instruction] = [(LOAD, 0, 0, ARCH_AT), (JEQ, 1, 0, ARCH[machine]), (RET, 0, 0, KILL), (LOAD, 0, 0, NR)]

    def answer(number: int | None, action: int) -> None:
        if number is not None:
            code.extend([(JEQ, 0, 1, number), (RET, 0, 0, action)])

    def first_argument(number: int, allowed: tuple[int, ...]) -> None:
        checks: list[Instruction] = [(JEQ, len(allowed) - 1 - i + 1, 0, value) for i, value in enumerate(allowed)]
        body = [(LOAD, 0, 0, ARG0), *checks, (RET, 0, 0, refuse), (RET, 0, 0, ALLOW)]
        code.extend([(JEQ, 0, len(body), number), *body])

    code += [(JGE, 0, 1, LAST_KNOWN + 1), (RET, 0, 0, unknown)]  # also the x32 calls, which start at 2**30
    answer(CLONE3, unknown)  # its flags lie in memory that a filter cannot read; libc then uses clone
    code += [(JEQ, 0, 4, CLONE[column]), (LOAD, 0, 0, ARG0), (JSET, 1, 0, CLONE_THREAD), (RET, 0, 0, refuse)]
    code += [(RET, 0, 0, ALLOW)]
    for numbers in DENIED.values():
        answer(numbers[column], refuse)
    if freeze_attributes:
        for numbers in ATTRIBUTES.values():
            answer(numbers[column], _errno(0))
    for pair in SELF_ONLY.values():
        first_argument(pair[column], (pid,))
    for pair in SELF_OR_ZERO.values():
        first_argument(pair[column], (0, pid))
    # typing into somebody's terminal
    code += [(JEQ, 0, 5, IOCTL[column]), (LOAD, 0, 0, ARG1), (JEQ, 2, 0, TIOCSTI), (JEQ, 1, 0, TIOCLINUX)]
    code += [(RET, 0, 0, ALLOW), (RET, 0, 0, refuse)]
    code.append((RET, 0, 0, ALLOW))
    return code


def install(freeze_attributes: bool) -> None:
    """Filter this process and all it starts, for good. Needs no_new_privs."""
    code = program(os.getpid(), freeze_attributes)
    packed = b"".join(
        o.to_bytes(2, "little") + bytes((t, f)) + (k & 0xFFFFFFFF).to_bytes(4, "little") for o, t, f, k in code
    )
    buffer = ctypes.create_string_buffer(packed, len(packed))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    filters = Program(len(code), ctypes.cast(buffer, ctypes.c_void_p))
    set_seccomp, filter_mode = 22, 2
    linux.check(
        linux.libc.prctl(set_seccomp, ctypes.c_ulong(filter_mode), ctypes.byref(filters), ctypes.c_ulong(0), 0),
        "seccomp",
    )


def available() -> bool:
    """Whether the kernel takes filters (asked without installing one)."""
    if not (linux.IS_LINUX and linux.KNOWN_MACHINE):
        return False
    get_action, action = 2, ctypes.c_uint32(0x00050000)
    number = {"x86_64": 317, "aarch64": 277}[linux.MACHINE]
    try:
        linux.syscall("seccomp", number, get_action, 0, ctypes.byref(action))
    except OSError:
        return False
    return True
