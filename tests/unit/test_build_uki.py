"""The unified kernel image, read by pefile: another parser than ours judges what we wrote."""

import struct
from pathlib import Path

import pefile
import pytest

from bootd.build import signing, uki
from bootd.errors import OperatorError

PARTS = [(".cmdline", b"bootd.ask\0"), (".linux", b"MZ" + b"kernel" * 1500), (".initrd", bytes(range(256)) * 40)]


def stub(section_alignment: int = 0x200, headers: int = 0x400, text: bytes = b"\xc3" * 700) -> bytes:
    """A PE32+ file with one section, as small as they come (PE/COFF specification, sections 2 to 4)."""
    head = bytearray(headers)
    head[:2] = b"MZ"
    struct.pack_into("<I", head, 0x3C, 0x80)
    stored = len(text) + -len(text) % 0x200
    struct.pack_into("<4sHHIIIHH", head, 0x80, b"PE\0\0", 0x8664, 1, 0, 0, 0, 240, 0x206)
    numbers = (
        0x20B,
        2,
        40,
        stored,
        0,
        0,
        0x1000,
        0x1000,
        0,
        section_alignment,
        0x200,
        *[0] * 7,
        0x2000,
        headers,
        0,
    )
    struct.pack_into("<HBBIIIIIQIIHHHHHHIIII", head, 0x98, *numbers)
    struct.pack_into("<HHQQQQII", head, 0x98 + 68, 10, 0, 0, 0, 0, 0, 0, 16)
    struct.pack_into("<8sIIII12xI", head, 0x98 + 240, b".text", len(text), 0x1000, stored, headers, 0x60000020)
    return bytes(head) + text + bytes(stored - len(text))


@pytest.mark.parametrize("section_alignment", [0x200, 0x1000])
def test_sections_are_where_the_headers_say(section_alignment: int) -> None:
    image = uki.assemble(stub(section_alignment), PARTS)
    parsed = pefile.PE(data=image)
    assert parsed.get_warnings() == []
    found = {section.Name.rstrip(b"\0").decode(): section for section in parsed.sections}
    assert list(found) == [".text", ".cmdline", ".linux", ".initrd"]
    end = 0
    for section in parsed.sections:
        assert section.VirtualAddress >= end
        assert section.VirtualAddress % 4096 == 0
        assert section.PointerToRawData % 0x200 == 0
        end = section.VirtualAddress + section.Misc_VirtualSize
    assert parsed.OPTIONAL_HEADER.SizeOfImage >= end
    memory = parsed.get_memory_mapped_image(max_virtual_address=1 << 30)
    for name, content in PARTS:
        section = found[name]
        assert section.Misc_VirtualSize == len(content)
        assert memory[section.VirtualAddress : section.VirtualAddress + len(content)] == content


def test_the_stub_itself_stays_as_it_is() -> None:
    own = stub()
    image = uki.assemble(own, PARTS)
    assert image[0x400 : len(own)] == own[0x400:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut off"),
        (b"MZ" + bytes(100), "not a PE file"),
        (stub()[:0xA0], "cut off"),
        (stub(headers=0x200), "no room"),
        (stub().replace(struct.pack("<H", 0x20B), struct.pack("<H", 0x10B), 1), "0x10b"),
    ],
)
def test_what_is_no_stub_is_an_operator_error(data: bytes, reason: str) -> None:
    with pytest.raises(OperatorError, match=reason):
        uki.assemble(data, PARTS)


# --- signing ----------------------------------------------------------------------------------------------------


def test_signing_needs_both_files(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("x")
    with pytest.raises(OperatorError, match="is not a file"):
        signing.sign(tmp_path, tmp_path / "key.pem", tmp_path / "certificate.pem", print)


def test_an_image_signed_before_this_build_goes(tmp_path: Path) -> None:
    said: list[str] = []
    signing.leave_out(tmp_path, said.append)
    assert said == []
    old = tmp_path / signing.SIGNED
    old.parent.mkdir()
    old.write_bytes(b"old")
    signing.leave_out(tmp_path, said.append)
    assert not old.exists()
    assert "sign again" in said[0]
