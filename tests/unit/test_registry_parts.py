"""What is decided about registries without one: names, challenges, pauses, documents, packs."""

import json
import random
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootd.drivers.registry.credentials import CREDENTIAL, Login, find_file, read_login
from bootd.errors import Exit, OperatorError
from bootd.images.manifest import ImageError
from bootd.images.oci import artefact, packs
from bootd.images.oci.answers import (
    LONGEST_RETRY_AFTER,
    TRIES,
    Challenge,
    explain,
    parse_challenges,
    pause,
    retry_after,
)
from bootd.images.oci.packs import GAP_BYTES, Pack, PackedChunk, choose_packs, plan_fetch
from bootd.images.oci.reference import parse_reference

DIGEST = "sha256:" + "0" * 63 + "a"

# The grammar is that of https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#pulling-manifests


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("registry.example/lab", ("https", "registry.example", "lab", "latest", "")),
        ("registry.example:5000/rooms/lab:v1", ("https", "registry.example:5000", "rooms/lab", "v1", "")),
        ("https://r.example/a__b/c-d--e/f.g:_x", ("https", "r.example", "a__b/c-d--e/f.g", "_x", "")),
        ("http://localhost/lab", ("http", "localhost", "lab", "latest", "")),
        ("[2001:db8::1]:5000/lab", ("https", "[2001:db8::1]:5000", "lab", "latest", "")),
        (f"r.example/lab@{DIGEST}", ("https", "r.example", "lab", "", DIGEST)),
        (f"r.example/lab:v1@{DIGEST}", ("https", "r.example", "lab", "", DIGEST)),
    ],
)
def test_references(text: str, wanted: tuple[str, ...]) -> None:
    found = parse_reference(text)
    assert (found.scheme, found.host, found.repository, found.tag, found.digest) == wanted
    assert parse_reference(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lab",
        "lab:v1",
        "rooms/lab",
        "r.example/",
        "r.example/Lab",
        "r.example/a//b",
        "r.example/../b",
        "r.example/a:",
        "r.example/a:-x",
        "r.example/a:" + "x" * 129,
        "r.example/" + "x" * 256,
        "r.example/a@sha256:12",
        "r.example/a@md5:" + "0" * 32,
        "r.example:70000/a",
        "r.example:/a",
        "user:secret@r.example/a",
        "ftp://r.example/a",
        "r.example/a?x=1",
        "r.example/a\nb",
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(OperatorError) as wrong:
        parse_reference(text)
    assert wrong.value.code == Exit.USAGE
    assert "secret" not in str(wrong.value)
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("127.0.0.1:5000", True),
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("[::1]:5000", True),
        ("localhost.example", False),
        ("127.0.0.1.example:5000", False),
        ("192.0.2.1", False),
    ],
)
def test_loopback(host: str, wanted: bool) -> None:
    assert parse_reference(f"https://{host}/a").is_loopback is wanted


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        # The example of RFC 9110, section 11.6.1.
        (
            'Basic realm="simple", Newauth realm="apps", type=1, title="Login to \\"apps\\""',
            [
                ("basic", {"realm": "simple"}),
                ("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
            ],
        ),
        # That of Distribution's "Token Authentication Specification".
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
            'scope="repository:samalba/my-app:pull,push"',
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:samalba/my-app:pull,push",
                    },
                )
            ],
        ),
        ("Negotiate", [("negotiate", {})]),
        ('Negotiate, BASIC Realm = "x"', [("negotiate", {}), ("basic", {"realm": "x"})]),
        ("", []),
        ('"', []),
    ],
)
def test_challenges(header: str, wanted: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header) == tuple(Challenge(*each) for each in wanted)


@given(st.text(alphabet='Basic ="\\,;\t é1', max_size=200))
def test_any_challenge_is_read_to_an_end(header: str) -> None:
    parse_challenges(header)


def test_pauses() -> None:
    assert retry_after("120", 0.0) == 120
    assert retry_after("Fri, 31 Dec 1999 23:59:59 GMT", 946684799.0 - 30) == 30  # RFC 9110, section 10.2.3
    assert retry_after(formatdate(100.0, usegmt=True), 200.0) == 0
    assert [retry_after(text, 0.0) for text in ("", "soon", "-1", "1e3", "²")] == [None] * 5
    assert pause(1, None, 0.0) == 0.5
    assert pause(3, 7.0, 0.9) == 7.0
    assert pause(TRIES, None, 0.0) is None
    assert pause(1, LONGEST_RETRY_AFTER + 1, 0.0) is None
    waited = [pause(tries, None, 0.0) or 0.0 for tries in range(1, TRIES)]
    assert waited == sorted(waited)
    assert 30 < sum(waited) < 120


def test_explanations_are_one_printable_line() -> None:
    body = b'{"errors": [{"code": "DENIED", "message": "no\\nway\\u001b[31m", "detail": {"password": "x"}}]}'
    assert explain(body) == "DENIED: no way [31m"
    for other in (b"", b"<html>", b"[]", b'{"errors": 1}', b'{"errors": [1]}', b"\xff"):
        assert explain(other) == ""


# Credentials


def write(path: Path, value: Any, mode: int = 0o600) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    path.chmod(mode)
    return path


def test_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # `docker login` with user "robot$lab", password "p:w": printf 'robot$lab:p:w' | base64
    auths = {"r.example:5000": {"auth": "cm9ib3QkbGFiOnA6dw=="}, "https://t.example/v2/": {"identitytoken": "it"}}
    auths["plain.example"] = {"username": "u", "password": "p"}
    path = write(tmp_path / CREDENTIAL, {"auths": auths, "psFormat": "ignored"})
    assert read_login(path, "r.example:5000") == Login("robot$lab", "p:w")
    assert read_login(path, "t.example") == Login(identity_token="it")
    assert read_login(path, "plain.example") == Login("u", "p")
    assert read_login(path, "r.example") is None
    assert "p:w" not in repr(read_login(path, "r.example:5000"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert find_file("") == path
    assert find_file("/else") == Path("/else")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert find_file("") is None


@pytest.mark.parametrize(
    ("value", "mode", "text"),
    [
        ({"auths": {"r.example": {"auth": "c2VjcmV0"}}}, 0o600, "cannot be read as docker's"),  # "secret": no colon
        ({"auths": {"r.example": {"auth": "secret!"}}}, 0o600, "cannot be read as docker's"),
        ({"auths": ["hidden"]}, 0o600, "cannot be read as docker's"),
        ("not JSON", 0o600, "cannot be read as docker's"),
        ({"auths": {}}, 0o644, "everybody on this machine can read"),
        ({"credHelpers": {"r.example": "secret"}}, 0o600, "credential helper"),
    ],
)
def test_bad_credentials(tmp_path: Path, value: Any, mode: int, text: str) -> None:
    with pytest.raises(OperatorError, match=text) as wrong:
        read_login(write(tmp_path / "config.json", value, mode), "r.example")
    assert wrong.value.code == Exit.CONFIG
    assert "secret" not in wrong.value.message
    with pytest.raises(OperatorError, match="cannot read"):
        read_login(tmp_path / "none", "r.example")


# Packs


def name(number: int) -> str:
    return f"{number:064x}"


def pack(number: int, *chunks: tuple[int, int]) -> Pack:
    made = tuple(PackedChunk(name(each), length) for each, length in chunks)
    return Pack(f"sha256:{number:064x}", sum(chunk.length for chunk in made), made)


def test_packs_that_are_there_are_used() -> None:
    one, two, three = pack(1, (1, 10), (2, 10)), pack(2, (2, 10), (3, 10)), pack(3, (9, 10))
    used, missing = choose_packs([name(3), name(2), name(4), name(4), name(1)], [one, two, three])
    assert used == [two, one]
    assert missing == [name(4)]


def test_small_gaps_are_fetched_large_ones_are_not() -> None:
    lengths = [(1, 100), (2, GAP_BYTES), (3, 100), (4, GAP_BYTES + 1), (5, 100), (6, 3 * GAP_BYTES)]
    fetches, absent = plan_fetch([name(1), name(3), name(5), name(7)], [pack(1, *lengths)])
    assert absent == {name(7)}
    [only] = fetches
    assert not only.whole
    assert [(piece.start, piece.stop) for piece in only.pieces] == [
        (0, 200 + GAP_BYTES),
        (2 * GAP_BYTES + 201, 2 * GAP_BYTES + 301),
    ]


def test_of_which_much_is_wanted_is_fetched_whole() -> None:
    [only], _ = plan_fetch([name(1), name(2)], [pack(1, (1, 400_000), (3, 400_000), (2, 400_000))])
    assert only.whole
    assert only.size == 1_200_000


@given(st.integers(0, 2**32))
def test_every_chunk_that_is_there_is_fetched_once(seed: int) -> None:
    """Against bytes: what the pieces cover is what was wanted."""
    draw = random.Random(seed)
    made = [
        pack(number, *((draw.randrange(40), draw.choice((100, 300_000))) for _ in range(draw.randrange(1, 12))))
        for number in range(draw.randrange(1, 5))
    ]
    wanted = {name(draw.randrange(45)) for _ in range(draw.randrange(20))}
    fetches, absent = plan_fetch(wanted, made)
    held = {chunk.digest for each in made for chunk in each.chunks}
    assert absent == wanted - held
    got: set[str] = set()
    for fetch in fetches:
        places, position = {}, 0
        for number, chunk in enumerate(fetch.pack.chunks):
            places[number] = (position, position + chunk.length, chunk.digest)
            position += chunk.length
        end = 0
        for piece in fetch.pieces:
            assert end <= piece.start < piece.stop <= fetch.pack.size
            end = piece.stop
            inside = [
                digest for start, stop, digest in places.values() if piece.start <= start < stop <= piece.stop
            ]
            assert inside == [chunk.digest for chunk in piece.chunks]
            assert sum(chunk.length for chunk in piece.chunks) == piece.stop - piece.start
            got |= set(inside) & wanted
    assert got == wanted & held


# Documents that somebody else wrote

_CONFIG = artefact.Descriptor(artefact.CONFIG_TYPE, DIGEST, 10)
_INDEX = artefact.Descriptor(artefact.INDEX_TYPE, DIGEST, 10)


def document() -> dict[str, Any]:
    layers = [artefact.Descriptor(artefact.PACK_TYPE, f"sha256:{1:064x}", 20)]
    value: dict[str, Any] = json.loads(artefact.build(_CONFIG, _INDEX, layers, {"a": "b"}))
    return value


def test_a_manifest_is_as_the_specification_says() -> None:
    """OCI Image Format Specification 1.1, "Guidelines for Artifact Usage"."""
    value = document()
    assert value["schemaVersion"] == 2
    assert value["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert value["artifactType"] == "application/vnd.bootd.image.v1"
    assert set(value["config"]) == {"mediaType", "digest", "size"}
    assert artefact.parse(json.dumps(value).encode(), "x").annotations == {"a": "b"}


@pytest.mark.parametrize(
    ("path", "new", "text"),
    [
        (("schemaVersion",), 1, "no image of bootd"),
        (("config",), None, "no image of bootd"),
        (("config", "mediaType"), "application/vnd.oci.image.config.v1+json", "no image of bootd"),
        (("layers",), [], "first layer is no index"),
        (("layers", 0, "mediaType"), "x", "first layer is no index"),
        (("layers", 1, "mediaType"), "x", "unknown type"),
        (("layers", 1, "digest"), "sha256:../../x", "names a blob by"),
        (("layers", 1, "size"), -1, "names a blob by"),
        (("config", "size"), 1 << 40, "would have"),
        (("layers", 0, "size"), "10", "cannot be read"),
    ],
)
def test_manifests_that_are_wrong(path: tuple[Any, ...], new: Any, text: str) -> None:
    value = document()
    inner: Any = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    with pytest.raises(ImageError, match=text):
        artefact.parse(json.dumps(value).encode(), "r.example/lab:v1")


def test_an_image_of_too_many_packs() -> None:
    layers = [artefact.Descriptor(artefact.PACK_TYPE, DIGEST, 1)] * 40_000
    with pytest.raises(ImageError, match="larger than"):
        artefact.build(_CONFIG, _INDEX, layers, {})


def index_and_layers() -> tuple[dict[str, Any], list[artefact.Descriptor]]:
    made = [pack(1, (1, 10), (2, 20)), pack(2, (3, 5))]
    layers = [artefact.Descriptor(artefact.PACK_TYPE, each.digest, each.size) for each in made]
    value: dict[str, Any] = json.loads(packs.encode_index(made))
    return value, layers


@pytest.mark.parametrize(
    ("path", "new", "text"),
    [
        (("format",), 2, "has format 2"),
        (("packs",), [], "name different packs"),
        (("packs", 0, "size"), 31, "name different packs"),
        (("packs", 0, "chunks", 0, 1), 11, "do not add up"),
        (("packs", 0, "chunks", 0, 1), 0, "names a chunk"),
        (("packs", 0, "chunks", 0, 1), -10, "names a chunk"),
        (("packs", 0, "chunks", 0, 1), 1 << 40, "names a chunk"),
        (("packs", 0, "chunks", 0, 0), "../x", "names a chunk"),
        (("packs", 0, "chunks", 0), [1], "cannot be read"),
    ],
)
def test_indexes_that_are_wrong(path: tuple[Any, ...], new: Any, text: str) -> None:
    value, layers = index_and_layers()
    assert len(packs.parse_index(json.dumps(value).encode(), layers, "x").packs) == 2
    inner: Any = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    with pytest.raises(ImageError, match=text):
        packs.parse_index(json.dumps(value).encode(), layers, "r.example/lab:v1")


@given(st.binary(max_size=300), st.integers(0, 2**32))
def test_mutants_give_only_our_error(noise: bytes, seed: int) -> None:
    draw = random.Random(seed)
    index, layers = index_and_layers()
    for good, read in (
        (json.dumps(document()).encode(), lambda data: artefact.parse(data, "x")),
        (json.dumps(index).encode(), lambda data: packs.parse_index(data, layers, "x")),
    ):
        bad = bytearray(good)
        for _ in range(draw.randrange(1, 4)):
            bad[draw.randrange(len(bad))] = draw.randrange(256)
        for data in (bytes(bad), noise, good[: draw.randrange(len(good))]):
            with suppress(ImageError):
                read(data)
