"""Passwords of labels: hashes that boot loaders check themselves, and the one that the server checks for iPXE.

A label's password is given as hashes of one and the same: GRUB's PBKDF2 always (the server checks it, too), and
crypt(3)'s SHA-512 for the menu of PXELINUX, which knows none that is better.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence

ROUNDS = 20_000
SALT_BYTES = 32
HASH_BYTES = 64
MAX_PASSWORD = 64  # characters; GRUB reads no more than 256 bytes, PXELINUX no more than one line

_GRUB = re.compile(r"grub\.pbkdf2\.sha512\.([1-9][0-9]{3,5})\.([0-9A-Fa-f]{32,256})\.([0-9A-Fa-f]{128})\Z")
_CRYPT = re.compile(r"\$[56]\$(rounds=[0-9]{1,9}\$)?[A-Za-z0-9./]{1,16}\$[A-Za-z0-9./]{43,86}\Z")


def problem(hashes: Sequence[str]) -> str:
    """Why ``hashes`` cannot protect a label, or ""; () protects nothing and is right."""
    for text in hashes:
        if not _GRUB.match(text) and not _CRYPT.match(text):
            return "a password is given by its hashes only: make them with bootd label password"
    if hashes and not grub_hash(hashes):
        return "the hash that begins with grub.pbkdf2 is missing: bootd label password makes both"
    if len(hashes) > 2 or sum(bool(_GRUB.match(text)) for text in hashes) > 1:
        return "one hash of each kind is enough"
    return ""


def grub_hash(hashes: Sequence[str]) -> str:
    return next((text for text in hashes if _GRUB.match(text)), "")


def crypt_hash(hashes: Sequence[str]) -> str:
    """For PXELINUX; "" when there is none."""
    return next((text for text in hashes if _CRYPT.match(text)), "")


def make_grub_hash(password: str, salt: bytes, rounds: int = ROUNDS) -> str:
    """As grub-mkpasswd-pbkdf2 writes it."""
    made = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds, HASH_BYTES)
    return f"grub.pbkdf2.sha512.{rounds}.{salt.hex().upper()}.{made.hex().upper()}"


def verify(password: str, hashes: Sequence[str]) -> bool:
    """Whether ``password`` is the one of ``hashes``. Takes some ten milliseconds: not for the daemon's loop."""
    found = _GRUB.match(grub_hash(hashes))
    if found is None or len(password) > 4 * MAX_PASSWORD:
        return False
    rounds, salt, wanted = int(found[1]), bytes.fromhex(found[2]), bytes.fromhex(found[3])
    made = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds, len(wanted))
    return hmac.compare_digest(made, wanted)
