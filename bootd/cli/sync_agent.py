"""The package of the agent for running systems: a tar file to be unpacked at /.

Syncs need nothing but the system's Python, of any version from 3.11 on. Backups need the two compiled packages that
come along, for Debian 12's Python on x86-64; elsewhere the agent says that it has none, unless the system has them.
"""

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

from bootd.build.bundle import bundle_files, site_files
from bootd.errors import Exit, OperatorError

LIBRARY = "usr/lib/bootd-agent/agent.pyz"
SITE = "usr/lib/bootd-agent/site"
SETTINGS = "etc/bootd-agent/agent.json"
UNIT = "etc/systemd/system/bootd-agent.service"
_MAIN = b"""\
import os
import sys

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(sys.path[0])), "site"))

from stage2.resident import main

sys.exit(main())
"""
_UNIT = """[Unit]
Description=bootd: syncs and backups of this system
After=network-online.target local-fs.target
Wants=network-online.target
ConditionPathExists=/etc/bootd-agent/agent.json

[Service]
ExecStart=/usr/bin/python3 -B /usr/lib/bootd-agent/agent.pyz
Restart=always
RestartSec=10
# Settings that cannot be used do not mend themselves.
RestartPreventExitStatus=2
KillMode=mixed
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
"""


def agent_bundle() -> bytes:
    """A zip application in source, for the Python (3.11 or later) of any system; it needs no other package."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", _MAIN)
        for name, path in bundle_files("stage2", member=True):
            _add(archive, name, path.read_bytes())
    return buffer.getvalue()


def write_package(out: Path, *, server: str, node: str, key: str) -> None:
    """A new file, for its owner alone: there is a key in it."""
    settings = json.dumps({"server": server, "node": node, "key": key}).encode() + b"\n"
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for name, data, mode in (
                (LIBRARY, agent_bundle(), 0o644),
                *((f"{SITE}/{name}", data, 0o644) for name, data in _site()),
                (SETTINGS, settings, 0o600),
                (UNIT, _UNIT.encode(), 0o644),
            ):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), mode
                archive.addfile(entry, io.BytesIO(data))
    except OSError as error:
        raise OperatorError(f"{out}: {error.strerror}", "another place for it", Exit.INPUT) from None


def _site() -> list[tuple[str, bytes]]:
    """[] where this daemon runs on another Python than Debian 12's: its packages would be of no use there."""
    try:
        return list(site_files())
    except OperatorError:
        return []


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
