"""Which file starts which machine: the one table of architectures (option 93) and of boot artefacts.

Presence is an argument, a set of names relative to ``boot_dir``: nothing here looks at a disk. A file that bootd
does not build itself (a RISC-V loader, a U-Boot script) is served as soon as an operator puts it in its place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Platform(Enum):
    """What kind of firmware asks: it decides about option 43, and whether the answer is a path or a URL."""

    BIOS = "BIOS"
    UEFI = "UEFI"
    HTTP = "HTTP Boot"
    U_BOOT = "U-Boot"
    RASPBERRY_PI = "Raspberry Pi"
    ETHERBOOT = "Etherboot"


class LoaderKind(Enum):
    """What the file is: it decides what the client asks for next."""

    PXELINUX = "PXELINUX"
    IPXE = "iPXE"
    SHIM = "shim and GRUB"
    GRUB = "GRUB"
    UKI = "unified kernel image"
    SCRIPT = "U-Boot script"
    FIRMWARE = "Raspberry Pi firmware"
    ETHERBOOT = "Etherboot image"
    LOCAL = "starter of the local disk"
    FOREIGN = "an operator's own file"


@dataclass(frozen=True)
class Loader:
    """One artefact. ``needs`` are the files that it fetches by itself from where it came from.

    ``secure_boot``: firmware that checks signatures runs it (signed by a key that such firmware has).
    """

    file: str
    kind: LoaderKind
    needs: tuple[str, ...] = ()
    secure_boot: bool = False


@dataclass(frozen=True)
class Architecture:
    """One code of option 93. ``family`` is a row of `LOADERS`."""

    name: str
    platform: Platform
    family: str


# IANA "Processor Architecture Types" (RFC 4578 section 2.1, RFC 5970 section 3.3). RFC 4578 swapped 7 and 9
# against what firmware did: both mean x64. 17 is the same mistake over HTTP.
ARCHITECTURES: dict[int, Architecture] = {
    0: Architecture("BIOS", Platform.BIOS, "bios"),
    6: Architecture("UEFI ia32", Platform.UEFI, "ia32"),
    7: Architecture("UEFI x64", Platform.UEFI, "x64"),
    9: Architecture("UEFI x64 (EBC)", Platform.UEFI, "x64"),
    10: Architecture("UEFI ARM 32", Platform.UEFI, "arm32"),
    11: Architecture("UEFI ARM 64", Platform.UEFI, "arm64"),
    15: Architecture("HTTP ia32", Platform.HTTP, "ia32"),
    16: Architecture("HTTP x64", Platform.HTTP, "x64"),
    17: Architecture("HTTP x64 (EBC)", Platform.HTTP, "x64"),
    18: Architecture("HTTP ARM 32", Platform.HTTP, "arm32"),
    19: Architecture("HTTP ARM 64", Platform.HTTP, "arm64"),
    20: Architecture("HTTP BIOS", Platform.HTTP, "bios"),
    21: Architecture("U-Boot ARM 32", Platform.U_BOOT, "u-boot-arm32"),
    22: Architecture("U-Boot ARM 64", Platform.U_BOOT, "u-boot-arm64"),
    23: Architecture("U-Boot HTTP ARM 32", Platform.HTTP, "u-boot-arm32"),
    24: Architecture("U-Boot HTTP ARM 64", Platform.HTTP, "u-boot-arm64"),
    25: Architecture("UEFI RISC-V 32", Platform.UEFI, "riscv32"),
    26: Architecture("HTTP RISC-V 32", Platform.HTTP, "riscv32"),
    27: Architecture("UEFI RISC-V 64", Platform.UEFI, "riscv64"),
    28: Architecture("HTTP RISC-V 64", Platform.HTTP, "riscv64"),
    29: Architecture("UEFI RISC-V 128", Platform.UEFI, "riscv128"),
    30: Architecture("HTTP RISC-V 128", Platform.HTTP, "riscv128"),
    37: Architecture("UEFI LoongArch 32", Platform.UEFI, "loong32"),
    38: Architecture("HTTP LoongArch 32", Platform.HTTP, "loong32"),
    39: Architecture("UEFI LoongArch 64", Platform.UEFI, "loong64"),
    40: Architecture("HTTP LoongArch 64", Platform.HTTP, "loong64"),
    41: Architecture("Raspberry Pi (rpiboot)", Platform.RASPBERRY_PI, "raspberry-pi"),
}
RASPBERRY_PI = Architecture("Raspberry Pi", Platform.RASPBERRY_PI, "raspberry-pi")
ETHERBOOT = Architecture("Etherboot", Platform.ETHERBOOT, "etherboot")

# In order of preference. iPXE first on UEFI: it has HTTP and asks bootd itself for its script, while shim and GRUB
# take their next file from whichever server gave the address.
LOADERS: dict[str, tuple[Loader, ...]] = {
    "bios": (
        Loader("lpxelinux.0", LoaderKind.PXELINUX, ("ldlinux.c32",)),
        Loader("undionly.kpxe", LoaderKind.IPXE),
    ),
    "ia32": (
        Loader("ipxe-ia32.efi", LoaderKind.IPXE),
        Loader("grubia32.efi", LoaderKind.GRUB),
        Loader("shimia32.efi", LoaderKind.SHIM, ("grubia32.efi",), secure_boot=True),
    ),
    "x64": (
        Loader("ipxe.efi", LoaderKind.IPXE),
        Loader("snponly.efi", LoaderKind.IPXE),
        Loader("shimx64.efi", LoaderKind.SHIM, ("grubx64.efi",), secure_boot=True),
    ),
    "arm32": (Loader("ipxe-arm32.efi", LoaderKind.IPXE), Loader("grubarm.efi", LoaderKind.GRUB)),
    "arm64": (
        Loader("ipxe-arm64.efi", LoaderKind.IPXE),
        Loader("snponly-arm64.efi", LoaderKind.IPXE),
        Loader("grubaa64.efi", LoaderKind.GRUB),
        Loader("shimaa64.efi", LoaderKind.SHIM, ("grubaa64.efi",), secure_boot=True),
    ),
    "riscv32": (Loader("ipxe-riscv32.efi", LoaderKind.IPXE), Loader("grubriscv32.efi", LoaderKind.GRUB)),
    "riscv64": (Loader("ipxe-riscv64.efi", LoaderKind.IPXE), Loader("grubriscv64.efi", LoaderKind.GRUB)),
    "riscv128": (Loader("ipxe-riscv128.efi", LoaderKind.IPXE),),
    "loong32": (Loader("ipxe-loong32.efi", LoaderKind.IPXE),),
    "loong64": (Loader("ipxe-loong64.efi", LoaderKind.IPXE), Loader("grubloongarch64.efi", LoaderKind.GRUB)),
    "u-boot-arm32": (Loader("boot-arm32.scr.uimg", LoaderKind.SCRIPT),),
    "u-boot-arm64": (Loader("boot-arm64.scr.uimg", LoaderKind.SCRIPT),),
    # Boards up to the Pi 3 fetch bootcode.bin, a Pi 4 and later has it in its EEPROM. The name is not read by them.
    "raspberry-pi": (
        Loader("bootcode.bin", LoaderKind.FIRMWARE, ("start.elf",)),
        Loader("start4.elf", LoaderKind.FIRMWARE),
    ),
    "etherboot": (Loader("etherboot/nbgrub", LoaderKind.ETHERBOOT),),
}
# Over HTTP a unified kernel image needs no second stage. GRUB as Debian signs it has no HTTP, so shim is useless.
HTTP_LOADERS: dict[str, tuple[Loader, ...]] = {
    "bios": (),
    **{
        name: (
            Loader(f"stage1/uki-{name}.efi", LoaderKind.UKI),
            Loader(f"stage1/uki-{name}.signed.efi", LoaderKind.UKI, secure_boot=True),
            *(loader for loader in loaders if loader.kind is LoaderKind.IPXE),
        )
        for name, loaders in LOADERS.items()
        if any(loader.kind is LoaderKind.IPXE for loader in loaders) and name != "bios"
    },
    "u-boot-arm32": LOADERS["u-boot-arm32"],
    "u-boot-arm64": LOADERS["u-boot-arm64"],
}
# Sent at once to a node that is to boot its disk: a loader in between would only ask for an address again.
STARTERS = {"x64": Loader("local.efi", LoaderKind.LOCAL)}
# What a client of HTTP Boot's codes is that says PXEClient all the same; UEFI where nothing is said.
BY_TFTP = {"bios": Platform.BIOS, "u-boot-arm32": Platform.U_BOOT, "u-boot-arm64": Platform.U_BOOT}

ARTEFACTS: frozenset[str] = frozenset(
    name
    for table in (LOADERS, HTTP_LOADERS)
    for loaders in table.values()
    for loader in loaders
    for name in (loader.file, *loader.needs)
) | {loader.file for loader in STARTERS.values()}
"""Every file that the offer decision asks about, relative to ``boot_dir``."""


def choose(
    architecture: Architecture,
    artefacts: frozenset[str],
    secure_boot: bool = False,
    overrides: Mapping[str, str] | None = None,
    *,
    stage: bool = True,
    disk: bool = False,
) -> Loader | str:
    """The loader for ``architecture`` out of ``artefacts``, or why there is none: the artefact that is missing.

    ``secure_boot`` allows only what such firmware runs (UEFI; others have no such check). ``overrides`` maps a
    family to an operator's own file, which goes before the table. Without ``stage`` the node is to boot something
    else than our kernel: its own disk, say, which a kernel image cannot start. ``disk``: that, and nothing else.
    """
    own = (overrides or {}).get(architecture.family)
    if own and architecture.platform is not Platform.HTTP:
        return Loader(own, LoaderKind.FOREIGN) if own in artefacts else f"{own} is missing in the boot folder"
    table = HTTP_LOADERS if architecture.platform is Platform.HTTP else LOADERS
    loaders = table.get(architecture.family, ())
    if not loaders:
        return "no loader can be fetched over HTTP by it"
    if architecture.platform in (Platform.UEFI, Platform.HTTP):
        starter = STARTERS.get(architecture.family)
        if disk and starter is not None and not secure_boot and starter.file in artefacts:
            return starter
        loaders = tuple(loader for loader in loaders if loader.secure_boot or not secure_boot)
        if not loaders:
            return "no signed loader for it is known: Secure Boot cannot be served"
        loaders = tuple(loader for loader in loaders if stage or loader.kind is not LoaderKind.UKI)
        if not loaders:
            return "what its label boots cannot be started over HTTP with Secure Boot"
    for loader in loaders:
        if {loader.file, *loader.needs} <= artefacts:
            return loader
    first = loaders[0]
    missing = [name for name in (first.file, *first.needs) if name not in artefacts]
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing in the boot folder"
