"""``python -m bootd.drivers.sync.confined MODE FOLDER... -- WORDS...``: WORDS, where only FOLDERs can be reached.

Landlock (Linux 5.13): what comes after sees each FOLDER (MODE ``read`` or ``write``), its own working folder for
writing, and the system's programs and libraries for reading; links that lead elsewhere lead nowhere. Where the
kernel has no Landlock only root may go on, for whom rsync changes its root directory.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14  # truncate, from ABI 3 on
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/urandom")
NO_LANDLOCK = 77  # exit status


class _Ruleset(ctypes.Structure):
    _fields_ = [("handled_access_fs", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def confine(folders: Sequence[str], *, writable: bool, own: str) -> bool:
    """From now on this process reaches nothing else; False when the kernel cannot do it. OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    version = library.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    if version < 1:
        return False
    handled = (1 << 13) - 1 | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    attributes = _Ruleset(handled)
    rules = library.syscall(_CREATE, ctypes.byref(attributes), ctypes.c_size_t(8), ctypes.c_uint32(0))
    _check(rules)
    allowed = [(path, _READ) for path in _SYSTEM] + [(path, _READ_FILE | _WRITE_FILE) for path in _DEVICES]
    allowed += [(own, handled), *((folder, handled if writable else _READ & ~_EXECUTE) for folder in folders)]
    for path, access in allowed:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        bits = access if Path(path).is_dir() else access & _OF_FILES
        rule = _Beneath(bits & handled, descriptor)
        _check(library.syscall(_ADD, rules, _PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint32(0)))
        os.close(descriptor)
    _check(
        library.prctl(
            _NO_NEW_PRIVILEGES, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)
        )
    )
    _check(library.syscall(_RESTRICT, rules, ctypes.c_uint32(0)))
    os.close(rules)
    return True


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main(arguments: Sequence[str]) -> int:
    mode, *rest = arguments
    folders, words = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
    if not confine(folders, writable=mode == "write", own=str(Path.cwd())) and os.geteuid() != 0:
        sys.stderr.write("this kernel has no Landlock, and without root rsync cannot be kept in one folder\n")
        return NO_LANDLOCK
    os.execvp(words[0], words)  # noqa: S606 - that is its use
    return 0  # never


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
