"""What this machine is: board and firmware (SMBIOS, or the device tree), processor, network cards.

Nothing here is needed to clone: what cannot be read is "" or 0, and stops nobody.
"""

import os

from bootd.wire.control import Hardware, Nic

MAX_TEXT = 128  # characters of one string
MAX_NICS = 64
_ETHERNET = "1"  # ARPHRD_ETHER
# Field of `Hardware`, file of /sys/class/dmi/id. Serials are for root's eyes only there, as which the agent runs.
_SMBIOS = (
    ("vendor", "sys_vendor"),
    ("product", "product_name"),
    ("product_serial", "product_serial"),
    ("board_vendor", "board_vendor"),
    ("board", "board_name"),
    ("board_serial", "board_serial"),
    ("chassis_serial", "chassis_serial"),
    ("asset_tag", "chassis_asset_tag"),
    ("bios_vendor", "bios_vendor"),
    ("bios_version", "bios_version"),
    ("bios_date", "bios_date"),
)


def read_hardware(sys_root: str = "/sys", proc_root: str = "/proc") -> Hardware:
    """As it is now."""
    told = {field: _text(f"{sys_root}/class/dmi/id/{name}") for field, name in _SMBIOS}
    tree = f"{sys_root}/firmware/devicetree/base"
    told["product"] = told["product"] or _text(f"{tree}/model")
    told["product_serial"] = told["product_serial"] or _text(f"{tree}/serial-number")
    sockets, cores, threads = _processors(sys_root)
    return Hardware(
        **told,
        cpu=_cpu_model(proc_root),
        sockets=sockets,
        cores=cores,
        threads=threads,
        nics=tuple(_nics(sys_root)),
    )


def _cpu_model(proc_root: str) -> str:
    try:
        with open(f"{proc_root}/cpuinfo", encoding="ascii", errors="replace") as stream:
            for line in stream:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    return " ".join(value.split())[:MAX_TEXT]
    except OSError:
        pass
    return ""


def _processors(sys_root: str) -> tuple[int, int, int]:
    """Sockets, cores, threads that are switched on."""
    folder = f"{sys_root}/devices/system/cpu"
    packages: set[str] = set()
    cores: set[tuple[str, str]] = set()
    threads = 0
    for name in _listed(folder):
        topology = f"{folder}/{name}/topology"
        if not (name.startswith("cpu") and name[3:].isdigit() and os.path.isdir(topology)):
            continue
        package = _text(f"{topology}/physical_package_id")
        packages.add(package)
        cores.add((package, _text(f"{topology}/core_cpus_list") or _text(f"{topology}/core_id")))
        threads += 1
    return len(packages), len(cores), threads


def _nics(sys_root: str) -> list[Nic]:
    """Network cards that are hardware, by name: bridges and such have no device behind them."""
    folder = f"{sys_root}/class/net"
    found = []
    for name in _listed(folder):
        path = f"{folder}/{name}"
        if not os.path.exists(f"{path}/device") or _text(f"{path}/type") != _ETHERNET:
            continue
        speed = _text(f"{path}/speed")
        found.append(
            Nic(
                name=name[:MAX_TEXT],
                mac=_text(f"{path}/address").lower(),
                driver=_target(f"{path}/device/driver"),
                bus=_target(f"{path}/device/subsystem"),
                speed=int(speed) if speed.isascii() and speed.isdigit() else 0,
                link=_text(f"{path}/carrier") == "1",
            )
        )
    return found[:MAX_NICS]


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _target(path: str) -> str:
    """The last part of what a symbolic link points at; "" when there is none."""
    try:
        return os.path.basename(os.readlink(path))[:MAX_TEXT]
    except OSError:
        return ""


def _text(path: str) -> str:
    """The printable ASCII of a small file; "" when it cannot be read. A card without a cable refuses its speed."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(4096)
    except OSError:
        return ""
    return "".join(chr(byte) for byte in data if 0x20 <= byte < 0x7F).strip()[:MAX_TEXT]
