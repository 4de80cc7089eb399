"""Tickets for images on the bulk port: who has one may read the store from its own address, for a while.

The bulk workers know nothing of tokens and nodes, and cannot ask. So the daemon, which has checked who asks, signs
the address and a time, with a key that it and its workers share and that dies with the daemon.
"""

import hashlib
import hmac
import secrets

SECONDS = 3600.0
KEY_SIZE = 32


class Tickets:
    """Issued and checked with one key. Times in seconds since the epoch."""

    def __init__(self, key: bytes = b"") -> None:
        self.key = key or secrets.token_bytes(KEY_SIZE)

    def issue(self, address: str, now: float) -> tuple[str, float]:
        """A ticket for ``address``, and when it ends."""
        end = int(now + SECONDS)
        return f"{end}-{self._sign(address, end)}", float(end)

    def check(self, ticket: str, address: str, now: float) -> bool:
        """Whether ``ticket`` was issued for ``address`` and has not ended."""
        end, _, signature = ticket.partition("-")
        if len(ticket) > 100 or not (end.isascii() and end.isdigit()):
            return False
        return hmac.compare_digest(signature.encode(), self._sign(address, int(end)).encode()) and now < int(end)

    def _sign(self, address: str, end: int) -> str:
        return hmac.new(self.key, f"images {address} {end}".encode(), hashlib.sha256).hexdigest()
