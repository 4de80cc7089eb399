"""Kernel modules for a stage: choose them, add what they depend on, copy them as they are.

Nothing is stripped: Debian signs its modules and a stripped one no longer loads under lockdown.
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from bootd.build.cache import Cache, digest_of
from bootd.build.debian import fetch, kernel_name, resolve, run
from bootd.errors import Exit, OperatorError

# Network cards that rooms have, by maker, and the link layers that some of them load by name.
NETWORK = (
    *("virtio_pci", "virtio_net", "virtio_mmio", "vmxnet3", "hv_netvsc", "xen-netfront", "ena", "gve"),
    *("e100", "e1000", "e1000e", "igb", "igbvf", "igc", "ixgbe", "ixgbevf", "i40e", "iavf", "ice"),
    *("r8169", "8139cp", "8139too", "tg3", "bnx2", "bnx2x", "bnxt_en", "b44"),
    *("pcnet32", "ne2k-pci", "tulip", "via-rhine", "via-velocity", "forcedeth", "sis900", "skge", "sky2"),
    *("atl1", "atl1c", "atl1e", "atl2", "alx", "jme", "atlantic"),
    *("mlx4_en", "mlx5_core", "be2net", "qede", "cxgb4", "enic", "sfc"),
    *("xhci_pci", "ehci_pci", "r8152", "ax88179_178a", "asix", "cdc_ether", "cdc_ncm", "smsc95xx"),
    *("realtek", "broadcom", "marvell", "smsc"),
)
_INDEXES = ("modules.builtin", "modules.builtin.modinfo", "modules.order")


def kernel_tree(cache: Cache) -> Path:
    """The newest Debian 6.1 kernel: ``boot/vmlinuz-VERSION``, ``lib/modules/VERSION`` with its modules.dep."""
    (package,) = resolve([kernel_name(cache)], cache)

    def make(path: Path) -> None:
        path.mkdir()
        run(["dpkg-deb", "--extract", str(fetch(package, cache)), str(path)], package="dpkg")
        run(["depmod", "-b", str(path), kernel_version(path)], package="kmod")

    return cache.get("kernel", digest_of(package.sha256), make, keep=2)


def kernel_version(tree: Path) -> str:
    """The version that a kernel tree is for, as ``uname -r`` says it."""
    found = [path.name for path in (tree / "lib/modules").iterdir()]
    if len(found) != 1:
        raise OperatorError(f"{tree}: expected one kernel version, found {found}", code=Exit.INPUT)
    return found[0]


def kernel_image(tree: Path) -> Path:
    return tree / "boot" / f"vmlinuz-{kernel_version(tree)}"


def module_name(path: str) -> str:
    """The name of the module in a file: ``kernel/net/8021q.ko`` is ``8021q``, and ``-`` counts as ``_``."""
    return PurePosixPath(path).name.split(".", 1)[0].replace("-", "_")


def parse_dependencies(text: str) -> dict[str, tuple[str, ...]]:
    """modules.dep: path of a module -> paths of all that it needs, in the order in which to remove them."""
    table = {}
    for line in text.splitlines():
        path, _, needs = line.partition(":")
        table[path.strip()] = tuple(needs.split())
    return table


def parse_soft_dependencies(text: str) -> dict[str, tuple[str, ...]]:
    """modules.softdep: name of a module -> names of modules that it asks for without linking to them."""
    table: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["softdep"] and len(words) > 2:
            name = words[1].replace("-", "_")
            needs = tuple(word.replace("-", "_") for word in words[2:] if not word.endswith(":"))
            table[name] = table.get(name, ()) + needs
    return table


def choose(
    wanted: Iterable[str], dependencies: Mapping[str, tuple[str, ...]], soft: Mapping[str, tuple[str, ...]]
) -> tuple[set[str], list[str]]:
    """Paths of the modules that ``wanted`` asks for with all they need, and what ``wanted`` asks for in vain.

    An item is the name of a module (``virtio_net``) or a pattern over paths (``kernel/drivers/ata/*``), in which
    ``*`` stands for anything but a slash and ``**`` for anything. A soft dependency that is missing (it may be
    built into the kernel) is passed over.
    """
    by_name = {module_name(path): path for path in dependencies}
    chosen: set[str] = set()
    unknown: list[str] = []
    queue: list[str] = []
    for item in wanted:
        if "/" in item:
            pattern = re.compile(re.escape(item).replace(r"\*\*", ".*").replace(r"\*", "[^/]*") + r"\Z")
            found = [path for path in dependencies if pattern.match(path)]
        else:
            found = [by_name[item.replace("-", "_")]] if item.replace("-", "_") in by_name else []
        if not found:
            unknown.append(item)
        queue += found
    while queue:
        path = queue.pop()
        if path in chosen:
            continue
        chosen.add(path)
        queue += dependencies.get(path, ())
        queue += [by_name[name] for name in soft.get(module_name(path), ()) if name in by_name]
    return chosen, unknown


def copy(tree: Path, wanted: Iterable[str], target: Path, *, exclude: Iterable[str] = ()) -> list[str]:
    """Copy chosen modules to ``target/lib/modules/VERSION`` and index them there; the paths, sorted.

    ``exclude`` names modules that a pattern would bring but nobody wants. `OperatorError` when a wanted name is
    neither a module nor built in: a typing error must not become a node without its network card.
    """
    version = kernel_version(tree)
    source = tree / "lib/modules" / version
    dependencies = parse_dependencies((source / "modules.dep").read_text())
    unwanted = {name.replace("-", "_") for name in exclude}
    dependencies = {path: needs for path, needs in dependencies.items() if module_name(path) not in unwanted}
    chosen, unknown = choose(
        wanted, dependencies, parse_soft_dependencies((source / "modules.softdep").read_text())
    )
    built_in = {module_name(line) for line in (source / "modules.builtin").read_text().splitlines()}
    missing = [item for item in unknown if item.replace("-", "_") not in built_in]
    if missing:
        raise OperatorError(
            f"kernel {version} has no module {', '.join(missing)}", "mend the list in the recipe", Exit.INPUT
        )
    folder = target / "lib/modules" / version
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(chosen):
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, place)
    for name in _INDEXES:
        shutil.copyfile(source / name, folder / name)
    run(["depmod", "-b", str(target), version], package="kmod")
    return sorted(chosen)
