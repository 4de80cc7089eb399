"""Recipe of stage1: Debian's kernel and an initramfs of BusyBox, network drivers, Python and the agent.

The initramfs is two archives behind each other: the base, which changes with Debian's packages and with the lists
below, and the agent, which changes with this project. Firmware loads it, so it holds only what it needs.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from bootd.build import modules, provenance, uki
from bootd.build.bundle import build_bundle, check_version, compile_module, source_root
from bootd.build.cache import Cache, digest_of, install, write
from bootd.build.debian import resolve, unpack
from bootd.build.initramfs import Archive, compress
from bootd.errors import OperatorError

Progress = Callable[[str], None]

PACKAGES = (
    *("busybox-static", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
    *("libc6", "zlib1g", "libexpat1", "libssl3"),
)
LIBRARIES = (
    "ld-linux-x86-64.so.2",
    *("libc.so.6", "libm.so.6", "libresolv.so.2", "libz.so.1", "libexpat.so.1", "libcrypto.so.3"),
)
# What stage2 arrives in, then the network cards.
# efivarfs: what firmware and stub say about an HTTP Boot (see ask.py).
# nfs: for the method of that name (see ways.py).
MODULES = ("squashfs", "loop", "overlay", "efivarfs", "nfs", "nfsv3", "nfsv4", *modules.NETWORK)
# What the agent and its interpreter import, now and when something goes wrong. A test holds this list to the agent.
STANDARD_LIBRARY = """
    __future__ _collections_abc _weakrefset abc ast bisect codecs collections/__init__ collections/abc contextlib
    copy copyreg dataclasses dis encodings/__init__ encodings/aliases encodings/ascii encodings/idna
    encodings/latin_1 encodings/utf_8 enum functools genericpath hashlib heapq importlib/__init__ importlib/_abc
    importlib/_bootstrap importlib/_bootstrap_external importlib/machinery importlib/util inspect io
    json/__init__ json/decoder json/encoder json/scanner keyword linecache locale opcode operator os posixpath
    re/__init__ re/_casefix re/_compiler re/_constants re/_parser reprlib runpy selectors signal socket stat
    stringprep struct subprocess textwrap threading token tokenize traceback types typing warnings weakref
    zipimport
"""
EXTENSIONS = ("_hashlib", "_json", "_typing")
APPLETS = """
    ash basename cat chmod cp cttyhack cut date dd df dmesg echo env find free grep head hexdump ifconfig ip kill
    killall less ln ls lsmod mkdir mknod modprobe more mount mv nc netstat nslookup ping poweroff printf ps pwd
    reboot rm route sed setsid sh sleep sort switch_root sync tail top touch tr true udhcpc umount uname uptime vi
    wc wget xargs
"""
FOLDERS = ("bin", "sbin", "usr/bin", "usr/sbin", "etc", "proc", "sys", "dev", "run", "tmp", "newroot", "lib64")
MAX_INITRD = 25 << 20  # bytes: beyond that, TFTP loaders and emulated firmware take too long


STUB = "linuxx64.efi.stub"


def build(out: Path, cache: Path, progress: Progress, console: str = "") -> None:
    """Write ``out/stage1/vmlinuz``, ``initrd.img`` and ``uki-x64.efi``. `OperatorError` says what is missing.

    ``console`` are words for the kernel command line of the last: it cannot be told them when it starts.
    """
    check_version()
    store = Cache(cache)
    tree = modules.kernel_tree(store)
    progress(f"stage1: kernel {modules.kernel_version(tree)}")
    base = base_archive(store, tree, progress)
    agent = agent_archive()
    install(modules.kernel_image(tree), out / "stage1/vmlinuz")
    initrd = base.read_bytes() + agent
    if len(initrd) > MAX_INITRD:
        raise OperatorError(f"the initrd has {len(initrd)} bytes", "shorten the lists in its recipe")
    write(out / "stage1/initrd.img", initrd)
    progress(f"stage1: initrd {len(initrd) / 1e6:.1f} MB")
    (stub,) = provenance.take([line for line in provenance.read() if line.name == STUB], store)
    image = uki.assemble(
        stub.path.read_bytes(),
        [
            (".cmdline", f"bootd.ask {console}".strip().encode() + b"\0"),
            (".linux", modules.kernel_image(tree).read_bytes()),
            (".initrd", initrd),
        ],
    )
    write(out / "stage1/uki-x64.efi", image)
    progress(f"stage1: unified kernel image {len(image) / 1e6:.1f} MB")


def agent_archive() -> bytes:
    """The agent, its scripts and ``/init``, compressed."""
    archive = Archive()
    folder = source_root() / "stage1"
    archive.add_file("init", (folder / "init").read_bytes(), 0o755)
    for name in ("drivers.sh", "lease.sh"):
        archive.add_file(f"stage1/{name}", (folder / name).read_bytes(), 0o755)
    archive.add_file("stage1/stage1.pyz", build_bundle("stage1", member=False))
    return compress(archive.finish())


def base_archive(store: Cache, tree: Path, progress: Progress) -> Path:
    """Everything that does not change with this project's agent, compressed."""
    packages = resolve(PACKAGES, store)
    key = digest_of(Path(__file__), *(package.sha256 for package in packages), tree.name)

    def make(path: Path) -> None:
        progress("stage1: packing the base of the initrd")
        with tempfile.TemporaryDirectory() as work:
            root = Path(work) / "root"
            fill(root, unpack(PACKAGES, store), tree)
            archive = Archive()
            archive.add_tree(root)
            path.write_bytes(compress(archive.finish()))

    return store.get("stage1-base", key, make)


def fill(root: Path, packages: Path, tree: Path) -> None:
    """The root of the initramfs without the agent, below ``root``."""
    for name in (
        "bin",
        "sbin",
        "usr/bin",
        "usr/sbin",
        "etc",
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "newroot",
        "lib64",
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(packages / "bin/busybox", root / "bin/busybox")
    for applet in APPLETS.split():
        (root / "bin" / applet).symlink_to("busybox")
    (root / "sbin/modprobe").symlink_to("../bin/busybox")
    shutil.copy(packages / "usr/bin/python3.11", root / "usr/bin/python3.11")
    (root / "usr/bin/python3").symlink_to("python3.11")
    copy_libraries(packages, root)
    copy_standard_library(packages / "usr/lib/python3.11", root / "usr/lib/python3.11")
    modules.copy(tree, MODULES, root)
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")


def copy_libraries(packages: Path, root: Path) -> None:
    """Shared libraries, under the name that programs ask for."""
    for name in LIBRARIES:
        found = [path for path in packages.rglob(name) if path.exists()]
        if not found:
            raise OperatorError(f"{name} is not in the packages of stage1", "mend its recipe")
        folder = root / ("lib64" if name.startswith("ld-") else "lib/x86_64-linux-gnu")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(found[0].resolve(), folder / name)


def copy_standard_library(source: Path, target: Path) -> None:
    """The part of the standard library that stage1 runs, compiled.

    Byte code lies where the source would (``os.pyc`` for ``os.py``): the importer takes it without looking for
    a source, and nothing is there twice.
    """
    for name in STANDARD_LIBRARY.split():
        place = target / f"{name}.pyc"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(compile_module(f"/usr/lib/python3.11/{name}.py", (source / f"{name}.py").read_bytes()))
    (target / "lib-dynload").mkdir(parents=True, exist_ok=True)
    for extension in EXTENSIONS:
        (file,) = (source / "lib-dynload").glob(f"{extension}.cpython-311-*.so")
        shutil.copy(file, target / "lib-dynload" / file.name)
