"""The machines that `bootd simulate` and the tests put into the room: one row per firmware that differs."""

from bootd.netboot import dhcp
from bootd.netboot.clients.air import Firmware
from bootd.netboot.clients.edk2 import Edk2
from bootd.netboot.clients.edk2_http import Edk2Http
from bootd.netboot.clients.ipxe import Ipxe
from bootd.netboot.clients.pxe_rom import BOOTP_SIZE, PxeRom
from bootd.netboot.clients.raspberry_pi import RaspberryPi
from bootd.netboot.clients.room import Client
from bootd.netboot.clients.u_boot import UBoot
from bootd.netboot.dhcp import Option

_PI_3 = bytes.fromhex("b827eb000003")
_PI_4 = bytes.fromhex("dca632000004")
_IPXE: dict[int, bytes] = {Option.USER_CLASS: b"iPXE", Option.IPXE: b"\x17\x01\x01\x22\x01\x01"}
_UNDI_BIOS = "PXEClient:Arch:00000:UNDI:002001"


def _uefi(architecture: int) -> Firmware:
    return Firmware(architecture, f"PXEClient:Arch:{architecture:05d}:UNDI:003016")


def _http(architecture: int) -> Firmware:
    return Firmware(architecture, f"HTTPClient:Arch:{architecture:05d}:UNDI:003016")


def _u_boot(architecture: int) -> Firmware:
    return Firmware(architecture, f"PXEClient:Arch:{architecture:05d}:UNDI:003000", broadcast=False)


def _ipxe(architecture: int) -> Firmware:
    return Firmware(architecture, f"PXEClient:Arch:{architecture:05d}:UNDI:003010", options=_IPXE, broadcast=False)


CLIENTS: tuple[Client, ...] = (
    PxeRom("BIOS ROM (Intel)", Firmware(0, _UNDI_BIOS)),
    PxeRom(
        "BIOS ROM (old, no option 93)", Firmware(None, "PXEClient"), asks_from=dhcp.PXE_PORT, smallest=BOOTP_SIZE
    ),
    Ipxe("iPXE as BIOS option ROM", _ipxe(0)),
    Edk2("UEFI x64 (EDK2)", _uefi(7)),
    Edk2("UEFI x64 (old EDK2)", _uefi(7), old=True),
    Edk2("UEFI x64 that says EBC", _uefi(9)),
    Ipxe("iPXE on UEFI x64", _ipxe(7)),
    Edk2Http("HTTP Boot x64 (EDK2)", _http(16)),
    Edk2("UEFI ia32 (EDK2)", _uefi(6)),
    Edk2("UEFI ARM 64 (EDK2)", _uefi(11)),
    Ipxe("iPXE on UEFI ARM 64", _ipxe(11)),
    Edk2Http("HTTP Boot ARM 64 (EDK2)", _http(19)),
    Edk2("UEFI ARM 32 (EDK2)", _uefi(10)),
    UBoot("U-Boot ARM 32", _u_boot(21)),
    UBoot("U-Boot ARM 64", _u_boot(22)),
    UBoot("U-Boot ARM 64 (reads proxies)", _u_boot(22), proxy=True),
    UBoot("U-Boot ARM 64 that starts EFI", _u_boot(11)),
    Edk2("UEFI RISC-V 64 (EDK2)", _uefi(27)),
    Edk2Http("HTTP Boot RISC-V 64 (EDK2)", _http(28)),
    Edk2("UEFI LoongArch 64 (EDK2)", _uefi(39)),
    RaspberryPi("Raspberry Pi 3 (ROM)", Firmware(0, _UNDI_BIOS, _PI_3, broadcast=False), rom=True),
    RaspberryPi("Raspberry Pi 4 (EEPROM)", Firmware(0, _UNDI_BIOS, _PI_4, broadcast=False), rom=False),
)
