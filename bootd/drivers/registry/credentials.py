"""Who we are to a registry: docker's config.json, in a file that only its owner reads or a systemd credential."""

import base64
import binascii
import json
import os
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bootd.errors import Exit, OperatorError

CREDENTIAL = "registry"  # systemd: LoadCredential=registry:/etc/bootd/registry.json
_MAX_FILE = 1 << 20


@dataclass(frozen=True)
class Login:
    """What a registry gets to see. ``identity_token`` is what a token server takes instead of a password."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def find_file(named: str) -> Path | None:
    """The file of [registry] credentials, else the systemd credential, if there is one."""
    if named:
        return Path(named)
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(folder) / CREDENTIAL
    return path if folder and path.is_file() else None


def read_login(path: Path | None, host: str) -> Login | None:
    """The login for ``host`` (with its port); None when the file has none. `OperatorError` for a bad file.

    No error shows what the file holds.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_FILE)
    except OSError as error:
        raise OperatorError(
            f"cannot read {path}: {error.strerror}", "see [registry] credentials in bootd.toml", Exit.CONFIG
        ) from None
    if stat.S_ISREG(mode) and mode & 0o007:
        raise OperatorError(f"everybody on this machine can read {path}", f"chmod 600 {path}", Exit.CONFIG)
    try:
        value = json.loads(data)
        entry = _entry(value, host)
        return None if entry is None else _login(entry)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OperatorError(
            f"{path} cannot be read as docker's config.json",
            'write {"auths": {"HOST:PORT": {"auth": "base64 of USER:PASSWORD"}}}',
            Exit.CONFIG,
        ) from None


def trust(authority: str) -> ssl.SSLContext:
    """The system's authorities, and those of the PEM file ``authority`` unless it is ""."""
    context = ssl.create_default_context()
    if authority:
        try:
            context.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as error:
            raise OperatorError(
                f"cannot use {authority} as an authority: {error}", "name a PEM file in [registry]", Exit.CONFIG
            ) from None
    return context


def _entry(value: Any, host: str) -> Any:
    """docker writes keys with and without scheme and path."""
    auths = dict(value.get("auths", {}))
    for key in (host, f"https://{host}", f"http://{host}", f"https://{host}/", f"https://{host}/v2/"):
        if key in auths:
            return auths[key]
    helpers = value.get("credHelpers", {})
    if host in helpers or value.get("credsStore"):
        raise OperatorError(
            f"the password of {host} is with a credential helper, which bootd does not run",
            'write it into "auths" of the file that [registry] credentials names',
            Exit.CONFIG,
        )
    return None


def _login(entry: Any) -> Login:
    identity = str(entry.get("identitytoken", ""))
    if "username" in entry:
        return Login(str(entry["username"]), str(entry["password"]), identity)
    if not entry.get("auth"):
        return Login(identity_token=identity)
    try:
        user, colon, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError("auth") from None
    if not colon:
        raise ValueError("auth")
    return Login(user, password.rstrip("\0"), identity)
