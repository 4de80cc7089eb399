"""``bootd import``: the configuration of the ancestors' machines becomes settings that bootd takes."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from bootd import config
from bootd.cli.main import cli
from bootd.errors import Exit, OperatorError
from bootd.netboot.migrate import dhcpd_conf, pxe_conf
from bootd.netboot.migrate.imported import NotReadable

# The statements of the two files in CloneSys's manual, with the addresses of its example.
PXE_CONF = """\
# which interface to use
interface=eth0
default_address=10.0.1.42
multicast_address=224.0.1.2
mtftp_address=10.0.1.42
mtftp_client_port=1758
mtftp_server_port=1759
listen_port=4011
use_multicast=1
use_broadcast=0
prompt=Press F8 to view menu ...
prompt_timeout=2
service=X86PC,0,2,linux,Mandriva Linux x86
service=IA64PC,0,2,linux,Mandriva Linux IA64
service=X86PC,0,0,local,Local boot
tftpdbase=/
domain=guibland.com
"""
DHCPD_CONF = """\
ddns-update-style none;
allow booting;
allow bootp;
authoritative;
option space PXE;
option PXE.mtftp-ip code 1 = ip-address;
option PXE.discovery-control code 6 = unsigned integer 8;
option space pxelinux;
option pxelinux.magic code 208 = string;
option pxelinux.reboottime code 211 = unsigned integer 32;
site-option-space "pxelinux";
option pxelinux.magic f1:00:74:7e;
option pxelinux.reboottime 30;
class "Etherboot" {
match if substring (option vendor-class-identifier, 0, 13) = "Etherboot-5.0";
filename "/etherboot/nbgrub";
option vendor-encapsulated-options 3c:09:45:74:68:65:72:62:6f:6f:74:ff;
next-server 10.0.1.42;
}
class "PXE" {
match if substring(option vendor-class-identifier, 0, 9) = "PXEClient";
filename "/X86PC/linux/linux.0";
vendor-option-space PXE;
option PXE.mtftp-ip 0.0.0.0;
next-server 10.0.1.42;
}
host node20 {
    hardware ethernet 00:40:CA:8C:B6:E9;
    fixed-address 10.0.1.20;
}
subnet 10.0.1.0 netmask 255.255.255.0 {
  option subnet-mask 255.255.255.0;
  option routers 10.0.1.253;
  default-lease-time 288000;
  max-lease-time 864000;
  option domain-name "guibland.com";
  option domain-name-servers  10.0.1.253;
  next-server 10.0.1.42;
  pool {
    range 10.0.1.110 10.0.1.120;
  }
}
"""


def imported(kind: str, text: str, tmp_path: Path) -> tuple[dict[str, Any], config.Settings, str]:
    path = tmp_path / kind
    path.write_text(text)
    done = CliRunner().invoke(cli, ["import", kind, str(path)])
    assert done.exit_code == 0, (done.output, done.exception)
    return tomllib.loads(done.stdout), config.parse(done.stdout), done.stdout


def test_pxe_conf_of_the_manual(tmp_path: Path) -> None:
    value, settings, text = imported("pxe.conf", PXE_CONF, tmp_path)
    assert value == {
        "server": {"interface": "eth0", "address": "10.0.1.42"},
        "menu": {
            "multicast": "224.0.1.2",
            "broadcast": False,
            "prompt": "Press F8 to view menu ...",
            "seconds": 2,
            "item": [
                {"title": "Mandriva Linux x86", "families": ["bios"]},
                {"title": "Local boot", "families": ["bios"], "local": True},
            ],
        },
    }
    assert [item.local for item in settings.menu.parsed().items] == [False, True]
    for line in (
        "#   5: mtftp_address=10.0.1.42 -> multicast TFTP is retired",
        "#   14: service=IA64PC,0,2,linux,Mandriva Linux IA64 -> nothing boots IA64PC any more",
        "#   12: prompt_timeout=2 -> [menu] seconds",
        "#   17: domain=guibland.com -> ",
    ):
        assert line in text
    assert 'add  file = "X86PC/linux/linux.{layer}"  and  layers = 2' in text
    numbers = [int(line[4:].split(":")[0]) for line in text.splitlines() if line.startswith("#   ")]
    assert sorted(numbers) == list(range(2, 18))  # a word on every line


def test_dhcpd_conf_of_the_manual(tmp_path: Path) -> None:
    value, settings, text = imported("dhcpd.conf", DHCPD_CONF, tmp_path)
    assert value == {
        "dhcp": {
            "authoritative": True,
            "proxy": False,
            "pool": [
                {
                    "subnet": "10.0.1.0/24",
                    "range": "10.0.1.110-10.0.1.120",
                    "gateway": "10.0.1.253",
                    "dns": "10.0.1.253",
                    "domain": "guibland.com",
                    "lease_seconds": 288000,
                }
            ],
        },
        "pxe": {"reboot_seconds": 30},
        "node": [{"mac": "00:40:ca:8c:b6:e9", "name": "node20", "address": "10.0.1.20"}],
    }
    assert settings.dhcp.pool[0].parsed().size == 11
    assert "#   14: class Etherboot { ... } -> bootd answers Etherboot by itself" in text
    assert "#   22: filename /X86PC/linux/linux.0 -> bootd starts its own loader" in text
    assert "#   35: max-lease-time 864000 -> " in text


def test_placeholders_of_the_manual_are_named(tmp_path: Path) -> None:
    """The manual's template has NET and IPADDR_... where an address belongs."""
    template = DHCPD_CONF.replace("10.0.1.0", "NET.0").replace("10.0.1.253", "IPADDR_GW")
    value, _, text = imported("dhcpd.conf", template, tmp_path)
    assert "pool" not in value["dhcp"]
    assert "NET.0 netmask 255.255.255.0 is no subnet: write your addresses in its place" in text
    value, _, text = imported(
        "pxe.conf", PXE_CONF.replace("default_address=10.0.1.42", "default_address=IPADDR_PXE"), tmp_path
    )
    assert "address" not in value["server"]
    assert "write yours as [server] address" in text


def test_what_is_inherited_and_shared(tmp_path: Path) -> None:
    text = """
    option domain-name "lab"; default-lease-time 10;
    shared-network room {
      subnet 192.0.2.0 netmask 255.255.255.128 {
        option routers 192.0.2.1, 192.0.2.2;
        range 192.0.2.10 192.0.2.20; range dynamic-bootp 192.0.2.30;
      }
      subnet 192.0.2.128 netmask 255.255.255.128 { range 192.0.2.1 192.0.2.9; default-lease-time 600; }
    }
    group {
      option domain-name "other";
      host a { hardware ethernet 0:1:2:3:4:5; }
      host a { hardware ethernet 0:1:2:3:4:6; }
    }
    host b.lab.example { hardware ethernet 00:01:02:03:04:07; fixed-address b.example; }
    host bad_name { hardware ethernet 00:01:02:03:04:08; }
    if option x = "}" { deny booting; }
    """
    value, _, printed = imported("dhcpd.conf", text, tmp_path)
    first, second = value["dhcp"]["pool"]
    assert first["range"] == ["192.0.2.10-192.0.2.20", "192.0.2.30-192.0.2.30"]
    assert first["gateway"] == ["192.0.2.1", "192.0.2.2"]
    assert (first["domain"], first["lease_seconds"]) == ("lab", 60)
    assert "range" not in second
    assert (second["lease_seconds"], second["domain"]) == (600, "lab")
    assert [node["name"] for node in value["node"]] == ["a", "b"]
    assert "not addresses of this subnet" in printed
    assert "a is taken by line" in printed
    assert "'bad_name' is not a host name" in printed
    assert "bootd reserves one address, not a name" in printed


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "no statement"),
        ("subnet 10.0.0.0 netmask 255.0.0.0 {", "line 1: a { without its }"),
        ("}\n", "line 1: a } without its {"),
        ('option domain-name "x;\n', "line 1: a string without its end"),
        ("\n\nauthoritative", "line 3: a statement without its ;"),
        ("a {" * 40 + "}" * 40, "nested too deeply"),
    ],
)
def test_no_dhcpd_conf(text: str, wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    done = CliRunner().invoke(cli, ["import", "dhcpd.conf", str(path)])
    assert isinstance(done.exception, OperatorError)
    assert wrong in str(done.exception)
    assert done.exception.code is Exit.INPUT


def test_no_pxe_conf(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(DHCPD_CONF)
    done = CliRunner().invoke(cli, ["import", "pxe.conf", str(path)])
    assert isinstance(done.exception, OperatorError)
    missing = CliRunner().invoke(cli, ["import", "pxe.conf", str(tmp_path / "nosuch")])
    assert isinstance(missing.exception, OperatorError)
    assert missing.exception.code is Exit.INPUT


WORDS = st.sampled_from([
    *("subnet", "netmask", "host", "pool", "range", "option", "routers", "{", "}", ";", '"', "10.0.0.0", "\n", "#"),
    *("255.0.0.0", "class", "filename", "hardware", "ethernet", "fixed-address", "00:01:02:03:04:05", "=", ","),
    *("service", "X86PC,0,2,a,b", "prompt", "interface", "code", "default-lease-time", "99999999999999", "é", "\\"),
])  # fmt: skip


@bounded(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=60), st.sampled_from([" ", "", "="]), st.booleans())
def test_any_text_is_settings_or_is_refused(words: list[str], between: str, pxe: bool) -> None:
    """Whatever the file says, what is printed is TOML and nothing but `NotReadable` comes out."""
    reader = pxe_conf.read if pxe else dhcpd_conf.read
    try:
        found = reader(between.join(words), "file")
    except NotReadable:
        return
    tomllib.loads(found.to_toml())
