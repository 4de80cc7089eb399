"""The package of the agent for running systems: a tar file to be unpacked at /."""

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

from bootd.build.bundle import bundle_files
from bootd.errors import Exit, OperatorError

LIBRARY = "usr/lib/bootd-agent/agent.pyz"
SETTINGS = "etc/bootd-agent/agent.json"
UNIT = "etc/systemd/system/bootd-agent.service"
_UNIT = """[Unit]
Description=bootd: keeps files of this system as the server has them
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
        _add(archive, "__main__.py", b"import sys\n\nfrom stage2.resident import main\n\nsys.exit(main())\n")
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
                (SETTINGS, settings, 0o600),
                (UNIT, _UNIT.encode(), 0o644),
            ):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), mode
                archive.addfile(entry, io.BytesIO(data))
    except OSError as error:
        raise OperatorError(f"{out}: {error.strerror}", "another place for it", Exit.INPUT) from None


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
