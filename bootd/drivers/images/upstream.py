"""A site's images come from another site when they are first asked for: as long work of a job.

Whole first: an image is fetched, checked and kept before any node sees it, so that a site whose line breaks in the
middle has a room that waits, not a room of half written disks.
"""

import http.client
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from random import random
from threading import Lock, local
from urllib.parse import quote, urlsplit

import msgspec

from bootd.drivers.images.store import ImageStore
from bootd.drivers.jobs.tell import Result, Tell
from bootd.drivers.registry import work
from bootd.drivers.secrets import read_token
from bootd.errors import Exit, OperatorError
from bootd.images import manifest as manifests
from bootd.images.manifest import ImageError
from bootd.images.names import parse_reference
from bootd.images.oci.answers import AGAIN, pause, retry_after
from bootd.images.oci.reference import is_loopback
from bootd.wire.digest import Decompressor
from bootd.wire.errors import PeerProtocolError
from bootd.wire.manifest import MAX_CHUNK_SIZE
from bootd.wire.stored import unpack

BATCH = 32  # chunks asked for together
CONNECTIONS = 2  # the other side sends so many streams at a time
_SECONDS = 60.0  # of silence
_MAX_ERROR = 64 << 10


class _Lost(Exception):  # noqa: N818 - how a try ended
    """``wanted``: seconds that the other side asks to wait."""

    def __init__(self, error: OperatorError, wanted: float | None = None) -> None:
        super().__init__(error.message)
        self.error, self.wanted = error, wanted


def fetch(
    tell: Tell,
    *,
    store: str,
    image: str,
    upstream: str,
    token: str = "",
    upstream_authority: str = "",
    credentials: str = "",
    authority: str = "",
    plain_hosts: Sequence[str] = (),
) -> Result:
    """Have ``image`` (NAME, NAME:TAG or id) in ``store``. ``upstream``: https://HOST:PORT of a bootd, with a file
    that holds a ``token`` of scope export; or oci://HOST/PREFIX, where NAME:TAG is PREFIX/NAME:TAG."""
    if upstream.startswith(("oci://", "oci+http://")):
        scheme, _, place = upstream.rpartition("://")
        wanted = parse_reference(image)
        where = f"{'http' if scheme == 'oci+http' else 'https'}://{place.rstrip('/')}/{wanted.name}:{wanted.tag}"
        return work.pull(
            tell,
            store=store,
            source=where,
            name=str(wanted),
            credentials=credentials,
            authority=authority,
            plain_hosts=plain_hosts,
        )
    neighbour = Neighbour(tell, upstream, token, upstream_authority)
    with closing(ImageStore(Path(store))) as images, closing(neighbour):
        return Fetch(tell, images, neighbour).run(image)


class Neighbour:
    """Another bootd's operator interface. Methods may be called from several threads, each has its connection."""

    def __init__(self, tell: Tell, url: str, token: str, authority: str) -> None:
        parts = urlsplit(url)
        self._tell, self._url, self._parts = tell, f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", parts
        if parts.scheme == "http" and not is_loopback(parts.netloc):
            raise OperatorError(
                f"{self._url} is without TLS: the token would be read on the way",
                "write https:// in [images] upstream",
                Exit.REFUSED,
            )
        self._headers = {"Authorization": f"Bearer {read_token(Path(token), 'export')}"} if token else {}
        try:
            self._context = ssl.create_default_context(cafile=authority or None)
        except (OSError, ssl.SSLError) as error:
            raise OperatorError(
                f"cannot use {authority} as an authority: {error}", "see [images] upstream_authority", Exit.CONFIG
            ) from None
        self._local = local()
        self._connections: list[http.client.HTTPConnection] = []

    def close(self) -> None:
        """End all connections; no thread uses them any more."""
        for connection in self._connections:
            connection.close()

    def manifest(self, reference: str) -> bytes:
        """The encoded manifest of an image there."""
        return self._ask("GET", f"/api/v1/images/{quote(reference, safe='')}/manifest", None, manifests.MAX_ENCODED)

    def chunks(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Chunks as they are stored, not compared with anything yet."""
        body = msgspec.json.encode({"digests": names})
        data = memoryview(self._ask("POST", "/api/v1/chunks", body, len(names) * (MAX_CHUNK_SIZE + 4)))
        for name in names:
            length = int.from_bytes(data[:4], "big")
            if len(data) < 4 or len(data) < 4 + length:
                raise ImageError(
                    f"{self._url} does not send chunk {name}", "is it a bootd, and no older than this one?"
                )
            yield name, bytes(data[4 : 4 + length])
            data = data[4 + length :]

    def _ask(self, method: str, path: str, body: bytes | None, limit: int) -> bytes:
        tries = 0
        while True:
            tries += 1
            try:
                return self._try(method, path, body, limit)
            except _Lost as lost:
                seconds = pause(tries, lost.wanted, random())
                if seconds is None:
                    raise lost.error from None
                self._tell.note(f"{lost.error.message}; again in {seconds:.1f} s")
                time.sleep(seconds)

    def _try(self, method: str, path: str, body: bytes | None, limit: int) -> bytes:
        connection = self._connection()
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, body, self._headers)
            response = connection.getresponse()
            data = response.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            reason = (
                getattr(error, "verify_message", "") or getattr(error, "strerror", None) or type(error).__name__
            )
            failure = OperatorError(
                f"the upstream {self._url} does not answer: {reason}",
                "see [api] there and [images] upstream_authority here",
                Exit.UNREACHABLE,
            )
            if isinstance(error, ssl.SSLCertVerificationError):
                raise failure from None
            raise _Lost(failure) from None
        if response.status == 200 and len(data) <= limit:
            return data
        connection.close()
        raise self._refusal(response, data)

    def _refusal(self, response: http.client.HTTPResponse, data: bytes) -> Exception:
        status = response.status
        if status in (401, 403):
            return OperatorError(
                f"the upstream {self._url} refuses the token",
                "give it one of scope export: [images] upstream_token",
                Exit.REFUSED,
            )
        try:
            said = str(msgspec.json.decode(data[:_MAX_ERROR])["error"]["message"])
        except (msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError):
            said = f"status {status}"
        said = "".join(character if character.isprintable() else " " for character in said)[:300]
        if status in AGAIN:
            error = OperatorError(f"the upstream {self._url}: {said}", "see its log", Exit.UNREACHABLE)
            return _Lost(error, retry_after(response.headers.get("Retry-After", ""), time.time()))
        return ImageError(f"the upstream {self._url}: {said}", "see bootd image list there")

    def _connection(self) -> http.client.HTTPConnection:
        found: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if found is None:
            host, port = self._parts.hostname or "", self._parts.port or 7469
            if self._parts.scheme == "https":
                found = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=self._context)
            else:
                found = http.client.HTTPConnection(host, port, timeout=_SECONDS)
            self._local.connection = found
            self._connections.append(found)
        return found


class Fetch:
    """One image from a `Neighbour`. What has come stays, so the next one fetches the rest."""

    def __init__(self, tell: Tell, store: ImageStore, neighbour: Neighbour) -> None:
        self._tell, self._store, self._neighbour = tell, store, neighbour
        self._lock = Lock()
        self._done = self._bytes = 0

    def run(self, reference: str) -> Result:
        """The image gets the name that it was asked for by, unless that was its id."""
        encoded = self._neighbour.manifest(reference)
        manifest = manifests.parse(encoded)
        id_, wanted = manifests.image_id(encoded), parse_reference(reference)
        lengths = manifest.lengths()
        missing = sorted(self._store.missing(lengths))
        batches = [missing[start : start + BATCH] for start in range(0, len(missing), BATCH)]
        try:
            self._bring_all(batches, lengths, len(missing))
        finally:
            self._store.flush()  # what is here need not come again
        self._store.commit(manifest, latest=False)
        if not (wanted.prefix and id_.startswith(wanted.prefix)):
            self._store.tag(id_, str(wanted))
        return {"image": id_, "fetched_chunks": len(missing), "fetched_bytes": self._bytes}

    def _bring_all(self, batches: list[list[str]], lengths: Mapping[str, int], total: int) -> None:
        """The first error ends it: batches that have not begun do not begin."""
        with ThreadPoolExecutor(CONNECTIONS, "bootd-fetch") as pool:
            futures = [pool.submit(self._bring, batch, lengths, total) for batch in batches]
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                future.cancel()
        for future in futures:
            if not future.cancelled():
                future.result()

    def _bring(self, batch: Sequence[str], lengths: Mapping[str, int], total: int) -> None:
        for name, data in self._neighbour.chunks(batch):
            try:
                unpack(data, lengths[name], Decompressor())
                self._store.put_stored(name, data)
            except (PeerProtocolError, ImageError):
                raise ImageError(
                    f"chunk {name} came from the upstream and is not what its digest says",
                    "bootd image verify there names what is damaged",
                ) from None
            with self._lock:
                self._done += 1
                self._bytes += len(data)
                self._tell.progress(self._done, total, "chunks")
