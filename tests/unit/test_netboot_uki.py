"""HTTP Boot with a unified kernel image: who is offered it, and the words that it asks for. Requests by scapy."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from bootd.drivers.tree import NotFound, Rendered, VirtualTree
from bootd.netboot import dhcp, offer
from bootd.netboot.labels import BUILT_IN
from bootd.netboot.offer import Ignore, Interface, NodePolicy, Offer
from bootd.netboot.render import RenderContext
from stage1.ask import inform, parse_answer

MAC = "52:54:00:12:34:56"
LABELS = {label.name: label for label in BUILT_IN}
FILES = frozenset({"ipxe.efi", "local.efi", "shimx64.efi", "grubx64.efi", "stage1/uki-x64.efi"})
INTERFACE = Interface("eth0", "10.9.0.2", 7467, artefacts=FILES)
WORDS = f"http://10.9.0.2:7467/boot/stage1/words?mac={MAC}"


def http_boot() -> dhcp.Message:
    """What OVMF's HTTP Boot sends first."""
    options = [
        ("message-type", "discover"),
        (93, struct.pack("!H", 16)),
        (60, b"HTTPClient:Arch:00016:UNDI:003001"),
    ]
    header = BOOTP(op=1, xid=7, flags=0x8000, chaddr=bytes.fromhex(MAC.replace(":", "")))
    return dhcp.parse(bytes(header / DHCP(options=[*options, "end"])))


def decide(policy: NodePolicy, interface: Interface = INTERFACE) -> Offer | Ignore:
    return offer.decide(http_boot(), policy, interface, 67, ("0.0.0.0", 68))


@pytest.mark.parametrize(("stage", "file"), [(True, "stage1/uki-x64.efi"), (False, "ipxe.efi")])
def test_the_kernel_image_is_for_nodes_that_boot_a_stage(stage: bool, file: str) -> None:
    answer = decide(NodePolicy(stage=stage))
    assert isinstance(answer, Offer)
    assert answer.file == f"http://10.9.0.2:7468/{file}"


@pytest.mark.parametrize(
    ("vendor", "file"), [("PXEClient", "local.efi"), ("HTTPClient", "http://10.9.0.2:7468/local.efi")]
)
def test_a_node_that_boots_its_disk_gets_the_starter_at_once(vendor: str, file: str) -> None:
    """Without iPXE in between, which would ask for an address again first."""
    request = http_boot()
    code = 16 if vendor == "HTTPClient" else 7
    options = {**request.options, 60: f"{vendor}:Arch:{code:05d}".encode(), 93: struct.pack("!H", code)}
    answers = [
        offer.decide(replace(request, options=options), policy, interface, 67, ("0.0.0.0", 68))
        for policy, interface in (
            (NodePolicy(stage=False, disk=True), INTERFACE),
            (NodePolicy(stage=False), INTERFACE),
            (NodePolicy(stage=False, disk=True), replace(INTERFACE, artefacts=FILES - {"local.efi"})),
        )
    ]
    assert [answer.file.rpartition("/")[2] for answer in answers if isinstance(answer, Offer)] == [
        "local.efi",
        "ipxe.efi",
        "ipxe.efi",
    ]
    assert isinstance(answers[0], Offer)
    assert answers[0].file == file


def test_with_secure_boot_only_a_signed_image_goes_over_http() -> None:
    secure = Interface("eth0", "10.9.0.2", 7467, artefacts=FILES, secure_boot=True)
    for stage in (True, False):
        answer = decide(NodePolicy(stage=stage), secure)
        assert isinstance(answer, Ignore)
        assert "Secure Boot" in answer.reason or "signed" in answer.reason


def test_a_stage1_without_words_is_told_where_they_are() -> None:
    """Its own question, as it goes over the wire; scapy agrees on what it is."""
    question = inform(MAC, "10.9.0.77", b"\1\2\3\4")
    seen = BOOTP(question)
    assert seen.ciaddr == "10.9.0.77"
    options: dict[str, object] = dict(item[:2] for item in seen[DHCP].options if isinstance(item, tuple))
    assert options["message-type"] == 8  # DHCPINFORM, RFC 2132 section 9.6
    answer = offer.decide(dhcp.parse(question), NodePolicy(), INTERFACE, 67, ("10.9.0.77", 68))
    assert isinstance(answer, Offer)
    assert (answer.file, answer.destination.address, answer.destination.port) == (WORDS, "10.9.0.77", 68)
    assert parse_answer(answer.reply, MAC, b"\1\2\3\4") == ("10.9.0.2", 7467, f"/boot/stage1/words?mac={MAC}")
    assert BOOTP(answer.reply).file.rstrip(b"\0") == WORDS.encode()


def tree(tmp_path: Path, label: str) -> VirtualTree:
    def context(mac: str) -> RenderContext:
        return RenderContext("10.9.0.2", 7467, 7468, LABELS, label, mac, "ab" * 16, "console=ttyS0")

    return VirtualTree(tmp_path, context, "10.9.0.2", 7467)


def test_the_words_are_the_command_line_of_the_label(tmp_path: Path) -> None:
    answer = tree(tmp_path, "kamethod").resolve("stage1/words", MAC)
    assert isinstance(answer, Rendered)
    words = answer.content.decode().split()
    assert words[-5:] == [
        "bootd.server=10.9.0.2:7467",
        f"bootd.node={MAC}",
        f"bootd.token={'ab' * 16}",
        "BOOTIF=01-52-54-00-12-34-56",
        "console=ttyS0",
    ]
    assert "kamethod" in words


def test_no_words_where_no_stage_is_started_or_nobody_is_named(tmp_path: Path) -> None:
    local = tree(tmp_path, "local").resolve("stage1/words", MAC)
    nobody = tree(tmp_path, "kamethod").resolve("stage1/words")
    assert isinstance(local, NotFound)
    assert "starts no stage" in local.reason
    assert isinstance(nobody, NotFound)
