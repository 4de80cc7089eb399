"""The kernel command line: the seeds' lines word for word, bootd's words, and what is refused by name."""

import pytest

from bootd.netboot.labels import BUILT_IN, Label, LabelKind
from stage1.cmdline import CommandLineError, StaticNetwork, parse

OURS = "bootd.server=10.0.0.1:7467 bootd.node=52:54:00:aa:bb:cc bootd.token=0123abcd BOOTIF=01-52-54-00-aa-bb-cc"
MAC = "52:54:00:aa:bb:cc"

# The APPEND lines of the older tools' documents, with their line breaks taken out, and what they ask for:
# method, work, rescue, interface, dolly_timeout, server, directory.
SEEDS = {
    "initrd=images/all.rdz ramdisk_size=64000 vga=788 "
    "automatic=method:ka,interface:eth0,network:dhcp root=/dev/ram3 rw rescue kamethod": (
        *("ka", "ka", True, "eth0", None, ""),
    ),
    "initrd=images/all.rdz ramdisk_size=64000 vga=788 "
    "automatic=method:dolly,dolly_timeout:100,interface:eth0,network:dhcp rescue dollymethod": (
        *("dolly", "dolly", True, "eth0", 100, ""),
    ),
    "initrd=images/all.rdz ramdisk_size=64000 vga=788 "
    "automatic=method:nfs,interface:eth0,network:dhcp,server:10.0.1.253,directory:/cs4 root=/dev/ram3 rescue rw": (
        *("nfs", "", True, "eth0", None, "/cs4"),
    ),
    "initrd=images/all.rdz ramdisk_size=64000 vga=788 "
    "automatic=method:http,interface:auto,network:dhcp,server:10.0.1.253,directory:/cs4 root=/dev/ram3 rescue rw": (
        *("http", "", True, "auto", None, "/cs4"),
    ),
    "initrd=images/all.rdz ramdisk_size=64000 vga=788 "
    "automatic=method:dolly,interface:eth0,network:dhcp root=/dev/ram3 rw rescue kamethod": (
        *("dolly", "ka", True, "eth0", None, ""),
    ),
    "initrd=images/all.rdz ramdisk_size=64000 vga=788 "
    "automatic=method:ka,interface:eth0,network:dhcp root=/dev/ram3 rw rescue dollymethod": (
        *("ka", "dolly", True, "eth0", None, ""),
    ),
    "initrd=images/all.rdz ramdisk_size=64000 vga=788 "
    "automatic=method:dolly,interface:eth0,network:dhcp root=/dev/ram3 rw rescue dollyCmethod": (
        *("dolly", "dollyC", True, "eth0", None, ""),
    ),
    "initrd=images/all.rdz ramdisk_size=64000 vga=788 "
    "automatic=method:ka,interface:eth0,network:dhcp root=/dev/ram3 rw kamethod": (
        *("ka", "ka", False, "eth0", None, ""),
    ),
}


@pytest.mark.parametrize(("line", "wanted"), SEEDS.items(), ids=range(len(SEEDS)))
def test_lines_of_the_seeds(line: str, wanted: tuple[object, ...]) -> None:
    options = parse(f"{line} {OURS}\n")
    found = (options.method, options.work, options.rescue, options.interface, options.dolly_timeout)
    assert (*found, options.directory) == wanted
    assert options.static is None
    assert (options.server_host, options.server_port, options.node) == ("10.0.0.1", 7467, MAC)


STAGES = [label for label in BUILT_IN if label.kind is LabelKind.STAGE]
WORK = {"kamethod": "ka", "dolly": "dolly", "dollyC": "dollyC", "http": "ka", "rescue": ""}


@pytest.mark.parametrize("label", STAGES, ids=[label.name for label in STAGES])
def test_built_in_labels_are_understood(label: Label) -> None:
    options = parse(f"{label.append} {OURS} console=ttyS0,115200 quiet")
    assert options.rescue
    assert options.work == WORK[label.name]


def test_session_and_token() -> None:
    options = parse(f"automatic=method:ka kaopt=room-3.b kamethod {OURS}")
    assert (options.session, options.token, options.boot_interface) == ("room-3.b", "0123abcd", MAC)


def test_last_word_counts() -> None:
    assert parse(f"kaopt=one kaopt=two {OURS}").session == "two"


def test_seed_server_without_ours() -> None:
    options = parse("automatic=method:http,server:10.0.1.253 BOOTIF=01-52-54-00-AA-BB-CC rescue")
    assert (options.server_host, options.server_port, options.node) == ("10.0.1.253", 7467, MAC)


@pytest.mark.parametrize(
    "text", ["BOOTIF=01-52-54-00-aa-bb-cc", "BOOTIF=52:54:00:AA:BB:CC", "BOOTIF=52-54-00-aa-bb-cc"]
)
def test_boot_interface_in_every_spelling(text: str) -> None:
    assert parse(f"bootd.server=h:1 {text}").boot_interface == MAC


@pytest.mark.parametrize(
    ("words", "static"),
    [
        ("network:10.0.0.5/24", StaticNetwork("10.0.0.5", 24)),
        ("network:10.0.0.5/255.255.254.0,gateway:10.0.0.1", StaticNetwork("10.0.0.5", 23, "10.0.0.1")),
        ("network:static,ip:10.1.2.3,netmask:255.255.0.0", StaticNetwork("10.1.2.3", 16)),
    ],
)
def test_fixed_addresses(words: str, static: StaticNetwork) -> None:
    assert parse(f"automatic=method:ka,{words} {OURS}").static == static


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("automatic=method:floppy", "method:floppy"),
        ("automatic=metod:ka", "metod:ka"),
        ("automatic=method", "method"),
        ("automatic=method:ka,,", "expected key:value"),
        ("automatic=method:ka,dolly_timeout:soon", "dolly_timeout:soon"),
        ("automatic=method:ka,dolly_timeout:0", "dolly_timeout:0"),
        ("automatic=method:ka,dolly_timeout:²", "dolly_timeout:²"),
        ("automatic=method:ka,interface:../../etc", "interface:../../etc"),
        ("automatic=method:ka,network:10.0.0.256/24", "network:10.0.0.256/24"),
        ("automatic=method:ka,network:10.0.0.5", "netmask"),
        ("automatic=method:ka,network:10.0.0.5/255.0.255.0", "255.0.255.0"),
        ("automatic=method:ka,network:static", "network:static"),
        ("automatic=method:ka,network:10.0.0.5/8,gateway:here", "gateway:here"),
        ("kamethod dollymethod", "kamethod and dollymethod"),
        ("kaopt=../../x", "kaopt=../../x"),
        ("kaopt=" + "x" * 65, "kaopt="),
        ("bootd.node=1", "bootd.node=1"),
        ("bootd.token=xyz", "bootd.token=xyz"),
        ("bootd.server=host:0", "bootd.server=host:0"),
        ("bootd.server=host:70000", "bootd.server=host:70000"),
        ("bootd.server=a_b:1", "bootd.server=a_b:1"),
        ("BOOTIF=01-02", "BOOTIF=01-02"),
        ("automatic=method:nfs", "server:HOST and directory:/EXPORT"),
        ("automatic=method:nfs,server:h", "server:HOST and directory:/EXPORT"),
        ("automatic=method:http,server:h,directory:../x", "directory:../x"),
        ("automatic=method:http,server:h,directory:/a/../b", "directory:/a/../b"),
        ("automatic=method:http,server:h:x,directory:/a", "server:h:x"),
        ("automatic=method:http,server:h:70000,directory:/a", "server:h:70000"),
        ("automatic=method:ka,give_up:never", "expected park or reboot"),
        ("bootd.system=../x", "bootd.system=../x"),
        ("init=sbin/init", "init=sbin/init"),
        ("x" * 5000, "5"),
    ],
)
def test_bad_words_are_named(line: str, named: str) -> None:
    with pytest.raises(CommandLineError) as caught:
        parse(f"{OURS} {line}")
    assert named in str(caught.value)


def test_missing_words_are_named() -> None:
    with pytest.raises(CommandLineError, match=r"bootd\.server= is missing"):
        parse(f"bootd.node={MAC}")
    with pytest.raises(CommandLineError, match=r"bootd\.node="):
        parse("bootd.server=h:1 kamethod")


def test_stage2_from_another_server() -> None:
    other = parse(f"automatic=method:http,server:10.0.1.253:8080,directory:/cs4 {OURS}")
    assert other.is_elsewhere
    assert (other.stage_server, other.directory, other.server_host) == ("10.0.1.253:8080", "/cs4", "10.0.0.1")
    assert not parse(f"automatic=method:http,server:10.0.1.253 {OURS}").is_elsewhere, "bootd itself, as before"
    assert not parse(f"automatic=method:http {OURS}").is_elsewhere


def test_system_and_what_is_done_without_one() -> None:
    options = parse(f"automatic=method:ka,give_up:reboot bootd.system=mini init=/bin/start {OURS}")
    assert (options.system, options.init, options.gives_up_by_reboot) == ("mini", "/bin/start", True)
    plain = parse(f"automatic=method:ka {OURS}")
    assert (plain.system, plain.init, plain.gives_up_by_reboot) == ("", "/sbin/init", False)
