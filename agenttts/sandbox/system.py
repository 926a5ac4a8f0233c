"""The Linux calls that Python's standard library lacks, by ctypes.

Each raises `OSError`, as functions of `os` do. Constants are from the kernel's headers; see
unshare(2), mount(2), pivot_root(2), prctl(2), capset(2).
"""

from __future__ import annotations

import ctypes
import os
import platform

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 0x20, 0x1000, 0x4000, 0x40000, 1 << 21
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Give this process its own namespaces."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Call the mount system call (2); ``data`` are the file system's own options."""
    words = [os.fsencode(source), os.fsencode(target), kind.encode()]
    done = _libc.mount(*words, ctypes.c_ulong(flags), data.encode() or None)
    _checked(done, f"mount {target}")


def unmount(target: str) -> None:
    """Call umount2(2), also for a file system in use."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def pivot_root(new: str) -> None:
    """Make ``new``, a mount point, the root of this mount namespace.

    The old root is gone.
    """
    os.chdir(new)
    number = _PIVOT_ROOT[platform.machine()]
    _checked(_libc.syscall(ctypes.c_long(number), b".", b"."), "pivot_root")
    # The old root is stacked on the new root, because both are the same place: see pivot_root(2),
    # "pivot_root(".", ".")".
    _checked(_libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")


def prctl(option: int, value: int, pointer: object = None) -> None:
    """Call the prctl system call (2) with one value and, for filters, a pointer."""
    done = _libc.prctl(
        ctypes.c_int(option), ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)
    )
    _checked(done, f"prctl {option}")


def drop_capabilities() -> None:
    """Give up every capability of this process, in any user namespace."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    _checked(_libc.capset(header, none), "capset")


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
