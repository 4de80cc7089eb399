"""The head of a ring as a process of its own: ``python -m bootd.member.head``, settings on standard input.

One JSON line: server, node, token, session, join_token, source, host, and maybe cache, images and sources. It
digests the source, hands the manifest to the daemon, serves, and ends on Finish, Cancel, or when standard input
closes (the daemon is gone).

Exit status: 0 ended as told, 1 failed (a report said why), 2 wrong settings.
"""

import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from bootd.member.context import describe
from bootd.member.control import ControlClient, ControlError
from bootd.member.digest_cache import DigestCache
from bootd.member.member import Member
from bootd.member.sources import (
    FileSource,
    ImageSource,
    SourceError,
    describe_sources,
    join_stores,
    open_source,
    suitable_chunk_size,
)
from bootd.wire.control import Arrange, Cancel, Finish, MemberState, Message, Report
from bootd.wire.manifest import Manifest
from bootd.wire.retry import for_method

MAX_SETTINGS = 1 << 16
REPORT_SECONDS = 1.0
_log = logging.getLogger("bootd.member.head")


class SettingsError(Exception):
    """The line on standard input does not fit."""


class HeadError(Exception):
    """The head cannot go on; the text is the reason that the session shows."""


class _Ended(Exception):  # noqa: N818 - not an error: the daemon went away while the source was being digested
    pass


@dataclass(frozen=True)
class Settings:
    server: str  # HOST:PORT of the control interface
    node: str
    token: str
    session: str
    join_token: str
    source: str  # path
    host: str  # address to listen on
    cache: str = ""  # folder where digests of files are remembered; "" for none
    images: str = ""  # folder of the image store; "" for none
    sources: tuple[str, ...] = ()  # parts of what is sent, each a phase of its own; () = source alone


def parse_settings(line: bytes) -> Settings:
    """Every field as a non-empty string, nothing else, ``cache`` and ``images`` only if wanted; `SettingsError`
    names what does not fit."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise SettingsError(f"settings are not JSON: {error}") from None
    names = {field.name for field in fields(Settings)}
    if not isinstance(value, dict) or value.keys() | {"cache", "images", "sources"} != names:
        raise SettingsError(f"settings must be an object of {', '.join(sorted(names))}")
    sources = value.pop("sources", [])
    if not isinstance(sources, list) or not all(isinstance(item, str) and item for item in sources):
        raise SettingsError("sources must be a list of strings that are not empty")
    for name, item in value.items():
        if not isinstance(item, str) or not item:
            raise SettingsError(f"{name} must be a string that is not empty")
    return Settings(**value, sources=tuple(sources))


class Head:
    """One run of the head. ``ended`` is set from outside when standard input closes."""

    def __init__(self, settings: Settings, client: ControlClient, ended: threading.Event) -> None:
        self._settings = settings
        self._client = client
        self._ended = ended
        self._inbox: queue.Queue[Message | HeadError | None] = queue.Queue(64)

    def run(self) -> int:
        """The exit status."""
        try:
            cache = DigestCache(self._settings.cache) if self._settings.cache else None
            sources = self._open(cache)
        except SourceError as error:
            return self._give_up(str(error))
        try:
            return self._serve(sources, self._prepare(sources))
        except _Ended:
            return 0
        except HeadError as error:
            return self._give_up(str(error))
        finally:
            for source in sources:
                source.close()

    def _open(self, cache: DigestCache | None) -> list[FileSource | ImageSource]:
        opened: list[FileSource | ImageSource] = []
        try:
            for text in self._settings.sources or (self._settings.source,):
                opened.append(open_source(text, cache, self._settings.images))
        except SourceError:
            for source in opened:
                source.close()
            raise
        return opened

    def end(self) -> None:
        """Standard input has closed."""
        self._ended.set()
        self._client.close()
        self._put(None)

    def _prepare(self, sources: Sequence[FileSource | ImageSource]) -> Manifest:
        reported, size = 0.0, sum(source.size for source in sources)

        def progress(done: int) -> None:
            nonlocal reported
            if self._ended.is_set():
                raise _Ended
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                self._client.report(self._say(MemberState.PREPARING, size, written=done))

        try:
            image = describe_sources(sources, suitable_chunk_size(sources), progress, is_phased=True)
        except SourceError as error:
            raise HeadError(f"{self._settings.source}: {error}") from None
        self._retry(lambda: self._client.put_manifest(self._settings.session, image.encoded))
        return image

    def _serve(self, sources: Sequence[FileSource | ImageSource], image: Manifest) -> int:
        member = Member(
            node=self._settings.node,
            session=self._settings.session,
            join_token=self._settings.join_token,
            manifest=image,
            store=join_stores(image, sources),
            listen_host=self._settings.host,
            report=self._client.report,
            is_head=True,
        )
        try:
            member.start()
        except OSError as error:
            raise HeadError(f"cannot listen on {self._settings.host}: {describe(error)}") from None
        threading.Thread(target=self._listen, name="bootd-inbox", daemon=True).start()
        try:
            while (message := self._inbox.get()) is not None:
                if isinstance(message, HeadError):
                    member.stop(str(message))
                    break
                if isinstance(message, Arrange):
                    member.arrange(message)
                elif isinstance(message, Finish | Cancel) and message.session == self._settings.session:
                    break
        finally:
            member.stop()
            self._client.close()
        if member.snapshot().state is not MemberState.FAILED:
            return 0
        for source in sources:
            source.mistrust()
        return 1

    def _listen(self) -> None:
        try:
            for message in self._client.events():
                self._put(message)
        except ControlError as error:
            self._put(HeadError(f"the daemon refuses the head: {error}"))

    def _put(self, item: Message | HeadError | None) -> None:
        while True:
            try:
                self._inbox.put(item, timeout=0.5)
            except queue.Full:
                if self._ended.is_set() and item is not None:
                    return
            else:
                return

    def _say(self, state: MemberState, total: int, *, written: int = 0, reason: str = "") -> Report:
        return Report(
            self._settings.node, self._settings.session, state, total=total, written=written, reason=reason
        )

    def _retry(self, request: Callable[[], None]) -> None:
        problem = ControlError("never tried")
        for attempt in for_method("http").attempts():
            if self._ended.wait(attempt.delay):
                raise _Ended
            try:
                request()
            except ControlError as error:
                problem = error
                if error.is_final:
                    break
            else:
                return
        raise HeadError(f"handing over the manifest: {problem}")

    def _give_up(self, reason: str) -> int:
        _log.error("%s", reason)
        for attempt in for_method("http").attempts():
            if self._ended.wait(attempt.delay):
                break
            if self._client.report(self._say(MemberState.FAILED, 0, reason=reason)):
                break
        return 1


def main() -> int:
    """Entry point of the process."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
    try:
        settings = parse_settings(sys.stdin.buffer.readline(MAX_SETTINGS))
        client = ControlClient(settings.server, settings.node, settings.token)
    except (SettingsError, ControlError) as error:
        _log.error("%s", error)
        return 2
    head = Head(settings, client, threading.Event())

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        head.end()

    threading.Thread(target=watch, name="bootd-stdin", daemon=True).start()
    return head.run()


if __name__ == "__main__":
    sys.exit(main())
