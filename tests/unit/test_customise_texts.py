"""Host name, network, boot settings: files as distributions write them, and what becomes of them."""

import pytest

from stage2.customise import boot_text, identity, network
from stage2.made import Array

MAC = "52:54:00:00:00:07"

# --- host name -----------------------------------------------------------------------------------------------

DEBIAN_HOSTS = """\
127.0.0.1\tlocalhost
127.0.1.1\tgolden.example.org\tgolden

# The following lines are desirable for IPv6 capable hosts
::1     localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
10.0.0.5 golden.example.org golden backup
"""
FEDORA_HOSTS = """\
# Loopback entries; do not change.
127.0.0.1   localhost localhost.localdomain golden golden.example.org
::1         localhost localhost.localdomain golden
"""


def test_debians_hosts_name_the_new_machine() -> None:
    fresh = identity.rewrite_hosts(DEBIAN_HOSTS, "node7", "golden")
    assert fresh == DEBIAN_HOSTS.replace(
        "127.0.1.1\tgolden.example.org\tgolden", "127.0.1.1\tnode7.example.org\tnode7"
    )
    assert identity.rewrite_hosts(fresh, "node7", "node7") == fresh


def test_the_old_name_goes_from_loopback_lines() -> None:
    fresh = identity.rewrite_hosts(FEDORA_HOSTS, "node7", "golden")
    assert fresh.splitlines() == [
        "# Loopback entries; do not change.",
        "127.0.0.1\tlocalhost\tlocalhost.localdomain",
        "127.0.1.1\tnode7.example.org\tnode7",
        "::1\tlocalhost\tlocalhost.localdomain",
    ]
    assert identity.rewrite_hosts(fresh, "node7.example.org", "node7") == fresh


@pytest.mark.parametrize(
    ("before", "name", "after"),
    [
        ("golden\n", "node7.lab.example", "node7\n"),
        ("", "node7", "node7\n"),
        ("# comment\ngolden.example.org\n", "node7.lab.example", "node7.lab.example\n"),
    ],
)
def test_a_host_name_is_as_long_as_the_old_one(before: str, name: str, after: str) -> None:
    assert identity.rewrite_hostname(before, name) == after
    assert identity.rewrite_hostname(after, name) == after


def test_an_empty_hosts_file_becomes_a_whole_one() -> None:
    assert identity.rewrite_hosts("", "node7", "") == "127.0.0.1\tlocalhost\n127.0.1.1\tnode7\n"


@pytest.mark.parametrize(
    "name", ["", "-a", "a b", "a\nb", "a..b", "x" * 64, "node;reboot", "näme", "a" * 250 + ".bcd"]
)
def test_what_is_no_host_name(name: str) -> None:
    assert not identity.is_host_name(name)


@pytest.mark.parametrize("name", ["node7", "NODE-7", "7", "a.b-c.d", "x" * 63])
def test_what_is_a_host_name(name: str) -> None:
    assert identity.is_host_name(name)


# --- network -------------------------------------------------------------------------------------------------

NETPLAN = """\
network:
  version: 2
  ethernets:
    lan:
      match:
        macaddress: "AA:BB:CC:DD:EE:01"
      set-name: lan
      addresses:
        - 10.0.0.5/24
"""
IFCFG = 'DEVICE=eth0\nHWADDR="AA:BB:CC:DD:EE:01"\nBOOTPROTO=dhcp\nONBOOT=yes\n'
KEYFILE = (
    "[connection]\nid=lan\ntype=ethernet\n\n[ethernet]\nmac-address=AA:BB:CC:DD:EE:01\n"
    "cloned-mac-address=AA:BB:CC:00:00:99\n\n[ipv4]\naddress1=10.0.0.5/24,10.0.0.1\nmethod=manual\n"
)
INTERFACES = (
    "auto lo\niface lo inet loopback\n    address 127.0.0.1\n\nauto eth0\niface eth0 inet static\n"
    "    address 10.0.0.5\n    netmask 255.255.255.0\n    hwaddress ether aa:bb:cc:00:00:99\n"
)
LINK = "[Match]\nPermanentMACAddress=aa:bb:cc:dd:ee:01\n\n[Link]\nName=lan\n"


def test_the_one_card_that_is_named_becomes_this_nodes() -> None:
    texts = [NETPLAN, IFCFG, KEYFILE, LINK]
    cards = network.cards_named(texts)
    assert cards == {"aa:bb:cc:dd:ee:01"}
    for text, line in zip(
        texts,
        [f'        macaddress: "{MAC}"', f'HWADDR="{MAC}"', f"mac-address={MAC}", f"PermanentMACAddress={MAC}"],
        strict=True,
    ):
        fresh = network.bind(text, MAC, cards)
        assert line in fresh.text.splitlines()
        assert "AA:BB" not in fresh.text
        assert network.bind(fresh.text, MAC, network.cards_named([fresh.text])).text == fresh.text


def test_an_address_that_is_imposed_on_a_card_goes_and_is_told() -> None:
    fresh = network.bind(INTERFACES, MAC, frozenset())
    assert fresh.text == INTERFACES.replace("    hwaddress ether aa:bb:cc:00:00:99\n", "")
    assert fresh.notes == (
        "no longer gives the card another address than its own",
        "gives every clone the address 10.0.0.5",
    )


@pytest.mark.parametrize("policy", ["random", "preserve", "stable", "permanent"])
def test_a_policy_about_addresses_stays(policy: str) -> None:
    text = f"[ethernet]\ncloned-mac-address={policy}\n"
    assert network.bind(text, MAC, frozenset()).text == text


def test_several_cards_stay_and_are_told() -> None:
    other = IFCFG.replace("EE:01", "EE:02").replace("eth0", "eth1")
    cards = network.cards_named([IFCFG, other])
    fresh = network.bind(IFCFG, MAC, cards)
    assert fresh.text == IFCFG
    assert fresh.notes == ("chooses among 2 cards by their addresses, which are not those of this node",)


@pytest.mark.parametrize(
    ("text", "addresses"), [(NETPLAN, ["10.0.0.5/24"]), (IFCFG, []), (KEYFILE, ["10.0.0.5/24"]), (LINK, [])]
)
def test_addresses_that_every_clone_would_have(text: str, addresses: list[str]) -> None:
    assert network.static_addresses(text) == addresses


def test_drivers_named_by_the_old_machine_go() -> None:
    """The lines that KA's gen_modprobe_conf wrote for its node (seeds), with what an administrator adds."""
    text = (
        "install scsi_hostadapter /sbin/modprobe aic7xxx; /bin/true\nalias eth0 tg3\nalias eth1 tg3\n"
        "options loop max_loop=64\nalias scsi_hostadapter1 ata_piix\nblacklist pcspkr\nalias net-pf-10 off\n"
    )
    fresh = network.without_aliases(text)
    assert fresh == "options loop max_loop=64\nblacklist pcspkr\nalias net-pf-10 off\n"
    assert network.without_aliases(fresh) == fresh


# --- boot ----------------------------------------------------------------------------------------------------

ROOT, SWAP = "UUID=11111111-2222-4333-8444-555555555555", "UUID=33333333-2222-4333-8444-555555555555"
DEFAULT_GRUB = """\
# If you change this file, run 'update-grub' afterwards to update
GRUB_DEFAULT=0
GRUB_CMDLINE_LINUX_DEFAULT="quiet splash resume=UUID=7f8bb6a3-1b36-4a5b-8c53-6d6f7d1a9f10"
GRUB_CMDLINE_LINUX='rd.luks.uuid=luks-5b1c0b7e rd.lvm.lv=fedora/root rhgb console=ttyS0,115200'
GRUB_CMDLINE_XEN=
#GRUB_CMDLINE_LINUX="old"
GRUB_DISABLE_LINUX_UUID=true
"""


def test_grubs_settings_name_this_nodes_disks() -> None:
    fresh = boot_text.rewrite_default_grub(DEFAULT_GRUB, ROOT, SWAP, {})
    assert fresh == DEFAULT_GRUB.replace("UUID=7f8bb6a3-1b36-4a5b-8c53-6d6f7d1a9f10", SWAP).replace(
        "rd.luks.uuid=luks-5b1c0b7e rd.lvm.lv=fedora/root ", ""
    )
    assert boot_text.rewrite_default_grub(fresh, ROOT, SWAP, {}) == fresh


@pytest.mark.parametrize(
    ("before", "swap", "after"),
    [
        ("root=/dev/sda1 ro quiet", SWAP, f"root={ROOT} ro quiet"),
        ("root=UUID=old ro resume=/dev/sda2 resume_offset=34816", "", f"root={ROOT} ro"),
        ("root=LABEL=x resume=none", SWAP, f"root={ROOT} resume=none"),
        ("root=/dev/nfs nfsroot=10.0.0.1:/srv", SWAP, f"root={ROOT} nfsroot=10.0.0.1:/srv"),
        ("crashkernel=256M  quiet", SWAP, "crashkernel=256M  quiet"),
        ("journal_dev=UUID=log quiet", SWAP, "journal_dev=UUID=new quiet"),
    ],
)
def test_command_lines(before: str, swap: str, after: str) -> None:
    assert boot_text.rewrite_command_line(before, ROOT, swap, {"UUID=log": "UUID=new"}) == after


def test_entries_of_the_boot_loader_specification() -> None:
    text = (
        "title Fedora Linux (6.2.9)\nversion 6.2.9\nlinux /vmlinuz-6.2.9\ninitrd /initramfs-6.2.9.img\n"
        "options root=UUID=2a8b1f0c-9f4f-4a6d-8d0c-6b2f0e1d7a55 ro rootflags=subvol=root rhgb quiet\n"
    )
    fresh = boot_text.rewrite_entry(text, ROOT, SWAP, {})
    assert fresh.splitlines()[:4] == text.splitlines()[:4]
    assert fresh.splitlines()[4] == f"options root={ROOT} ro rhgb quiet"


def test_a_block_is_replaced_and_not_repeated() -> None:
    text = "# List of modules\nloop\n"
    once = boot_text.with_block(text, ["e1000e", "ahci"])
    assert once == "# List of modules\nloop\n# bootd: begin\ne1000e\nahci\n# bootd: end\n"
    assert boot_text.with_block(once, ["e1000e", "ahci"]) == once
    assert boot_text.with_block(once, []) == text
    assert boot_text.with_block("loop", ["x"]).startswith("loop\n")


@pytest.mark.parametrize(
    ("text", "chosen"),
    [("# MODULES=dep\nMODULES=most\n", "most"), ('MODULES="dep"\n', "dep"), ("COMPRESS=zstd\n", "")],
)
def test_which_modules_an_initramfs_gets(text: str, chosen: str) -> None:
    assert boot_text.chosen_modules(text) == chosen


def test_modules_that_a_kernel_has() -> None:
    """Lines as depmod(8) writes them."""
    dependencies = (
        "kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko: kernel/drivers/ptp/ptp.ko\n"
        "kernel/drivers/ata/ahci.ko.xz: kernel/drivers/ata/libahci.ko.xz\nkernel/drivers/hid/hid-generic.ko.zst:\n"
    )
    built_in = "kernel/drivers/scsi/scsi_mod.ko\n"
    names = ["ahci", "scsi_mod", "hid_generic", "hid-generic", "bnx2"]
    assert boot_text.available_modules(names, dependencies, built_in) == (("ahci", "hid_generic"), ("bnx2",))


def test_mdadm_knows_the_arrays_that_were_made_and_no_other() -> None:
    text = (
        "# mdadm.conf\nHOMEHOST <system>\nMAILADDR root\nARRAY /dev/md0 metadata=1.2\n   UUID=aa:bb name=golden:0\n"
        "ARRAY <ignore> UUID=cc:dd\nCREATE owner=root\n"
    )
    array = Array(
        "/dev/md/root", "root", "0a1b2c3d:4e5f6071:8293a4b5:c6d7e8f9", "raid1", ("/dev/sda2", "/dev/sdb2")
    )
    fresh = boot_text.rewrite_mdadm(text, (array,))
    assert fresh == (
        "# mdadm.conf\nHOMEHOST <system>\nMAILADDR root\nCREATE owner=root\n# bootd: begin\n"
        "ARRAY /dev/md/root metadata=1.2 UUID=0a1b2c3d:4e5f6071:8293a4b5:c6d7e8f9\n# bootd: end\n"
    )
    assert boot_text.rewrite_mdadm(fresh, (array,)) == fresh
    assert "ARRAY" not in boot_text.rewrite_mdadm(fresh, ())


def test_dracut_starts_arrays_and_volumes_only_when_told() -> None:
    assert boot_text.dracut_setting((), is_assembled=False) == 'hostonly="no"\nhostonly_cmdline="no"\n'
    text = boot_text.dracut_setting(("ahci", "nvme"), is_assembled=True)
    assert 'add_drivers+=" ahci nvme "' in text.splitlines()
    assert 'kernel_cmdline+=" rd.auto=1 "' in text.splitlines()
