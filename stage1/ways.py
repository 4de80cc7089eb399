"""The ways to stage2, one for each method word of the boot label.

``ka`` and ``dolly``: from node to node (docs/decisions/0010-stage2-from-node-to-node.md). ``http``: from bootd, or
from another server where the label has ``server:`` and ``directory:``. ``nfs``: from that server's export. Whatever
the way, bootd's description of stage2 decides whether it is the right one.
"""

import os
import socket
import subprocess
from collections.abc import Callable

from stage1 import hand_on
from stage1.cmdline import BootOptions
from stage1.fetch import (
    MAX_STAGE2,
    Download,
    NoStage2Error,
    NotThereError,
    Offer,
    Pace,
    Place,
    Source,
    Wish,
    locate,
)
from stage1.http import Connection, HttpError

RING = ("ka", "dolly")
MAX_COMPLAINTS = 3  # in one go; then it is the server, whatever it says
NFS_PORT = 2049
NFS_SECONDS = 40.0  # for one attempt to mount
# The first that the server speaks. soft: a server that goes must become an error, not a node that hangs.
NFS_VERSIONS = (("nfs4", "vers=4.2"), ("nfs4", "vers=4.1"), ("nfs4", "vers=4.0"), ("nfs", "vers=3,nolock"))
NFS_OPTIONS = "ro,soft,proto=tcp,timeo=100,retrans=2"
SUFFIXES = (".squashfs", ".sqfs")
# Below `directory:`; the second is where the older tools had theirs.
NAMES = ("stage2.squashfs", "install/stage2/rescue.sqfs")

Say = Callable[[str], None]


class Getting:
    """What has been reached of stage2. A new try goes on from there."""

    def __init__(self, options: BootOptions, address: str, folder: str, timeout: float, say: Say) -> None:
        """``address`` is this node's own; ``folder`` takes ``stage2.squashfs``; ``timeout``, seconds, for every
        wait on a server."""
        self._options, self._address, self._folder = options, address, folder
        self._timeout, self._say = timeout, say
        self._download: Download | None = None
        self._listener: socket.socket | None = None
        self._child: hand_on.Child | None = None

    @property
    def path(self) -> str:
        return f"{self._folder}/stage2.squashfs"

    def fetch(self) -> None:
        """One go; OSError or `HttpError` when it fails."""
        if self._options.method in RING:
            size = self._by_ring()
        elif self._options.method == "nfs":
            size = self._by_nfs()
        elif self._options.is_elsewhere:
            size = self._from_elsewhere()
        else:
            size = self._from_server(self._locate())
        if self._download is not None:
            self._download.close()
            self._download = None
        self._say(f"stage2 fetched {size}")

    def give_up(self) -> None:
        """Hand nothing on any more."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _locate(self, port: int = 0, failed: str = "") -> Offer:
        options = self._options
        wish = Wish(options.node, options.token, options.system, port, failed)
        return locate(options.server_host, options.server_port, wish, self._timeout)

    def _take(self, source: Source) -> Download:
        """The download that was begun, unless it is of another stage2 by now."""
        if self._download is not None and self._download.source != source:
            self.give_up()
            self._download.close()
            self._download = None
        if self._download is None:
            self._download = Download(source, self.path)
        return self._download

    def _from_server(self, offer: Offer) -> int:
        self._take(offer.source).run(self._timeout, Meter(self._say).show)
        return offer.source.size

    # --- from node to node -------------------------------------------------------------------------------

    def _by_ring(self) -> int:
        failed = ""
        for _ in range(MAX_COMPLAINTS):
            offer = self._locate(self._port(), failed)
            download = self._take(offer.source)
            self._hand_on(download)
            if offer.peer is None:
                break
            self._say(f"stage2 comes from {offer.peer.host}")
            try:
                pace = Pace(offer.patience)
                download.run(min(offer.patience, self._timeout), Meter(self._say).show, offer.peer, pace)
            except (OSError, HttpError) as error:
                self._say(f"{offer.peer.host} does not hand stage2 on: {error}; the server is told")
                failed = str(offer.peer)
            else:
                return offer.source.size
        return self._from_server(offer)

    def _port(self) -> int:
        """Where this node hands on; 0 when it cannot."""
        if self._listener is None:
            try:
                self._listener = hand_on.listen(self._address)
            except OSError as error:
                self._say(f"stage2 is not handed on: {error}")
                return 0
        return int(self._listener.getsockname()[1])

    def _hand_on(self, download: Download) -> None:
        source = download.source
        if self._child is None and self._listener is not None and source.blocks:
            self._child = hand_on.Child(self._listener, download.descriptor, source.size, source.sha256)

    # --- from another server -----------------------------------------------------------------------------

    def _description(self) -> Source | None:
        """What bootd says stage2 must be; None when it has none."""
        try:
            return self._locate().source
        except NoStage2Error as error:
            self._say(f"{error}: what comes cannot be checked")
            return None

    def _from_elsewhere(self) -> int:
        wanted = self._description()
        try:
            return self._from_other(wanted)
        except OSError as error:  # named, since it is not bootd's
            raise HttpError(f"{self._options.stage_server}: {error.strerror or error or 'no answer'}") from None

    def _from_other(self, wanted: Source | None) -> int:
        options = self._options
        host, port = host_and_port(options.stage_server, 80)
        for name in paths(options.directory):
            place = Place(host, port, "/" + name.lstrip("/"))
            try:
                source = wanted or self._measure(place)
                self._say(f"stage2 comes from {place}")
                self._take(source).run(self._timeout, Meter(self._say).show, place)
            except NotThereError:
                continue
            return source.size
        raise HttpError(f"{options.stage_server} has none of {', '.join(paths(options.directory))}")

    def _measure(self, place: Place) -> Source:
        with Connection(place.host, place.port, self._timeout) as connection:
            head = connection.request("HEAD", place.path, {})
        if head.status == 404:
            raise NotThereError(f"{place}: not there")
        if head.status != 200 or not head.length or head.length > MAX_STAGE2:
            raise HttpError(f"{place}: {head.status} {head.reason}, {head.length} bytes")
        return Source(place.host, place.port, place.path, head.length, "")

    def _by_nfs(self) -> int:
        wanted = self._description()
        try:
            return self._from_export(wanted)
        except OSError as error:
            raise HttpError(f"{self._options.stage_server}: {error.strerror or error or 'no answer'}") from None

    def _from_export(self, wanted: Source | None) -> int:
        options = self._options
        point = f"{self._folder}/nfs"
        os.makedirs(point, exist_ok=True)
        export, names = export_and_names(options.directory)
        mount_nfs(options.stage_server, export, point, self._address, self._timeout)
        try:
            for name in names:
                try:
                    stream = open(f"{point}/{name}", "rb")  # noqa: SIM115 - closed below
                except FileNotFoundError:
                    continue
                with stream:
                    size = os.fstat(stream.fileno()).st_size
                    source = wanted or Source(options.stage_server, NFS_PORT, name, size, "")
                    if size != source.size:
                        raise HttpError(f"{name} has {size} bytes, bootd's stage2 has {source.size}")
                    self._say(f"stage2 comes from {options.stage_server}:{export}/{name}")
                    self._take(source).copy(stream, Meter(self._say).show)
                return source.size
        finally:
            _run("umount", "-l", point)
        raise HttpError(f"{options.stage_server}:{export} has none of {', '.join(names)}")


def paths(directory: str) -> tuple[str, ...]:
    """Where stage2 may be: ``directory`` itself if it names an image, else the known names below it."""
    if directory.endswith(SUFFIXES):
        return (directory,)
    return tuple(f"{directory.rstrip('/')}/{name}" for name in NAMES)


def export_and_names(directory: str) -> tuple[str, tuple[str, ...]]:
    """What is mounted, and where stage2 may be below that."""
    if directory.endswith(SUFFIXES):
        export, _, name = directory.rpartition("/")
        return export or "/", (name,)
    return directory, NAMES


def host_and_port(text: str, default: int) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return host, int(port or default)


def mount_nfs(server: str, export: str, point: str, own: str, timeout: float) -> None:
    """Mount ``export`` of ``server`` (HOST or HOST:PORT) at ``point``, read-only. `HttpError`, OSError."""
    host, port = host_and_port(server, NFS_PORT)
    with socket.create_connection((host, port), timeout) as probe:  # a clear error, at once
        address = probe.getpeername()[0]
    _run("modprobe", "nfs")
    troubles = []
    for kind, version in NFS_VERSIONS:
        options = f"{NFS_OPTIONS},{version},addr={address},clientaddr={own}"
        if port != NFS_PORT:
            options += f",port={port}"
        if kind == "nfs":
            options = options.replace(f",clientaddr={own}", ",mountproto=tcp")
        trouble = _run("mount", "-t", kind, "-o", options, f"{host}:{export}", point)
        if not trouble:
            return
        troubles.append(f"{version}: {trouble}")
    raise HttpError(f"{host}:{export} cannot be mounted ({'; '.join(troubles)})")


def _run(*arguments: str) -> str:
    """Why BusyBox's command failed, or ""."""
    command = ["/bin/busybox", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=NFS_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer in {NFS_SECONDS:.0f} s"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return "" if done.returncode == 0 else (lines[-1] if lines else f"status {done.returncode}")


class Meter:
    """Progress on the console: a line at every tenth."""

    def __init__(self, say: Say) -> None:
        self._say, self._tenth = say, 0

    def show(self, received: int, size: int) -> None:
        tenth = received * 10 // size
        if tenth > self._tenth:
            self._tenth = tenth
            self._say(f"stage2 {received >> 20} of {size >> 20} MiB")
