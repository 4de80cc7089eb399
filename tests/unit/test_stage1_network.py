"""Which interface, and what udhcpc's script left behind."""

import subprocess
from pathlib import Path

import pytest

from stage1.cmdline import parse
from stage1.network import Interface, Lease, NetworkError, choose_interface, parse_lease

OURS = "bootd.server=10.0.0.1:7467 bootd.node=52:54:00:00:00:02"
PRESENT = {"eth0": "52:54:00:00:00:01", "eth1": "52:54:00:00:00:02", "eth2": "52:54:00:00:00:03"}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("automatic=interface:auto BOOTIF=01-52-54-00-00-00-03", "eth2"),  # the card that booted
        ("", "eth1"),  # the node's own MAC
        ("automatic=interface:eth0", "eth0"),  # the label insists
    ],
)
def test_choice(words: str, name: str) -> None:
    assert choose_interface(parse(f"{OURS} {words}"), PRESENT) == Interface(name, PRESENT[name])


def test_no_other_card_is_taken_instead() -> None:
    assert choose_interface(parse(f"{OURS} BOOTIF=01-52-54-00-00-00-09"), PRESENT) is None
    assert choose_interface(parse(f"{OURS} automatic=interface:eth7"), PRESENT) is None


def test_lease_script_writes_what_is_parsed(tmp_path: Path) -> None:
    script = (Path(__file__).parents[2] / "stage1/lease.sh").read_text().replace("/run/bootd", str(tmp_path))
    environment = {
        "PATH": "/usr/bin:/bin",
        "ip": "192.0.2.7",
        "mask": "25",
        "router": "192.0.2.1 192.0.2.2",
        "dns": "192.0.2.3",
        "domain": "room.example",
    }
    subprocess.run(["sh", "-s", "bound"], input=script.encode(), env=environment, check=True)
    lease = parse_lease("eth1", (tmp_path / "lease").read_text())
    wanted = Lease(
        "eth1", "192.0.2.7", 25, ("192.0.2.1", "192.0.2.2"), ("192.0.2.3",), "room.example", dynamic=True
    )
    assert lease == wanted
    subprocess.run(["sh", "-s", "deconfig"], input=script.encode(), env={"PATH": "/usr/bin:/bin"}, check=True)
    assert parse_lease("eth1", (tmp_path / "lease").read_text()) == wanted


@pytest.mark.parametrize("text", ["", "ip=\nmask=24", "ip=10.0.0.1\nmask=x", "ip=10.0.0.1\nmask=33"])
def test_lease_without_an_address(text: str) -> None:
    with pytest.raises(NetworkError, match="no usable address"):
        parse_lease("eth0", text)
