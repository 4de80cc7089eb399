"""What the offer decision needs to know, from the settings and from the boot folder."""

import time
from collections.abc import Callable
from pathlib import Path

from bootd.config import Settings
from bootd.netboot.loaders import ARTEFACTS
from bootd.netboot.offer import Interface, Pxelinux

_FRESH_SECONDS = 2.0  # `bootd stage build` may add files while the daemon runs; a boot storm must not stat for each


class Artefacts:
    """Which boot files are there now: a callable, looked up again after `_FRESH_SECONDS`."""

    def __init__(self, folder: Path, names: frozenset[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._names, self._clock = folder, names, clock
        self._looked = float("-inf")
        self._present: frozenset[str] = frozenset()

    def __call__(self) -> frozenset[str]:
        now = self._clock()
        if now - self._looked >= _FRESH_SECONDS:
            self._looked = now
            self._present = frozenset(name for name in self._names if _is_file(self._folder / name))
        return self._present


def wanted(settings: Settings) -> frozenset[str]:
    """Every boot file that the settings can lead to, relative to the boot folder."""
    menu = settings.menu.parsed()
    items = (item.path(layer) for item in menu.items for layer in range(min(item.layers, 15) + 1))
    return ARTEFACTS | {name for name in (*settings.boot.loaders.values(), *items) if name}


def artefacts(settings: Settings) -> Artefacts:
    return Artefacts(settings.boot_dir, wanted(settings))


def interface(settings: Settings, name: str, address: str, present: frozenset[str] = frozenset()) -> Interface:
    """The offer decision's view of interface ``name`` with ``address``; ``present`` are the boot files."""
    pxe = settings.pxe
    return Interface(
        name,
        address,
        settings.server.http_port,
        settings.dhcp.client_prefixes,
        settings.server.bulk_port,
        present,
        settings.boot.loaders,
        settings.boot.secure_boot,
        settings.menu.parsed(),
        Pxelinux(pxe.config_file, pxe.path_prefix, pxe.reboot_seconds),
        pxe.raspberry_pi_prefixes,
        pxe.raspberry_pi_delay,
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
