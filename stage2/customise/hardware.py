"""Which kernel modules drive this machine's disks and network cards, and which firmware has started it."""

import os

MAX_DEPTH = 16  # devices above a disk: bridges, hubs, controllers


def firmware(sys_root: str = "/sys") -> str:
    """ "uefi" or "bios"."""
    return "uefi" if os.path.isdir(f"{sys_root}/firmware/efi") else "bios"


def drivers_in_use(sys_root: str = "/sys") -> tuple[str, ...]:
    """Modules, by name, from each disk and each card up to its bus; those built into the kernel are left out."""
    found: set[str] = set()
    top = os.path.realpath(f"{sys_root}/devices")
    for kind in ("block", "class/net"):
        folder = f"{sys_root}/{kind}"
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            device = os.path.realpath(f"{folder}/{name}/device")
            for _ in range(MAX_DEPTH):
                if not device.startswith(f"{top}/"):
                    break
                module = os.path.realpath(f"{device}/driver/module")
                if os.path.isdir(module):
                    found.add(os.path.basename(module))
                device = os.path.dirname(device)
    return tuple(sorted(found))
