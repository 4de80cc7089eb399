"""dolly.cfg: every example of the documents, every entry, and what is said of a line that is wrong."""

import pytest

from bootd.dolly.config import (
    COOKINGS,
    MAX_TEXT,
    RAW,
    Announced,
    Archive,
    Cooking,
    Extra,
    Packing,
    Trailer,
    Transfer,
    cooking_of,
    is_whole,
    read_cooking,
    read_trailer,
    render,
)
from bootd.dolly.errors import DollyError
from bootd.dolly.grammar import parse
from bootd.dolly.place import SERVER, branch, children, find_client, is_server

# The examples of the documents that dolly's and dolly+'s users were given, as they stand there.
STAGE2 = """\
infile stage2.img
outfile /dev/ram3
server servernode
firstclient 12.12.12.1
lastclient 12.12.12.3
clients 3
12.12.12.1
12.12.12.2
12.12.12.3
endconfig
"""
DISK = """\
infile /dev/sda
outfile /dev/sda
server node1
firstclient node2
lastclient node5
clients 4
node2
node3
node4
node5
endconfig
"""
PLUS = """\
iofiles 3
/dev/hda1 > /tmp/dev/hda1
/data/file.gz  >> /data/file
boot.tar.Z >> /boot
server max5.paris
firstclient max6.paris
lastclient max8.paris
clients 3
max6.paris
max7.paris
max8.paris
endconfig
"""
HOSTS = "server s\nfirstclient a\nlastclient b\nclients 2\na\nb\nendconfig\n"


def test_the_examples() -> None:
    found = parse(STAGE2)
    assert found.files == (Transfer("stage2.img", "/dev/ram3"),)
    assert (found.server, found.clients) == ("servernode", ("12.12.12.1", "12.12.12.2", "12.12.12.3"))
    assert parse(DISK).clients == ("node2", "node3", "node4", "node5")
    plus = parse(PLUS)
    assert plus.is_plus
    assert [(item.infile, item.outfile, str(item.cooking)) for item in plus.files] == [
        ("/dev/hda1", "/tmp/dev/hda1", "raw"),
        ("/data/file.gz", "/data/file", "gz"),
        ("boot.tar.Z", "/boot", "tar.Z"),
    ]
    assert not any(parse(text).warnings for text in (STAGE2, DISK, PLUS))


@pytest.mark.parametrize("text", [STAGE2, DISK])
def test_an_example_goes_over_the_wire_as_it_is_written(text: str) -> None:
    config = parse(text)
    assert render(config, config.files[0]) == text.encode()


def test_every_entry_of_05x() -> None:
    """As dolly.html writes them; `fanout` and `add` exclude each other."""
    text = (
        "compressed infile /images/cloneimages/sda10_WinNTRes.gz split\n"
        "outfile /images/sda10 split 2G\nsegsize 128\nadd 1:-fast\nhyphennormal\n"
    ) + HOSTS
    found = parse(text)
    transfer = found.files[0]
    assert transfer == Transfer(
        "/images/cloneimages/sda10_WinNTRes.gz", "/images/sda10", Cooking(Packing.GZIP), True, 2 << 30, False
    )
    assert (found.segsize, found.extra, found.hyphennormal) == (128, Extra(1, ("-fast",)), True)
    assert found.links == 2
    assert render(found, transfer).decode() == text
    assert parse("infile /dev/sda\ncompressed outfile /i/sda_all.gz split 2G\n" + HOSTS).files[0].compress
    assert parse("infile a\noutfile b\nfanout 3\n" + HOSTS).fanout == 3
    assert parse("dummy 128\n" + HOSTS).dummy == 128
    assert parse("dummy\n" + HOSTS).dummy == -1
    assert render(parse("dummy\n" + HOSTS), None).startswith(b"dummy\nserver")
    # hypheninterface is the word of later versions for what 0.57 does without one.
    assert not parse("infile a\noutfile b\nhypheninterface\n" + HOSTS).hyphennormal


def test_add_and_add2_name_interfaces() -> None:
    """As its source explains them: cops1 and -giga, xibalba101 and -fast."""
    assert Extra(1, ("-giga",)).host("cops1", 0) == "cops1"
    assert Extra(1, ("-giga",)).host("cops1", 1) == "cops1-giga"
    assert Extra(2, ("-x", "-fast"), is_midfix=True).host("xibalba101", 2) == "xibalba-fast101"
    assert Extra(0, ("-giga",)).host("cops1", 0) == "cops1-giga"
    assert parse("infile a\noutfile b\nadd2 2:-x:-fast:\n" + HOSTS).extra == Extra(2, ("-x", "-fast"), True)


@pytest.mark.parametrize(
    ("name", "packing", "archive"),
    [
        ("/data/file.gz", Packing.GZIP, Archive.NONE),
        ("a.Z", Packing.COMPRESS, Archive.NONE),
        ("a.tar", Packing.NONE, Archive.TAR),
        ("a.tar.gz", Packing.GZIP, Archive.TAR),
        ("boot.tar.Z", Packing.COMPRESS, Archive.TAR),
        ("a.cpio", Packing.NONE, Archive.CPIO),
        ("a.cpio.gz", Packing.GZIP, Archive.CPIO),
        ("a.cpio.Z", Packing.COMPRESS, Archive.CPIO),
        ("a.b.tar.xz", Packing.XZ, Archive.TAR),
        ("a.zst", Packing.ZSTD, Archive.NONE),
        ("a.cpio.bz2", Packing.BZIP2, Archive.CPIO),
        ("a.tgz", Packing.GZIP, Archive.TAR),
        ("/dev/sda", Packing.NONE, Archive.NONE),
        ("folder.gz/plain", Packing.NONE, Archive.NONE),
    ],
)
def test_cooking_by_the_name(name: str, packing: Packing, archive: Archive) -> None:
    assert cooking_of(name) == Cooking(packing, archive)


def test_cooking_as_a_word_and_back() -> None:
    assert [str(read_cooking(word)) for word in ("raw", *COOKINGS)] == ["raw", *COOKINGS]
    with pytest.raises(DollyError, match="nothing that can be unpacked"):
        read_cooking("rar")


@pytest.mark.parametrize(
    ("text", "line", "says", "hint"),
    [
        ("infile a\noutfile b\ninfle c\n" + HOSTS, 3, "'infle' is no entry", "known: infile"),
        ("infile\noutfile b\n" + HOSTS, 1, "infile wants one path", "infile PATH [split]"),
        ("infile a b c\n", 1, "infile wants one path", "infile PATH"),
        ("infile a\noutfile b split 2\n" + HOSTS, 2, "split 2", "k, M, G or T"),
        ("infile a\noutfile b split 0G\n" + HOSTS, 2, "split 0G", "split 2G"),
        ("infile a\ninfile b\n", 2, "infile again, first in line 1", "once"),
        ("compressed a\n", 1, "compressed what?", "compressed infile"),
        ("compressed infile a.gz\ncompressed outfile b.gz\n" + HOSTS, 9, "compressed infile", "leave"),
        ("infile a\n" + HOSTS, 8, "'outfile' is missing", "outfile PATH"),
        (HOSTS, 7, "no infile", "infile and outfile"),
        ("dummy 12\ninfile a\noutfile b\n" + HOSTS, 10, "infile and dummy", "write"),
        ("dummy x\n", 1, "'x' is no number", "dummy 128"),
        ("infile a\noutfile b\nsegsize 40\n", 3, "segsize 40", "from 88"),
        ("infile a\noutfile b\nfanout 9\n", 3, "fanout 9", "1 to 8"),
        ("infile a\noutfile b\nadd 2:-fast\n", 3, "add 2 with 1 suffixes", "as many"),
        ("infile a\noutfile b\nadd -fast\n", 3, "add -fast", "add 1:-fast"),
        ("infile a\noutfile b\nadd 1:-f\nfanout 2\n" + HOSTS, 11, "add and fanout", "one of them"),
        ("iofiles 2\na > b\nserver s\n", 3, "'server s' is not file 2 of 2", "iofiles 1"),
        ("iofiles 0\n", 1, "iofiles 0", "iofiles 3"),
        ("iofiles 1\na >>> b\n", 2, "'>>>'", "write > for a copy"),
        ("iofiles 1\na.iso >> b\n", 2, "cannot tell by its name how a.iso", "use >"),
        ("iofiles 1\na b > c\n", 2, "white space within 'a b'", "rename"),
        ("infile a\noutfile b\nserver s\nfirstclient a\nlastclient b\nclients 3\na\nb\nendconfig\n", 9,
         "clients 3, but only 2 follow", "clients 2"),
        ("infile a\noutfile b\nserver s\nfirstclient a\nlastclient b\nclients 1\na\nb\nendconfig\n", 8,
         "'b' is no entry", "known"),
        ("infile a\noutfile b\nserver s\nfirstclient a\nlastclient a\nclients 2\na\nb\nendconfig\n", 5,
         "a is not the last client", "lastclient b"),
        ("infile a\noutfile b\nserver s\nclients 2\na\na\n", 6, "a is named twice", "once"),
        ("infile a\noutfile b\nserver s x\n", 3, "'s x' is no host name", "one name"),
        ("infile a\noutfile b\nclients 1\na\nendconfig\n", 5, "'server' is missing", "server NAME"),
        ("infile a\noutfile b\nserver s\nclients 1\na\nendconfig\n", 6, "'firstclient' is missing", "write"),
        ("infile a\noutfile b\nserver s\nclients 1\n", 4, "ends before client 1", "a line"),
        ("infile a\noutfile b\nserver s\nfirstclient a\nlastclient b\nclients 2\na\nb\n", 8, "'endconfig' is",
         "last line"),
        ("infile a\0b\n", 1, "zero byte", "plain text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(text: str, line: int, says: str, hint: str) -> None:
    with pytest.raises(DollyError) as caught:
        parse(text)
    complaint = caught.value.complaint
    assert (complaint.line, says in complaint.text, hint in complaint.hint) == (line, True, True), complaint
    assert caught.value.place("dolly.cfg").startswith(f"dolly.cfg:{line}: ")


def test_more_than_dolly_takes_is_written_anew_for_it() -> None:
    """Comments, empty lines, white space, another order: its clients never see that."""
    text = "# night\n\n server   s \r\nclients 2\n a\n\tb\nlastclient b\nfirstclient a\noutfile /o\n"
    text += "infile /i\nendconfig"
    config = parse(text)
    assert render(config, config.files[0]) == b"infile /i\noutfile /o\n" + HOSTS.encode()


def test_warnings() -> None:
    text = "compressed infile a\noutfile b\nserver s\nfirstclient x\nlastclient y\nclients 1\na\nendconfig\n"
    assert [warning.split(":")[0] for warning in parse(text).warnings] == [
        "line 1",
        "firstclient x",
        "lastclient y",
    ]
    # dolly.html: firstclient and lastclient are machines, the list has interfaces.
    names = "server s\nfirstclient c-1\nlastclient c-1\nclients 1\nc-1-giga\nendconfig\n"
    assert len(parse("infile a\noutfile b\n" + names).warnings) == 2
    assert not parse("infile a\noutfile b\n" + names.replace("c-1", "c1")).warnings


def test_a_text_that_dolly_cannot_read_is_not_sent() -> None:
    names = [f"node-with-a-long-name-{number:03}.example.org" for number in range(110)]
    hosts = f"server s\nfirstclient {names[0]}\nlastclient {names[-1]}\nclients 110\n" + "\n".join(names)
    config = parse(f"infile a\noutfile b\n{hosts}\nendconfig\n")
    with pytest.raises(DollyError, match=f"dolly's clients read {MAX_TEXT}") as caught:
        render(config, config.files[0])
    assert "--ring" in caught.value.complaint.hint
    config = parse(f"infile {'x' * 250}\noutfile b\n{HOSTS}")
    with pytest.raises(DollyError, match="longer than dolly reads"):
        render(config, config.files[0])


def test_a_text_of_1448_bytes_is_padded() -> None:
    """A client of dolly that gets exactly so much waits for more."""
    lengths = set()
    for fill in range(1, 200):
        config = parse(f"infile {'i' * 200}\noutfile {'o' * fill}\nserver s\nfirstclient a000\nlastclient a199\n"
                       "clients 200\n" + "\n".join(f"a{n:03}" for n in range(200)) + "\nendconfig\n")  # fmt: skip
        lengths.add(len(render(config, config.files[0])))
    assert {1447, 1449, 1450} <= lengths
    assert 1448 not in lengths


def test_trailer_behind_endconfig() -> None:
    config = parse(PLUS)
    files = tuple(Announced(number * 10, item.cooking, item.outfile) for number, item in enumerate(config.files))
    trailer = Trailer(2, (*files, Announced(None, RAW, "/x")))
    text = render(config, config.files[1], trailer).decode()
    # What dolly reads of it: an entry that begins with endconfig is the end.
    assert text.partition("endconfig")[2].splitlines() == [
        " bootd 2 of 4", "0 raw /tmp/dev/hda1", "10 gz /data/file", "20 tar.Z /boot", "- raw /x",
    ]  # fmt: skip
    assert text.startswith("compressed infile /data/file.gz\noutfile /data/file\n")
    assert read_trailer(text) == trailer
    assert parse(text).files == (Transfer("/data/file.gz", "/data/file", Cooking(Packing.GZIP)),)
    for length in range(len(text)):
        assert not is_whole(text[:length]) or text[:length].endswith("\nendconfig"), text[:length]
    with pytest.raises(DollyError, match="damaged"):
        read_trailer(text.replace("20 tar.Z", "twenty tar.Z"))
    assert read_trailer(STAGE2) is None
    assert is_whole(STAGE2)
    assert is_whole(STAGE2.rstrip())
    assert not is_whole(STAGE2[:-5])


def test_the_topology() -> None:
    """Of dolly: the head has the first of the list, everybody the next so many."""
    config = parse("infile a\noutfile b\nfanout 2\nserver s\nfirstclient h0\nlastclient h6\nclients 7\n"
                   + "".join(f"h{number}\n" for number in range(7)) + "endconfig\n")  # fmt: skip
    assert children(config, SERVER) == (0, 1)
    assert [children(config, place) for place in range(7)] == [(2, 3), (4, 5), (6,), (), (), (), ()]
    assert branch(config, 0) == (0, 2, 3, 6)
    chain = parse(DISK)
    assert [children(chain, place) for place in (SERVER, 0, 1, 2, 3)] == [(0,), (1,), (2,), (3,), ()]


def test_a_host_finds_itself() -> None:
    names = "server s-1\nfirstclient node1\nlastclient c\n"
    names += "clients 4\nnode1-giga\nnode12-giga\n10.0.0.3\nc.lab\nendconfig\n"
    config = parse("infile a\noutfile b\n" + names)
    assert find_client(config, ["node1-giga"]) == 0
    assert find_client(config, ["node12"]) == 1  # dolly compares the beginning only, and takes the first
    assert find_client(config, ["node1"]) == 0
    assert find_client(config, ["whoever"], ["10.0.0.3"]) == 2
    assert find_client(config, ["c"]) == 3
    with pytest.raises(DollyError, match="none of the clients") as caught:
        find_client(config, ["node"], ["10.0.0.9"])
    assert "--name" in caught.value.complaint.hint
    normal = parse("infile a\noutfile b\nhyphennormal\n" + names)
    with pytest.raises(DollyError):
        find_client(normal, ["node1"])
    assert is_server(config, ["s-1"])
    assert is_server(config, ["s"])
    assert not is_server(normal, ["s"])
