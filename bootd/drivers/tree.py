"""The virtual tree: the boot folder's files, and configuration rendered for each node, under one set of paths.

TFTP and HTTP (``/boot/...``) ask the same tree, so a file is the same whichever way a loader fetches it.

Rendered: ``pxelinux.cfg/01-MAC``, ``boot.ipxe`` and ``stage1/words`` (with a MAC), ``autoexec.ipxe``,
``grub/grub.cfg``, ``grub/grub.cfg-01-MAC`` and ``grub/node-MAC.cfg``. A name that is rendered hides a file of that
name.
"""

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bootd.netboot import render
from bootd.netboot.render import RenderContext

MAX_PATH = 512
_HYPHENATED = r"([0-9a-f]{2}(?:-[0-9a-f]{2}){5})"
_PXELINUX = re.compile(rf"pxelinux\.cfg/01-{_HYPHENATED}\Z")
_GRUB = re.compile(rf"grub/grub\.cfg-01-{_HYPHENATED}\Z")
_GRUB_NODE = re.compile(r"grub/node-([0-9a-f]{2}(?::[0-9a-f]{2}){5})\.cfg\Z")


@dataclass(frozen=True)
class File:
    """A regular file below the boot folder; ``path`` is absolute with every link resolved."""

    path: Path
    size: int


@dataclass(frozen=True)
class Rendered:
    """Bytes made for the node ``mac`` ("" when they are the same for all)."""

    content: bytes
    mac: str
    what: str  # for the timeline: "pxelinux configuration, label local"


@dataclass(frozen=True)
class NotFound:
    reason: str


Answer = File | Rendered | NotFound


class VirtualTree:
    def __init__(
        self, boot_dir: Path, context: Callable[[str], RenderContext | None], server_host: str, http_port: int
    ) -> None:
        """``context`` gives what to render for a MAC (lower case, colons), None for a node that gets nothing.

        ``server_host`` and ``http_port`` go into what is the same for every node (``autoexec.ipxe``).
        """
        self._root = boot_dir.resolve()
        self._context = context
        self._autoexec = render.autoexec(server_host, http_port).encode()

    def resolve(self, path: str, mac: str = "") -> Answer:
        """What ``path`` names. ``mac`` is what the client said about itself (``?mac=`` over HTTP), or "".

        Leading slashes go, ``\\`` is ``/`` (EDK2 and Windows loaders), and nothing leads out of the tree:
        neither ``..`` nor a symbolic link. Never raises for what a client sent.
        """
        parts = _parts(path)
        if isinstance(parts, NotFound):
            return parts
        rendered = self._render("/".join(parts), normal_mac(mac))
        return rendered if rendered is not None else _below(self._root, parts)

    def unlocked(self, mac: str, label: str) -> Rendered | NotFound:
        """``boot.ipxe`` of ``label`` alone, for one who has said its password."""
        context = self._context(mac)
        if context is None or label not in context.labels:
            return NotFound("nothing for this node")
        chosen = replace(context, label=label, prompt_seconds=0, message="")
        return Rendered(render.ipxe(chosen).encode(), mac, f"iPXE configuration, label {label}, by its password")

    def _render(self, name: str, mac: str) -> Answer | None:
        """The answer when ``name`` is a rendered one; None leaves it to the boot folder."""
        lower = name.lower()
        if lower == "autoexec.ipxe":
            return Rendered(self._autoexec, "", "iPXE entry script")
        if lower == "boot.ipxe":
            return self._for_node(mac, "iPXE", render.ipxe) if mac else NotFound("boot.ipxe needs ?mac=")
        if lower == "stage1/words":
            answer = self._for_node(mac, "stage1", render.words) if mac else NotFound("stage1/words needs ?mac=")
            empty = isinstance(answer, Rendered) and not answer.content
            return NotFound("this node's label starts no stage") if empty else answer
        if lower == "grub/grub.cfg":
            if mac:
                return self._for_node(mac, "GRUB", render.grub)
            return Rendered(render.grub_entry().encode(), "", "GRUB entry configuration")
        for pattern, loader, renderer in (
            (_PXELINUX, "PXELINUX", render.pxelinux),
            (_GRUB, "GRUB", render.grub),
            (_GRUB_NODE, "GRUB", render.grub),
        ):
            found = pattern.match(lower)
            if found:
                return self._for_node(found.group(1).replace("-", ":"), loader, renderer)
        if lower.startswith("pxelinux.cfg/") and lower != "pxelinux.cfg/default":
            return NotFound("configuration goes by MAC address")  # UUID, hex IP: PXELINUX goes on to the next
        return None

    def _for_node(self, mac: str, loader: str, renderer: Callable[[RenderContext], str]) -> Answer:
        context = self._context(mac)
        if context is None:
            return NotFound("nothing for this node")
        return Rendered(renderer(context).encode(), mac, f"{loader} configuration, label {context.label}")


def plain_file(root: Path, path: str) -> File | NotFound:
    """What ``path`` names among the files alone, under the rules of `VirtualTree.resolve`."""
    parts = _parts(path)
    return parts if isinstance(parts, NotFound) else _below(root.resolve(), parts)


def _below(root: Path, parts: tuple[str, ...]) -> File | NotFound:
    try:
        real = root.joinpath(*parts).resolve()
        if not real.is_relative_to(root):
            return NotFound("leads out of the boot folder")
        status = real.stat()
    except (OSError, RuntimeError, ValueError):  # RuntimeError: a loop of symbolic links
        return NotFound("no such file")
    if not stat.S_ISREG(status.st_mode):
        return NotFound("not a regular file")
    return File(real, status.st_size)


def open_file(file: File) -> int | NotFound:
    """A descriptor of what `VirtualTree.resolve` found, if it still is what it was: a regular file at that place,
    with no symbolic link on the way."""
    try:
        descriptor = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return NotFound(error.strerror or "cannot be opened")
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError as error:
        os.close(descriptor)
        return NotFound(error.strerror or "cannot be opened")
    if regular and place == file.path:
        return descriptor
    os.close(descriptor)
    return NotFound("has been moved" if regular else "not a regular file")


def _parts(path: str) -> tuple[str, ...] | NotFound:
    if len(path) > MAX_PATH:
        return NotFound("path is too long")
    if any(not " " <= character <= "~" for character in path):
        return NotFound("path has characters that are not printable ASCII")
    parts = tuple(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))
    if not parts:
        return NotFound("empty path")
    if ".." in parts:
        return NotFound("leads out of the boot folder")
    return parts


def normal_mac(text: str) -> str:
    """Lower case with colons, or "" when ``text`` is no MAC address."""
    mac = text.strip().lower().replace("-", ":")
    return mac if render.MAC.match(mac) else ""
