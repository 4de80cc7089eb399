"""Firmware, loaders and network cards, each from power-on to stage1 with its network up (or to its loader).

One machine at a time. What a loader fetched is read off bootd's own log only where the console cannot show it.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from bootd.build import signing
from bootd.build.cache import DEFAULT
from stage1 import recipe
from tests.lab import golden, signed_disk
from tests.lab.arrival import Dhcp, follow, powered_on
from tests.lab.lab import GOLDEN_LOGIN, STAGE_LABEL, build_artefacts
from tests.lab.machine import Firmware, Machine, Specification
from tests.lab.room import Room
from tests.lab.server import Server
from tests.lab.story import Step
from tests.vm.test_clone import Log

ROOT = Path(__file__).parents[2]
MAC = "52:54:00:b0:07:01"
STAGE1 = (Step("stage1", r"bootd-stage1: start", 120), Step("network", r"bootd-stage1: network [0-9.]+", 60))
ASKED = Step("words", r"bootd-stage1: the server has told my command line", 60)
SHIM = (
    Step("shim", r"Fetching Netboot Image grubx64\.efi", 60),
    Step("GRUB", r"Welcome to GRUB!", 60),
)
# Not quiet: the kernel's own stub says whether the firmware checks signatures.
SECURE = {"boot": {"secure_boot": True, "console": "console=ttyS0,115200"}}


@pytest.fixture(scope="module")
def boot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The boot folder, as `bootd stage build` leaves it."""
    folder = tmp_path_factory.mktemp("artefacts") / "boot"
    build_artefacts(folder, ROOT / DEFAULT, Log())
    return folder


def node(folder: Path, firmware: Firmware, card: str = "virtio-net-pci", memory: int = 768) -> Specification:
    disk = folder / "disk.raw"
    if not disk.exists():
        disk.write_bytes(bytes(1 << 20))
    return Specification("node1", firmware, MAC, disk, "FIRMWARE-1", memory, card)


@pytest.mark.vm
@pytest.mark.parametrize(
    ("firmware", "card", "loader"),
    [
        (Firmware.BIOS, "e1000", r"PXELINUX \d"),
        (Firmware.UEFI, "rtl8139", r"boot\.ipxe\.\.\. ok"),  # the card's ROM is iPXE for UEFI
    ],
    ids=["BIOS e1000", "UEFI rtl8139"],
)
def test_other_cards_reach_stage1(boot: Path, tmp_path: Path, firmware: Firmware, card: str, loader: str) -> None:
    with powered_on(tmp_path, node(tmp_path, firmware, card), boot, label=STAGE_LABEL) as machine:
        follow(machine, (Step("loader", loader, 90), *STAGE1))


@pytest.mark.vm
@pytest.mark.parametrize(
    "dhcp", [pytest.param(Dhcp.NEXT_SERVER, marks=pytest.mark.long), Dhcp.OURS], ids=["next server", "our DHCP"]
)
def test_secure_boot_from_shim_to_stage1(boot: Path, tmp_path: Path, dhcp: Dhcp) -> None:
    """Microsoft's keys in the firmware, Debian's signatures on shim, GRUB and kernel."""
    specification = node(tmp_path, Firmware.SECURE)
    with powered_on(tmp_path, specification, boot, label=STAGE_LABEL, dhcp=dhcp, settings=SECURE) as machine:
        enabled = Step("kernel", r"UEFI Secure Boot is enabled", 60)
        follow(machine, (*SHIM, enabled, *STAGE1))


@pytest.mark.vm
@pytest.mark.long
def test_secure_boot_of_a_node_that_boots_its_disk(boot: Path, tmp_path: Path) -> None:
    """From the network's signed GRUB to the disk's own shim and GRUB: nothing unsigned is on the way."""
    specification = node(tmp_path, Firmware.SECURE)
    signed_disk.build(specification.disk, ROOT / DEFAULT)
    with powered_on(
        tmp_path, specification, boot, label="local", dhcp=Dhcp.NEXT_SERVER, settings=SECURE
    ) as machine:
        disk = Step("disk", r"bootd: starting \(hd0,gpt1\)/EFI/debian/shimx64\.efi", 60)
        follow(machine, (*SHIM, disk, Step("its GRUB", signed_disk.MARKER, 60)))


@pytest.mark.vm
@pytest.mark.long
def test_signed_grub_asks_the_server_that_gave_the_address(boot: Path, tmp_path: Path) -> None:
    """What docs/booting.md says cannot be helped in proxy mode. If this fails, Debian's GRUB reads proxy offers."""
    empty = tmp_path / "empty"
    empty.mkdir()
    specification = node(tmp_path, Firmware.SECURE)
    with Room(tmp_path, 1) as room:
        dnsmasq = room.start_dhcp(more=("--enable-tftp", f"--tftp-root={empty}", "--user=root"))
        with Server(room, boot, {specification.name: MAC}, SECURE):
            machine = Machine(specification, tmp_path)
            room.own(machine)
            machine.power_on(room.network(0), room.inside(room.switch))
            follow(machine, SHIM)
            dnsmasq.wait_for(r"grub/grub\.cfg not found", 60, "GRUB's configuration")


@pytest.mark.vm
def test_secure_boot_refuses_what_nobody_signed(boot: Path, tmp_path: Path) -> None:
    """The firmware of the test above does check: told nothing of Secure Boot, bootd offers iPXE, in vain."""
    with powered_on(tmp_path, node(tmp_path, Firmware.SECURE), boot, label=STAGE_LABEL) as machine:
        follow(machine, (Step("refusal", r"BdsDxe: failed to load [^\r\n]*MAC[^\r\n]*Access Denied", 60),))


@pytest.mark.vm
@pytest.mark.parametrize(
    "dhcp", [pytest.param(Dhcp.FOREIGN, marks=pytest.mark.long), Dhcp.OURS], ids=["another DHCP", "our DHCP"]
)
def test_http_boot_of_the_kernel_image(boot: Path, tmp_path: Path, dhcp: Dhcp) -> None:
    specification = node(tmp_path, Firmware.HTTP, memory=1024)
    with powered_on(tmp_path, specification, boot, label=STAGE_LABEL, dhcp=dhcp) as machine:
        first, network = STAGE1
        follow(machine, (Step("firmware", r"Start HTTP Boot over IPv4", 60), first, ASKED, network))


@pytest.mark.vm
@pytest.mark.long
def test_secure_boot_over_http_with_an_operators_own_key(boot: Path, tmp_path: Path) -> None:
    """Beside any DHCP server: the kernel image signed with a key that the firmware has (Debian's test key)."""
    signed = tmp_path / "boot"
    shutil.copytree(boot, signed)
    key, certificate = tmp_path / "key.pem", Path("/usr/share/ovmf/PkKek-1-snakeoil.pem")
    unlock = ["openssl", "rsa", "-in", str(certificate.with_suffix(".key")), "-passin", "pass:snakeoil"]
    subprocess.run([*unlock, "-out", str(key)], check=True, capture_output=True)
    recipe.build(signed, ROOT / DEFAULT, print, console="console=ttyS0,115200")
    signing.sign(signed, key, certificate, print)
    specification = node(tmp_path, Firmware.SECURE_HTTP, memory=1024)
    with powered_on(tmp_path, specification, signed, label=STAGE_LABEL, settings=SECURE) as machine:
        first, network = STAGE1
        lockdown = Step("lockdown", r"Secure boot enabled|Kernel is locked down from EFI Secure Boot", 90)
        follow(machine, (lockdown, first, ASKED, network))


@pytest.mark.vm
@pytest.mark.long
def test_http_boot_of_a_node_that_boots_its_disk(boot: Path, tmp_path: Path) -> None:
    """Not the kernel image: the starter of the disk, by HTTP."""
    specification = node(tmp_path, Firmware.HTTP)
    golden.build(specification.disk, ROOT / DEFAULT)
    with powered_on(tmp_path, specification, boot, label="local") as machine:
        follow(machine, (Step("disk", r"bootd: starting \(hd", 60), Step("login", GOLDEN_LOGIN, 120)))


@pytest.mark.vm
def test_arm64_reaches_its_loader(boot: Path, tmp_path: Path) -> None:
    """GRUB for arm64, and the configuration that bootd renders for it; bootd has no stage for arm64."""
    with powered_on(
        tmp_path, node(tmp_path, Firmware.ARM64), boot, label="local", dhcp=Dhcp.NEXT_SERVER
    ) as machine:
        steps = (
            Step("GRUB", r"Welcome to GRUB!", 120),
            Step("disk", r"bootd: no boot loader on any local disk", 60),
        )
        follow(machine, steps)


@pytest.mark.vm
@pytest.mark.long
def test_ia32_firmware_reaches_stage1(boot: Path, tmp_path: Path) -> None:
    """32-bit firmware on a 64-bit processor, as in many small tablets and boxes: GRUB starts the same kernel."""
    specification = node(tmp_path, Firmware.IA32)
    with powered_on(tmp_path, specification, boot, label=STAGE_LABEL, dhcp=Dhcp.NEXT_SERVER) as machine:
        follow(machine, (Step("GRUB", r"Welcome to GRUB!", 90), *STAGE1))
