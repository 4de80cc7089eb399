"""The way to a daemon over the network: its address, a token, and whom to trust."""

import http.client
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bootd.drivers.secrets import read_token
from bootd.errors import Exit, OperatorError

DEFAULT_PORT = 7469


@dataclass(frozen=True)
class Remote:
    """``authority`` is a PEM file; None = the system's authorities."""

    url: str
    token_file: Path | None
    authority: Path | None = None

    def connect(self, seconds: float) -> http.client.HTTPConnection:
        """A connection that is not open yet. `OperatorError` (USAGE) for an address that cannot be used."""
        parts = urlsplit(self.url)
        try:
            host, port = parts.hostname or "", parts.port or DEFAULT_PORT
        except ValueError:
            host, port = "", 0
        if (
            not host
            or parts.scheme not in ("http", "https")
            or parts.path.strip("/")
            or parts.query
            or parts.username
        ):
            raise OperatorError(
                f"{self.url!r} is no address of a bootd", "write it as https://HOST:PORT", Exit.USAGE
            )
        if parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=seconds, context=self._context())
        if not _is_loopback(host):
            raise OperatorError(
                f"{self.url} is without TLS: the token would be read on the way",
                "write https://; http:// is for this machine only",
                Exit.USAGE,
            )
        return http.client.HTTPConnection(host, port, timeout=seconds)

    def headers(self) -> dict[str, str]:
        """With the token. `OperatorError` (INPUT) when its file is missing, or open to others."""
        if self.token_file is None:
            raise OperatorError(
                f"{self.url} needs a token", "say --token-file FILE, or set BOOTD_TOKEN_FILE", Exit.USAGE
            )
        return {"Authorization": f"Bearer {read_token(self.token_file, 'read')}"}

    def unreachable(self, error: Exception) -> OperatorError:
        """Why there is no answer, for an operator."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return OperatorError(
                f"{self.url} is not trusted: {error.verify_message}",
                "name its authority: --ca FILE; and use the name that its certificate has",
                Exit.UNREACHABLE,
            )
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return OperatorError(
            f"bootd does not answer at {self.url}: {reason}",
            "see [api] in its bootd.toml, and that nothing between blocks the port",
            Exit.UNREACHABLE,
        )

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.authority)
        except (OSError, ssl.SSLError) as error:
            raise OperatorError(
                f"cannot use {self.authority} as an authority: {error}", "name a PEM file", Exit.INPUT
            ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
