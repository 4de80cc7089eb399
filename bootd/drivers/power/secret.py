"""Passwords of management controllers: read from a file when they are needed, kept nowhere."""

import os
import stat
from pathlib import Path

from bootd.errors import Exit, OperatorError

MAX_SECRET = 128  # characters; IPMI 2.0 takes 20 bytes, Redfish more
CREDENTIAL = "credential:"


def secret_path(name: str) -> Path:
    """A path as settings name it, or ``credential:NAME`` of systemd's LoadCredential=."""
    if not name.startswith(CREDENTIAL):
        return Path(name)
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    own = name.removeprefix(CREDENTIAL)
    if not folder or "/" in own or own in ("", ".", ".."):
        raise OperatorError(
            f"there is no credential {own!r}", f"LoadCredential={own}:FILE in bootd.service", Exit.INPUT
        )
    return Path(folder) / own


def read_secret(name: str) -> str:
    """The first line of a file that not everybody can read; `OperatorError` (INPUT) never quotes it."""
    path = secret_path(name)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            line = file.readline(MAX_SECRET + 2).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise OperatorError(
            f"cannot read the password in {path}: {reason}",
            "it must be readable for the daemon: chown root:bootd, chmod 640",
            Exit.INPUT,
        ) from None
    if stat.S_ISREG(mode) and mode & 0o007:
        raise OperatorError(f"everybody on this machine can read {path}", f"chmod o= {path}", Exit.INPUT)
    if not line or len(line) > MAX_SECRET or not line.isprintable():
        raise OperatorError(f"{path} has no password", "its first line is the password, nothing else", Exit.INPUT)
    return line
