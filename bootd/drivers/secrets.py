"""Passwords and tokens: read from a file when they are needed, kept nowhere, quoted by no error."""

import os
import stat
from pathlib import Path

from bootd.errors import Exit, OperatorError

CREDENTIAL = "credential:"
MAX_PASSWORD = 128  # characters; IPMI 2.0 takes 20 bytes, Redfish more
MAX_TOKEN = 4096  # characters
_READABLE = "it must be readable for the daemon: chown root:bootd, chmod 640"


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


def read_password(name: str) -> str:
    """The first line of ``name`` (see `secret_path`), which not everybody may read; `OperatorError` (INPUT)."""
    path = secret_path(name)
    line = _read(path, "password", MAX_PASSWORD, _READABLE).split("\n", 1)[0].rstrip("\r")
    if not line or len(line) > MAX_PASSWORD or not line.isprintable():
        raise OperatorError(f"{path} has no password", "its first line is the password, nothing else", Exit.INPUT)
    return line


def read_token(path: Path, scope: str) -> str:
    """The token in ``path``, which not everybody may read. ``scope``: of one that would do. `OperatorError`
    (INPUT)."""
    hint = f"make one on that server: bootd token create NAME --scope {scope} --out FILE"
    line = _read(path, "token", MAX_TOKEN, hint).strip()
    if not line or not line.isascii() or not line.isprintable() or " " in line:
        raise OperatorError(f"{path} has no token", "one line, nothing else", Exit.INPUT)
    return line


def _read(path: Path, what: str, limit: int, hint: str) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(4 * limit).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise OperatorError(f"cannot read a {what} in {path}: {reason}", hint, Exit.INPUT) from None
    if stat.S_ISREG(mode) and mode & 0o007:
        raise OperatorError(f"everybody on this machine can read {path}", f"chmod o= {path}", Exit.INPUT)
    return text
