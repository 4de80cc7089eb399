"""Boot loaders: Debian's own, byte for byte, and ``local.efi``, which starts a node's own disk.

Which they are, and where each comes from, is the record ``pxelinux/loaders.toml`` (see `provenance`). Nothing of it
has to be installed on the building machine: packages are fetched and unpacked, no maintainer script runs.
"""

import json
from collections.abc import Callable
from pathlib import Path

from bootd.build import foreign, local_loader, provenance
from bootd.build.cache import Cache, file_digest, install, write
from bootd.build.provenance import Taken
from bootd.errors import Exit, OperatorError

Progress = Callable[[str], None]

LOCAL = "local.efi"
LOCAL_SCRIPT = "local.cfg"
RECORD = "loaders.json"


def build(out: Path, cache: Path, progress: Progress) -> None:
    """Fill ``out`` with the boot loaders and ``loaders.json``, the SHA-256 and origin of each.

    `OperatorError` when a loader of this machine's own architecture cannot be had, or is not what the record says.
    Those of other architectures are left out, with the reason, when the mirror does not carry them.
    """
    store = Cache(cache)
    taken = take(store, progress)
    record = {}
    for item in taken:
        install(item.path, out / item.loader.name)
        record[item.loader.name] = {
            "sha256": item.sha256,
            "package": f"{item.loader.package} {item.version}",
            "file": f"/{item.loader.file}",
        }
        if not item.known:
            progress(f"boot loaders: {item.loader.name}: {item.version} is newer than {provenance.RECORD}")
    local, package = local_loader.build(store, progress)
    install(local, out / LOCAL)
    write(out / LOCAL_SCRIPT, local_loader.script().encode())
    for name in (LOCAL, LOCAL_SCRIPT):
        made = {"package": package, "file": "made by grub-mkimage"} if name == LOCAL else {"file": "made by bootd"}
        record[name] = {"sha256": file_digest(out / name), **made}
    write(out / RECORD, json.dumps(dict(sorted(record.items())), indent=2).encode() + b"\n")
    progress(f"boot loaders: {', '.join(sorted(record))}")


def take(store: Cache, progress: Progress) -> list[Taken]:
    """Every loader of the record that can be had, checked; see `build` for what may be missing."""
    own = [loader for loader in provenance.read() if not loader.part_of]
    taken = provenance.take([loader for loader in own if not loader.architecture], store)
    for architecture in sorted({loader.architecture for loader in own if loader.architecture}):
        wanted = [loader for loader in own if loader.architecture == architecture]
        try:
            taken += provenance.take(wanted, store, foreign.apt_for(architecture, store))
        except OperatorError as error:
            if error.code is Exit.REFUSED:  # a changed file is no reason to go on
                raise
            progress(f"boot loaders: none for {architecture}: {error}")
    return taken
