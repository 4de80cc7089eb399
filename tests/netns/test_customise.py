"""A real Debian on loop devices becomes a machine of its own, as blkid, findmnt, lsinitramfs and mtools see it."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bootd.build.cache import DEFAULT, Cache
from bootd.build.debian import unpack
from stage2.customise import STEPS, Facts, Result, customise, hooks
from stage2.made import Made
from tests.lab import debian_tree
from tests.namespaces import APART
from tests.netns.customise_disks import knows_vfat, prepared
from tests.netns.room import until
from tests.netns.volumes import disk, loop, mounted, run

pytestmark = pytest.mark.long  # a whole Debian; `tests/vm/test_customise.py` boots one in every run
MAC = "52:54:00:00:00:07"
# Of no hardware: MODULES=most does not take it.
MODULE = "dummy"
OLD_ROOT, OLD_SWAP = "0f6eb4c1-5ef5-4e8c-a9dd-1ab6df3ed4ba", "7f8bb6a3-1b36-4a5b-8c53-6d6f7d1a9f10"
SOURCE = {
    "etc/fstab": (
        f"# / was on /dev/vda1 during installation\nUUID={OLD_ROOT} / ext4 errors=remount-ro 0 1\n"
        f"UUID={OLD_SWAP} none swap sw 0 0\n/dev/vda7 /var/cache/old xfs defaults 0 2\n"
        "tmpfs /mnt tmpfs size=10% 0 0\n"
    ),
    "etc/crypttab": "old_crypt /dev/vda7 none luks\n",
    "etc/initramfs-tools/conf.d/resume": f"RESUME=UUID={OLD_SWAP}\n",
    "etc/initramfs-tools/conf.d/driver-policy": "MODULES=dep\n",
    "etc/udev/rules.d/70-persistent-net.rules": 'SUBSYSTEM=="net", ATTR{address}=="52:54:00:aa:bb:cc"\n',
    "var/lib/dhcp/dhclient.leases": "lease { }\n",
    "boot/grub/device.map": "(hd0) /dev/vda\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
}
HOOKS = {
    "10-first.sh": '#!/bin/sh\necho "$BOOTD_NODE $BOOTD_MAC $BOOTD_FIRMWARE $BOOTD_ROOT_UUID" >/srv/hooked\n',
    "20-second": "#!/bin/sh\necho second of $(hostname) >>/srv/hooked\necho told by a hook\n",
    "readme.txt": "not a script\n",
}


@dataclass
class Clone:
    """A disk that was customised once."""

    made: Made
    root: Path
    facts: Facts
    result: Result
    lines: list[str]
    old_keys: dict[str, str]
    mounts: tuple[list[str], list[str]]  # before and after

    @property
    def disk(self) -> str:
        return self.made.disks[0]

    def text(self, name: str) -> str:
        return (self.root / name).read_text()

    def inside(self, command: str) -> str:
        """What a shell command says inside of the tree; its mounts are gone with it."""
        script = (
            'mount --bind /dev "$0/dev"; mount --bind /proc "$0/proc"; mount --bind /sys "$0/sys"; '
            'mount -t tmpfs tmpfs "$0/run"; exec chroot "$0" sh -c "$1"'
        )
        return run(*APART, "sh", "-ec", script, self.root, command).decode()

    def again(self, *steps: str, **changes: object) -> Result:
        """Do some of the steps once more."""
        if self.made.esp and not knows_vfat():
            shutil.rmtree(self.root / "boot/efi/EFI", ignore_errors=True)  # fusefat cannot replace a file
        facts = replace(self.facts, skip=frozenset(STEPS) - set(steps), **changes)  # type: ignore[arg-type]
        return customise(str(self.root), self.made, facts, self.lines.append)


def _clone(folder: Path, table: str, firmware: str) -> Iterator[Clone]:
    tree = debian_tree.build(DEFAULT)
    (folder / "hooks").mkdir()
    for name, text in HOOKS.items():
        (folder / "hooks" / name).write_text(text)
        (folder / "hooks" / name).chmod(0o644 if name.endswith("txt") else 0o755)
    with prepared(folder / "disk", table, folder / "root", tree) as made:
        root = folder / "root"
        for name, text in SOURCE.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        keys = {path.name: path.read_text() for path in (root / "etc/ssh").glob("ssh_host_*")}
        facts = Facts("node7", MAC, firmware, modules=(MODULE,), hooks=str(folder / "hooks"))
        lines: list[str] = []
        before = _mounts(root)
        result = customise(str(root), made, facts, lines.append)
        after = _mounts(root)
        assert result.is_done, "\n".join(lines[-30:])
        yield Clone(made, root, facts, result, lines, keys, (before, after))


def _mounts(root: Path) -> list[str]:
    """Below this tree: others on this machine mount too."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(root) in line]


@pytest.fixture(scope="module")
def bios(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    yield from _clone(tmp_path_factory.mktemp("bios"), "dos", "bios")


@pytest.fixture(scope="module")
def uefi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    yield from _clone(tmp_path_factory.mktemp("uefi"), "gpt", "uefi")


@pytest.fixture(params=["bios", "uefi"])
def clone(request: pytest.FixtureRequest) -> Clone:
    found: Clone = request.getfixturevalue(request.param)
    return found


def test_fstab_names_what_is_on_the_disk(clone: Clone) -> None:
    """blkid says which UUID each device has, util-linux which device each line means."""
    verified = clone.inside("findmnt --verify || :")
    wrong = [line for line in verified.splitlines() if "[E]" in line]
    # This kernel may lack a file system that the node's has.
    assert [line for line in wrong if "unsupported by the current kernel" not in line] == []
    said = run("findmnt", "--fstab", "--tab-file", clone.root / "etc/fstab", "--json", "-o", "SOURCE,TARGET,FSTYPE")
    rows = [(row["source"], row["target"], row["fstype"]) for row in json.loads(said)["filesystems"]]
    for one in clone.made.filesystems:
        uuid = run("blkid", "--probe", "-o", "value", "-s", "UUID", one.device).decode().strip()
        assert (f"UUID={uuid}", one.mount or "none", one.kind) in rows
    assert len(rows) == len(clone.made.filesystems) + 1  # and the tmpfs
    assert OLD_ROOT not in clone.text("etc/fstab")
    assert "it is not a file system of its own on this node: /dev/vda7" in clone.text("etc/fstab")
    assert clone.text("etc/crypttab").startswith("# bootd: its device is not on this node: old_crypt")


def test_it_is_another_machine_than_its_source(clone: Clone) -> None:
    assert clone.text("etc/hostname") == "node7\n"
    assert "127.0.1.1\tnode7.example.org\tnode7" in clone.text("etc/hosts").splitlines()
    assert clone.text("etc/machine-id") == ""
    assert (clone.root / "var/lib/dbus/machine-id").readlink() == Path("/etc/machine-id")
    keys = {path.name: path.read_text() for path in (clone.root / "etc/ssh").glob("ssh_host_*")}
    assert sorted(keys) == sorted(clone.old_keys)
    assert not set(keys.values()) & set(clone.old_keys.values())
    for name in (name for name in keys if name.endswith("_key")):
        assert (clone.root / "etc/ssh" / name).stat().st_mode & 0o777 == 0o600
        public = run("ssh-keygen", "-y", "-f", clone.root / "etc/ssh" / name).split()[:2]
        assert public == keys[f"{name}.pub"].encode().split()[:2]
        assert keys[f"{name}.pub"].endswith("root@node7\n")
    for name in (
        "etc/udev/rules.d/70-persistent-net.rules",
        "var/lib/dhcp/dhclient.leases",
        "boot/grub/device.map",
    ):
        assert not (clone.root / name).exists()


def test_the_initramfs_is_for_this_hardware(clone: Clone) -> None:
    (kernel,) = (path.name for path in (clone.root / "lib/modules").iterdir())
    listed = clone.inside(f"lsinitramfs /boot/initrd.img-{kernel}")
    resume = clone.inside(
        f"unmkinitramfs /boot/initrd.img-{kernel} /run/x && find /run/x -path '*conf/conf.d/*' -exec cat {{}} +"
    )
    old = debian_tree.build(DEFAULT) / f"boot/initrd.img-{kernel}"
    assert old.read_bytes() != (clone.root / f"boot/initrd.img-{kernel}").read_bytes()
    assert f"/{MODULE}.ko" in listed
    # MODULES=dep of the source would have left these out: they are for other disks than a loop device.
    for module in ("ahci", "nvme", "virtio_blk", "megaraid_sas"):
        assert f"/{module}.ko" in listed, module
    swap = next(one.uuid for one in clone.made.filesystems if one.kind == "swap")
    assert f"RESUME=UUID={swap}" in resume.splitlines()


def test_grubs_menu_starts_this_root(clone: Clone) -> None:
    menu = clone.root / "boot/grub/grub.cfg"
    run("grub-script-check", menu)
    root = next(one.uuid for one in clone.made.filesystems if one.mount == "/")
    kernels = [line.split() for line in menu.read_text().splitlines() if re.match(r"\s*linux\s", line)]
    assert kernels
    assert all(f"root=UUID={root}" in words for words in kernels)
    assert set(re.findall(r"search --no-floppy --fs-uuid --set=root (\S+)", menu.read_text())) == {root}


def test_bios_finds_a_boot_sector_and_its_core(bios: Clone) -> None:
    """The images are those of Debian's package; only fields that grub-bios-setup patches differ."""
    with Path(bios.disk).open("rb") as stream:
        sectors = stream.read(1 << 20)
    boot = (bios.root / "usr/lib/grub/i386-pc/boot.img").read_bytes()
    diskboot = (bios.root / "usr/lib/grub/i386-pc/diskboot.img").read_bytes()
    assert sectors[0x68:0x1B8] == boot[0x68:0x1B8]
    assert b"GRUB" in sectors[:0x1B8]
    assert sectors[510:512] == b"\x55\xaa"
    assert sectors[512 : 512 + 0x100] == diskboot[:0x100]
    assert any(sectors[4096:16384])
    table = json.loads(run("sfdisk", "--json", bios.disk))["partitiontable"]["partitions"]
    assert [bool(entry.get("bootable")) for entry in table] == [False, True]
    assert len(table) == len(bios.made.filesystems)


def test_firmware_finds_a_loader_without_an_entry(uefi: Clone) -> None:
    """Read by mtools, another program than that which wrote the FAT."""
    os.sync()
    for name in ("EFI/BOOT/BOOTX64.EFI", "EFI/debian/grubx64.efi"):
        loader = run("mtype", "-i", uefi.made.esp, f"::/{name}")
        assert loader[:2] == b"MZ"
        header = int.from_bytes(loader[0x3C:0x40], "little")
        assert loader[header : header + 6] == b"PE\0\0\x64\x86"
        assert int.from_bytes(loader[header + 24 + 68 : header + 24 + 70], "little") == 10  # EFI application


def test_hooks_run_in_order_inside_of_the_tree(clone: Clone) -> None:
    root = next(one.uuid for one in clone.made.filesystems if one.mount == "/")
    assert clone.text("srv/hooked") == f"node7 {MAC} {clone.facts.firmware} {root}\nsecond of node7\n"
    assert "20-second: told by a hook" in clone.lines
    assert not Path("/srv/hooked").exists()


def test_no_mount_stays_behind(clone: Clone) -> None:
    assert clone.mounts[0] == clone.mounts[1]
    assert len(clone.mounts[0]) == len(clone.made.mounted)


def test_a_second_time_changes_nothing(clone: Clone) -> None:
    """All but the initramfs, which is packed anew with new times in it."""
    state = _state(clone)
    result = clone.again(*(step for step in STEPS if step not in ("initramfs", "hooks")))
    assert result.is_done, result.failure
    assert {outcome.step: outcome.changed for outcome in result.outcomes if outcome.changed} == {}
    assert _state(clone) == state


def _state(clone: Clone) -> dict[str, bytes]:
    """Settings, keys, menu, and what lies before the first partition."""
    found = {}
    for top in ("etc", "boot/grub", "var/lib/bootd", "var/lib/dbus"):
        for path in sorted((clone.root / top).rglob("*")):
            if path.is_file():
                found[str(path)] = path.read_bytes()
            elif path.is_symlink():
                found[str(path)] = os.fsencode(path.readlink())
    # grub-install keeps its variables' file as it is; these carry the time at which they were written.
    with Path(clone.disk).open("rb") as stream:
        found["gap"] = stream.read(1 << 20)
    return found


def test_a_hook_that_fails_fails_the_node(clone: Clone, tmp_path: Path) -> None:
    script = tmp_path / "50-wrong"
    script.write_text("#!/bin/sh\necho no such licence >&2\nexit 3\n")
    script.chmod(0o755)
    result = clone.again("hooks", hooks=str(tmp_path))
    assert result.failure == "hooks: 50-wrong failed (3): no such licence"


def test_what_others_unmount_meanwhile_is_free_at_once(bios: Clone, tmp_path: Path) -> None:
    """As where systemd made every mount shared."""
    hook, folder, begun = tmp_path / "hooks/50-waits", tmp_path / "others", bios.root / "srv/begun"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\ntouch /srv/begun\nfor i in $(seq 99); do [ -e /srv/go ] && exit; sleep 0.3; done\n")
    hook.chmod(0o755)
    file = tmp_path / "disk"
    with file.open("wb") as stream:
        stream.truncate(16 << 20)
    run("mkfs.ext4", "-q", "-F", file)
    with ExitStack() as stack:
        device = stack.enter_context(loop(file))
        stack.enter_context(mounted("tmpfs", "tmpfs", folder))
        run("mount", "--make-shared", folder)
        worker = stack.enter_context(ThreadPoolExecutor())
        with mounted("ext4", device, folder / "mount"):
            running = worker.submit(bios.again, "hooks", hooks=str(hook.parent))
            until(begun.exists, 20, "the hook runs")
        try:
            run("mount", "-o", "ro,noload", device, folder / "mount")  # busy while anybody still has it
            run("umount", folder / "mount")
        finally:
            (bios.root / "srv/go").touch()
        assert running.result().is_done
    begun.unlink()
    (bios.root / "srv/go").unlink()


def test_a_hook_that_hangs_is_ended_with_all_that_it_started(
    bios: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "50-hangs"
    marker = f"98765.{os.getpid()}"
    script.write_text(f"#!/bin/sh\nsetsid sleep {marker} >/dev/null 2>&1 &\nsleep {marker}\n")
    script.chmod(0o755)
    monkeypatch.setattr(hooks, "SECONDS", 1.0)
    result = bios.again("hooks", hooks=str(tmp_path))
    assert result.failure == "hooks: 50-hangs did not end within 1 seconds"
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _says(path, marker)]
    assert left == []
    assert _mounts(bios.root) == bios.mounts[0]


def _says(path: Path, words: str) -> bool:
    try:
        return words.encode() in path.read_bytes() and b"sleep" in path.read_bytes()
    except OSError:
        return False


def test_a_module_that_no_kernel_has_fails_the_node(bios: Clone) -> None:
    result = bios.again("initramfs", modules=("piix_of_another_time",))
    assert re.fullmatch(r"initramfs: kernel \S+ of the tree has no module piix_of_another_time", result.failure)


def test_a_disk_that_holds_nothing_of_it_gets_no_boot_loader(bios: Clone, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(4 << 20))
    with disk(other) as device:
        made = replace(bios.made, disks=(bios.disk, device))
        result = customise(str(bios.root), made, bios.facts, bios.lines.append)
        assert result.failure == (
            f"start: {device} holds nothing that was made here: no boot loader is written to it"
        )
        os.sync()
    assert other.read_bytes() == bytes(4 << 20)


def test_uefi_without_a_place_for_it_is_refused(bios: Clone) -> None:
    result = bios.again("bootloader", firmware="uefi")
    assert "mounts no EFI system partition: add one with the mount point /boot/efi" in result.failure


@pytest.fixture
def own_grub(monkeypatch: pytest.MonkeyPatch) -> None:
    """grub-install as stage2 has it: Debian's, beside the packages that this machine has for its own loaders."""
    folder = unpack(["grub2-common"], Cache(DEFAULT)).resolve() / "usr/sbin"
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_a_tree_without_the_firmwares_grub_gets_stage2s(
    request: pytest.FixtureRequest, own_grub: None, firmware: str
) -> None:
    found: Clone = request.getfixturevalue(firmware)
    target = {"bios": "i386-pc", "uefi": "x86_64-efi"}[firmware]
    parts = [found.root / "usr/lib/grub" / target, found.root / "boot/grub" / target]
    shutil.move(parts[0], found.root / "srv/taken-away")
    shutil.rmtree(parts[1])
    try:
        result = found.again("bootloader")
    finally:
        shutil.move(found.root / "srv/taken-away", parts[0])
    assert result.is_done, result.failure
    assert f"customise: the tree has no GRUB for {target}: stage2's own does it" in found.lines
    assert (parts[1] / "normal.mod").is_file()
    if firmware == "uefi":
        test_firmware_finds_a_loader_without_an_entry(found)
    else:
        test_bios_finds_a_boot_sector_and_its_core(found)


def test_stage2s_grub_follows_no_link_out_of_the_tree(uefi: Clone, own_grub: None, tmp_path: Path) -> None:
    folder = uefi.root / "boot/grub"
    modules = uefi.root / "usr/lib/grub/x86_64-efi"
    shutil.move(modules, uefi.root / "srv/taken-away")
    shutil.move(folder, uefi.root / "srv/grub")
    folder.symlink_to(tmp_path)
    try:
        result = uefi.again("bootloader")
    finally:
        folder.unlink()
        shutil.move(uefi.root / "srv/grub", folder)
        shutil.move(uefi.root / "srv/taken-away", modules)
    assert not result.is_done
    assert list(tmp_path.iterdir()) == []


def test_a_tree_without_any_grub_says_what_to_do(bios: Clone) -> None:
    program = bios.root / "usr/sbin/grub-mkconfig"
    program.rename(f"{program}.away")
    try:
        (bios.root / "etc/lilo.conf").write_text("boot=/dev/hda\n")
        result = bios.again("bootloader")
        unwanted = bios.again("bootloader", bootloader="none")
    finally:
        (bios.root / "etc/lilo.conf").unlink()
        Path(f"{program}.away").rename(program)
    assert "it boots with LILO, which is not supported; install grub2-common and grub-pc-bin" in result.failure
    assert unwanted.is_done


def test_a_menu_for_another_root_is_never_called_good(bios: Clone) -> None:
    """As grub-mkconfig does it when an old root is written into its settings for good."""
    settings = bios.root / "etc/default/grub"
    text = settings.read_text()
    settings.write_text(f"{text}GRUB_DEVICE=x\nexport GRUB_DEVICE_UUID={OLD_ROOT}\n")
    script = bios.root / "etc/grub.d/09_wrong"
    script.write_text(f"#!/bin/sh\necho 'menuentry x {{\n linux /boot/vmlinuz ro root=UUID={OLD_ROOT} quiet\n}}'\n")
    script.chmod(0o755)
    try:
        result = bios.again("bootloader")
    finally:
        script.unlink()
        settings.write_text(text)
    assert f"bootloader: /boot/grub/grub.cfg names the root {OLD_ROOT}" in result.failure


def test_dracut_rebuilds_it_where_it_is_dracuts(bios: Clone) -> None:
    """Debian's dracut, put into the tree in the place of initramfs-tools."""
    files = unpack(["dracut-core", "cpio"], Cache(DEFAULT)).resolve()
    archive = subprocess.run(["tar", "-C", str(files), "-c", "."], capture_output=True, check=True).stdout
    command = ["tar", "-C", str(bios.root), "-x", "--keep-directory-symlink"]
    subprocess.run(command, input=archive, check=True)
    program = bios.root / "usr/sbin/mkinitramfs"
    program.rename(f"{program}.away")
    (kernel,) = (path.name for path in (bios.root / "lib/modules").iterdir())
    image = bios.root / f"boot/initrd.img-{kernel}"
    before = image.stat().st_ino, image.stat().st_mtime_ns
    try:
        result = bios.again("initramfs")
    finally:
        Path(f"{program}.away").rename(program)
    assert result.is_done, result.failure
    assert (image.stat().st_ino, image.stat().st_mtime_ns) != before
    listed = bios.inside(f"lsinitrd /boot/initrd.img-{kernel}")
    for module in (MODULE, "ahci", "nvme", "virtio_blk", "megaraid_sas"):
        assert f"/{module}.ko" in listed, module


def test_the_source_tree_is_as_it_was(bios: Clone) -> None:
    """What was done went into the clone alone."""
    tree = debian_tree.build(DEFAULT)
    assert (tree / "etc/hostname").read_text() == f"{debian_tree.HOST}\n"
    assert subprocess.run(["findmnt", "--submounts", str(tree)], capture_output=True, check=False).stdout == b""
