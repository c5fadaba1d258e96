"""Confinement: a process gives up what it does not need before it reads a stranger's bytes.

Every measure works without privileges. A system that lacks one runs without it: `confine` says
which. `docs/explanation/sandbox.md` tells what is in force where.
"""

import ctypes
import os
import struct
import sys

MEMORY, PROCESSOR_TIME = "memory limit", "processor time limit"
PROCESSES, NEW_FILES, WRITING = "no new processes", "no new files", "no writing"
OWN_USER, SYSTEM_CALLS = "own user", "system call filter"
PROTECTIONS = (MEMORY, PROCESSOR_TIME, NEW_FILES, WRITING, OWN_USER, SYSTEM_CALLS, PROCESSES)

NOBODY = 65534  # user and group that own no file
_MAX_THREADS = 64  # of nobody; the decoder of HEIC has one

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2  # linux/prctl.h
_ALLOW, _KILL = 0x7FFF0000, 0x80000000  # linux/seccomp.h
_REFUSE, _UNKNOWN = 0x00050000 | 1, 0x00050000 | 38  # EPERM, ENOSYS
_LOAD, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # linux/bpf_common.h
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # offsets in struct seccomp_data
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # linux/audit.h; column
_CLONE, _CLONE3 = (56, 220), (435, 435)
_CLONE_THREAD = 0x10000
# Reading and writing of open files, memory, time, signals to itself, and the end. There is no
# opening, no socket, no process, no signal to others and no change of any file among them.
_SYSTEM_CALLS = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "setitimer": (38, 103),
    "getpid": (39, 172),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "set_robust_list": (273, 99),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "rseq": (334, 293),
}


def confine(memory_bytes: int, processor_s: int) -> list[str]:
    """Give up all that unpacking and decoding do not need; it cannot be undone.

    Everything that is still to be imported must be imported before: no file can be opened after.

    Returns: the protections of `PROTECTIONS` that this system lacks or refuses.
    """
    missing = _limit_resources(memory_bytes, processor_s)
    if not _change_user():
        missing.append(OWN_USER)
    elif not _limit_processes(_MAX_THREADS):
        missing.append(PROCESSES)
    # Late, as the filter also refuses the calls that the other measures need.
    if not _filter_system_calls():
        missing.append(SYSTEM_CALLS)
        if not _limit_processes(0):
            missing.append(PROCESSES)
    return missing


def _change_user() -> bool:
    """Become nobody; only root may."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    except OSError:  # a container whose root has no such right, or knows no such user
        return False
    return True


def _limit_resources(memory_bytes: int, processor_s: int) -> list[str]:
    """Set limits that the process cannot raise again; return what cannot be limited."""
    try:
        import resource
    except ImportError:  # Windows
        return [MEMORY, PROCESSOR_TIME, NEW_FILES, WRITING]
    # A crash must not write a stranger's image to the disk as a core dump.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    missing = list[str]()
    for name, limit, value in (
        (MEMORY, resource.RLIMIT_AS, memory_bytes),
        (PROCESSOR_TIME, resource.RLIMIT_CPU, processor_s),
        (WRITING, resource.RLIMIT_FSIZE, 0),  # pipes are no files
        # Without a new descriptor there is no file, socket or pipe either. The open ones stay.
        (NEW_FILES, resource.RLIMIT_NOFILE, 0),
    ):
        try:
            resource.setrlimit(limit, (value, value))
        except (ValueError, OSError):  # macOS does not let the memory be limited
            missing.append(name)
    return missing


def _limit_processes(number: int) -> bool:
    """Limit the threads and processes of the user, this one's and others'; False if that fails.

    The filter of system calls refuses processes by itself. Where it is in force and the user is one
    that others may have too, there is no limit: it would count the others' threads.
    """
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_NPROC, (number, number))
    except (ImportError, ValueError, OSError):
        return False
    return True


def _filter_system_calls() -> bool:
    """Let the kernel refuse every system call that is not in the table (seccomp).

    Source: Linux, Documentation/userspace-api/seccomp_filter.rst.
    """
    if not sys.platform.startswith("linux") or os.uname().machine not in _ARCHITECTURES:
        return False
    architecture, column = _ARCHITECTURES[os.uname().machine]
    numbers = [row[column] for row in _SYSTEM_CALLS.values()]
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),  # a 32-bit call, whose numbers mean other calls
        (_LOAD, 0, 0, _NUMBER_AT),
        # Its flags are in memory, where a filter cannot see them. Threads are then made by `clone`.
        (_IF_EQUAL, 0, 1, _CLONE3[column]),
        (_RETURN, 0, 0, _UNKNOWN),
        # A thread, which the decoder of HEIC needs, but no process.
        (_IF_EQUAL, 0, 4, _CLONE[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_IF_ANY_BIT, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
        *((_IF_EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions, and a pointer to them.
    header = struct.pack("HP", len(program), ctypes.addressof(buffer))
    prctl = ctypes.CDLL(None).prctl
    zero = ctypes.c_ulong(0)
    if prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero):
        return False
    mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
    return prctl(_PR_SET_SECCOMP, mode, header, zero, zero) == 0
