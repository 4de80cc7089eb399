"""What can be asked of a registry: blobs, manifests, tags (OCI Distribution Specification 1.1)."""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from urllib.parse import quote, urljoin

import aiohttp
import msgspec

from bootd.drivers.registry.transport import Lost, Transport, wanted_pause
from bootd.errors import Exit, OperatorError
from bootd.images.oci.answers import AGAIN
from bootd.images.oci.artefact import MANIFEST_TYPE, MAX_MANIFEST, sha256, wrong

_ANSWER_SECONDS = 120.0  # until the answer to an upload, beside the time for its bytes
_SLOWEST = 64 << 10  # bytes per second of an upload
_MAX_TAGS = 4 << 20  # bytes
_PAGES = 50  # of tags
_RESUMPTIONS = 200  # of one download
SLICE = 256 << 10
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')


class _Tags(msgspec.Struct, frozen=True):
    tags: list[str] | None = None


class RegistryClient(Transport):
    """One registry, any repository of it."""

    async def blob_size(self, repository: str, digest: str) -> int | None:
        """Bytes of a blob that the repository has; None when it has not."""
        answer = await self.ask("HEAD", self._blob(repository, digest), _pull(repository), accepted=(200, 404))
        length = answer.headers.get("Content-Length", "")
        return (int(length) if length.isdigit() else 0) if answer.status == 200 else None

    async def mount_blob(self, repository: str, digest: str, source: str) -> bool:
        """Let ``repository`` have a blob of the repository ``source``; whether the registry did that."""
        url = f"{self._uploads(repository)}?mount={quote(digest)}&from={quote(source, safe='')}"
        answer = await self.ask("POST", url, (*_push(repository), *_pull(source)), accepted=(201, 202))
        if answer.status == 201:
            return True
        # It began an upload instead, and we have no bytes for it.
        with contextlib.suppress(OperatorError, Lost):
            async with self.once("DELETE", self.location(answer.response), _push(repository), {}):
                pass
        return False

    async def put_blob(
        self,
        repository: str,
        digest: str,
        data: bytes | bytearray,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> bool:
        """Upload a blob unless it is there; whether it was sent. ``on_bytes`` gets numbers of bytes as they leave,
        a negative one when that many have to be sent again."""
        tries = 0
        while True:
            if await self.blob_size(repository, digest) == len(data):
                return tries > 0
            tries += 1
            answer = await self.ask("POST", self._uploads(repository), _push(repository), accepted=(202,))
            upload = self.location(answer.response)
            upload += ("&" if "?" in upload else "?") + "digest=" + quote(digest)
            sending = _Sending(data, on_bytes)
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(data))}
            try:
                async with (
                    asyncio.timeout(_ANSWER_SECONDS + len(data) / _SLOWEST),
                    self.once("PUT", upload, _push(repository), headers, sending.parts) as response,
                ):
                    if response.status == 201:
                        return True
                    error = await self.refusal(response)
                    if response.status not in AGAIN and response.status not in (404, 416):
                        raise error  # those two: it forgot the upload, which is begun anew
                    lost = Lost(error, wanted_pause(response))
            except TimeoutError:
                lost = Lost(OperatorError(f"{self.host} takes no bytes", "see its log", Exit.UNREACHABLE))
            except Lost as failure:
                lost = failure
            on_bytes(-sending.sent)
            await self.wait(tries, lost)

    async def read_blob(
        self, repository: str, digest: str, size: int, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from ``start`` to ``stop`` of a blob of ``size`` bytes, in parts of any length.

        Goes on where it was when the connection breaks. Digests are the caller's to check. `OperatorError` (INPUT)
        when the blob is not so long. Close it (`contextlib.aclosing`) when not all is read.
        """
        position, end = start, size if stop is None else stop
        tries = resumptions = 0
        while position < end:
            before = position
            whole = (position, end) == (0, size)
            headers = {} if whole else {"Range": f"bytes={position}-{end - 1}"}
            lost: Lost | None = None
            try:
                async with self.once("GET", self._blob(repository, digest), _pull(repository), headers) as response:
                    if response.status not in (200, 206):
                        error = await self.refusal(response)
                        if response.status not in AGAIN:
                            raise error
                        lost = Lost(error, wanted_pause(response))
                    else:
                        skip = self._bytes_before(response, position, size, digest)
                        async for part in response.content.iter_chunked(SLICE):
                            useful = part[skip : skip + end - position]
                            skip = max(0, skip - len(part))
                            position += len(useful)
                            if useful:
                                yield useful
                            if position == end:
                                break
            except Lost as failure:
                lost = failure
            if position == end:
                return
            resumptions += 1
            tries = tries + 1 if position == before else 1
            short = wrong(f"{self.host}/{repository}", f"blob {digest} ends after {position} of {size} bytes")
            if resumptions > _RESUMPTIONS or (lost is None and position == before):
                raise short
            await self.wait(tries, lost or Lost(short))

    async def get_document(self, repository: str, digest: str, size: int) -> bytes:
        """A blob that fits into memory; its digest is checked, and it is asked for a second time if it is wrong."""
        for _ in range(2):
            data = b"".join([part async for part in self.read_blob(repository, digest, size)])
            if sha256(data) == digest:
                return data
        raise wrong(f"{self.host}/{repository}", f"blob {digest} has other bytes than its digest says")

    async def get_manifest(self, repository: str, target: str) -> tuple[bytes, str] | None:
        """The manifest that a tag or a digest names, and its digest, which is checked; None when there is none."""
        headers = {"Accept": f"{MANIFEST_TYPE}, */*;q=0.1"}
        url = f"{self.base}/v2/{repository}/manifests/{quote(target)}"
        answer = await self.ask(
            "GET", url, _pull(repository), accepted=(200, 404), headers=headers, limit=MAX_MANIFEST
        )
        if answer.status == 404:
            return None
        data, said = answer.body, answer.headers.get("Docker-Content-Digest", "")
        digest = sha256(data)
        if (target if target.startswith("sha256:") else said) not in ("", digest):
            raise wrong(f"{self.host}/{repository}", f"manifest {target} has other bytes than its digest says")
        return data, digest

    async def put_manifest(self, repository: str, target: str, data: bytes) -> str:
        """Store a manifest under a tag or its digest; its digest."""
        url = f"{self.base}/v2/{repository}/manifests/{quote(target)}"
        headers = {"Content-Type": MANIFEST_TYPE, "Content-Length": str(len(data))}
        sending = _Sending(data, lambda _: None)
        await self.ask("PUT", url, _push(repository), accepted=(200, 201, 202), headers=headers, body=sending.parts)
        return sha256(data)

    async def list_tags(self, repository: str) -> list[str]:
        """The tags of a repository, sorted; none when there is no such repository."""
        url, tags = f"{self.base}/v2/{repository}/tags/list", set[str]()
        for _ in range(_PAGES):
            answer = await self.ask("GET", url, _pull(repository), accepted=(200, 404), limit=_MAX_TAGS)
            if answer.status == 404:
                break
            following = _NEXT.search(answer.headers.get("Link", ""))
            try:
                tags.update(msgspec.json.decode(answer.body, type=_Tags).tags or [])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise wrong(f"{self.host}/{repository}", f"its list of tags cannot be read: {error}") from None
            if following is None:
                break
            url = urljoin(url, following[1])
            if not url.startswith(self.base + "/"):
                break
        return sorted(tags)

    def _blob(self, repository: str, digest: str) -> str:
        return f"{self.base}/v2/{repository}/blobs/{digest}"

    def _uploads(self, repository: str) -> str:
        return f"{self.base}/v2/{repository}/blobs/uploads/"

    def _bytes_before(self, response: aiohttp.ClientResponse, position: int, size: int, digest: str) -> int:
        """How many bytes of the answer come before ``position``: all of them where Range is not known."""
        if response.status == 200:
            length = response.content_length
            if length is not None and length != size:
                raise wrong(self.host, f"blob {digest} has {length} bytes, not {size}")
            return position
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != position or found[3] not in ("*", str(size)):
            raise wrong(self.host, f"blob {digest}: {position} of {size} was asked for, other bytes are sent")
        return 0


class _Sending:
    """A body in parts, counted. ``parts`` begins anew each time."""

    def __init__(self, data: bytes | bytearray, on_bytes: Callable[[int], None]) -> None:
        self._data, self._on_bytes = data, on_bytes
        self.sent = 0

    async def parts(self) -> AsyncIterator[memoryview]:
        self._on_bytes(-self.sent)
        self.sent = 0
        view = memoryview(self._data)
        for start in range(0, len(view), SLICE):
            part = view[start : start + SLICE]
            yield part
            self.sent += len(part)
            self._on_bytes(len(part))


def _pull(repository: str) -> tuple[str, ...]:
    return (f"repository:{repository}:pull",)


def _push(repository: str) -> tuple[str, ...]:
    return (f"repository:{repository}:pull,push",)
