"""Where an image is in a registry: ``[https://]HOST[:PORT]/REPOSITORY[:TAG|@sha256:DIGEST]``.

Grammar of repositories, tags and digests: OCI Distribution Specification 1.1, "Pulling manifests".
"""

import ipaddress
import re
from dataclasses import dataclass, replace

from bootd.errors import Exit, OperatorError

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[a-f0-9]{64}")
_HOST = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?")
_MAX_NAME = 255  # host and repository together: what registries and clients agree on
DEFAULT_TAG = "latest"


@dataclass(frozen=True)
class RegistryReference:
    """``host`` with its port, if one is named. Of ``tag`` and ``digest`` one is set."""

    scheme: str  # "https" or "http"
    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        """As an operator writes it; the scheme only where it is not https."""
        scheme = "http://" if self.scheme == "http" else ""
        return f"{scheme}{self.host}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")

    @property
    def target(self) -> str:
        """What the registry calls a reference: the tag or the digest."""
        return self.digest or self.tag

    @property
    def is_loopback(self) -> bool:
        """Whether the registry is on this machine."""
        return is_loopback(self.host)

    def at_repository(self, repository: str) -> "RegistryReference":
        """Another repository of the same registry. `OperatorError` (USAGE) when that is no repository."""
        if not _REPOSITORY.fullmatch(repository):
            raise _wrong(repository, "the repository may have a-z, 0-9, '.', '_', '-' and '/'")
        return replace(self, repository=repository)


def is_loopback(host: str) -> bool:
    """Whether ``HOST[:PORT]`` is this machine, by its address or as ``localhost``."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def parse_reference(text: str) -> RegistryReference:
    """`OperatorError` (USAGE) for what is no reference, naming the part that is wrong."""
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "https", text
    if scheme not in ("https", "http"):
        raise _wrong(text, f"{scheme}:// is not known; leave it out for https")
    host, slash, path = rest.partition("/")
    if "@" in host:
        raise OperatorError(
            "a password in the name of a registry would be written into logs",
            "put it into the file that [registry] credentials names",
            Exit.USAGE,
        )
    if not slash or not _HOST.fullmatch(host) or not ("." in host or ":" in host or host == "localhost"):
        raise _wrong(text, "it begins with the registry's host, as registry.example:5000/rooms/lab")
    port = host.rpartition(":")[2] if not host.endswith("]") and ":" in host else ""
    if port and not 0 < int(port) < 65536:
        raise _wrong(text, f"{port} is no port")
    path, at, digest = path.partition("@")
    path, colon, tag = path.partition(":")
    if len(host) + 1 + len(path) > _MAX_NAME or not _REPOSITORY.fullmatch(path):
        raise _wrong(text, "the repository may have a-z, 0-9, '.', '_', '-' and '/'")
    if at and not DIGEST.fullmatch(digest):
        raise _wrong(text, "a digest is sha256: and 64 hexadecimal digits")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(text, "a tag has at most 128 letters, digits, '.', '_' and '-'")
    # With both, the digest decides, as for other clients.
    return RegistryReference(scheme, host, path, "" if at else tag or DEFAULT_TAG, digest)


def _wrong(text: str, why: str) -> OperatorError:
    shown = "".join(character if character.isprintable() else "?" for character in text[:200])
    return OperatorError(
        f"{shown!r} names nothing in a registry: {why}", "HOST[:PORT]/REPOSITORY[:TAG]", Exit.USAGE
    )
