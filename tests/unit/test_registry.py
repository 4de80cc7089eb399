"""Images to and from Debian's docker-registry: what travels, what is refused, what breaks in the middle."""

import asyncio
import functools
import hashlib
import json
import random
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bootd.drivers.images.store import ImageStore
from bootd.drivers.registry import work
from bootd.drivers.registry.client import RegistryClient
from bootd.drivers.registry.credentials import Login, trust
from bootd.drivers.registry.pull import Pull, Pulled
from bootd.drivers.registry.push import Push, Pushed
from bootd.drivers.registry.transfer import Progress
from bootd.errors import Exit, OperatorError
from bootd.images.manifest import ImageError, ImageManifest
from bootd.images.oci import answers, artefact
from bootd.images.oci.reference import parse_reference
from bootd.wire.digest import digest
from tests.unit.certificates import certified
from tests.unit.docker_registry import DockerRegistry, config_json, htpasswd
from tests.unit.registry_faults import Front, Line, Passing, Redirecting, TokenServer, answer

MIB = 1 << 20
CHUNKS = 16
PACK = MIB  # small, so that there are several
LOGIN = Login("tester", "pass word:1")


class Told:
    """A `Tell` that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done: tuple[int, int] = (0, 0)

    def progress(self, done: int, total: int, text: str = "") -> None:
        self.done = (done, total)

    def note(self, text: str) -> None:
        self.notes.append(text)


@functools.cache
def block(number: int, version: int = 0) -> bytes:
    """A chunk that carries its number: one half cannot be compressed, the other can."""
    made = random.Random(f"{number} {version}").randbytes(MIB // 2)
    return made + b"%08d" % number * (MIB // 16)


def disk(changed: frozenset[int] = frozenset()) -> list[bytes]:
    """Chunks of a disk; the third is empty and the last short."""
    chunks = [block(number, int(number in changed)) for number in range(CHUNKS)]
    chunks[2] = bytes(MIB)
    chunks[-1] = chunks[-1][:71680]
    return chunks


def keep(store: ImageStore, chunks: list[bytes], created: str = "2026-01-31T23:59:59Z") -> str:
    names = []
    for chunk in chunks:
        name = digest(chunk).hex() if any(chunk) else ""
        if name:
            store.put_chunk(name, chunk)
        names.append(name)
    size = sum(map(len, chunks))
    return store.commit(
        ImageManifest(name="lab", user="ann", created=created, comment="test", size=size, chunks=tuple(names))
    )


def content(store: ImageStore, reference: str) -> bytes:
    manifest = store.open(reference)
    return b"".join(bytes(store.read_chunk(manifest, index)) for index in range(len(manifest.chunks)))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[ImageStore]:
    store = ImageStore(tmp_path / "here")
    yield store
    store.close()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[ImageStore]:
    store = ImageStore(tmp_path / "there")
    yield store
    store.close()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path / "registry") as running:
        yield running


def push(
    store: ImageStore,
    target: str,
    image: str = "lab",
    *,
    login: Login | None = None,
    mount: tuple[str, ...] = (),
    on: Callable[[Progress], None] = lambda _: None,
    on_wait: Callable[[str], None] = lambda _: None,
) -> Pushed:
    async def run() -> Pushed:
        where = parse_reference(target)
        async with RegistryClient(where, login, trust(""), on_wait=on_wait) as client:
            return await Push(store, client, where, Progress(on), mount_from=mount, pack_bytes=PACK).run(image)

    return asyncio.run(run())


def pull(
    store: ImageStore,
    source: str,
    name: str = "",
    *,
    login: Login | None = None,
    on: Callable[[Progress], None] = lambda _: None,
    on_wait: Callable[[str], None] = lambda _: None,
) -> Pulled:
    async def run() -> Pulled:
        where = parse_reference(source)
        async with RegistryClient(where, login, trust(""), on_wait=on_wait) as client:
            return await Pull(store, client, where, Progress(on)).run(name)

    return asyncio.run(run())


def fetch(url: str, accept: str = "*/*") -> bytes:
    request = urllib.request.Request(url, headers={"Accept": accept})  # noqa: S310
    with urllib.request.urlopen(request) as response:  # noqa: S310
        data: bytes = response.read()
        return data


# What travels


def test_round_trip_and_only_what_is_new_travels(
    here: ImageStore, there: ImageStore, registry: DockerRegistry
) -> None:
    repository = f"http://{registry.host}/rooms/lab"
    first = keep(here, disk())
    sent = push(here, f"{repository}:v1")
    assert sent.sent_packs >= 3
    assert sent.image == first
    again = push(here, f"{repository}:v1")
    assert (again.sent_packs, again.sent_bytes, again.digest) == (0, 0, sent.digest)

    got = pull(there, f"{repository}:v1")
    assert (got.image, got.digest, got.fetched_chunks) == (first, sent.digest, CHUNKS - 1)
    assert content(there, "lab:v1") == b"".join(disk())

    second = keep(here, disk(frozenset({7})), "2026-02-01T00:00:00Z")
    more = push(here, f"{repository}:v2")
    one_chunk = here.chunk_path(here.open("lab").chunks[7]).stat().st_size
    assert more.sent_packs == 1
    assert one_chunk < more.sent_bytes < one_chunk + 12_000  # and the two documents
    assert pull(there, f"{repository}:v2").fetched_chunks == 1
    assert content(there, second) == b"".join(disk(frozenset({7})))
    assert there.resolve("lab:v2") == second
    assert there.resolve("lab:v1") == first
    # Neither is said to be the latest.
    assert {str(reference) for reference, _ in there.references()} == {"lab:v1", "lab:v2"}


def test_by_digest_and_under_another_name(here: ImageStore, there: ImageStore, registry: DockerRegistry) -> None:
    repository = f"http://{registry.host}/lab"
    id_ = keep(here, disk())
    sent = push(here, repository)
    got = pull(there, f"{repository}@{sent.digest}", "room7:spring")
    assert got.tags == ["room7:spring"]
    assert there.resolve("room7:spring") == id_
    assert pull(there, repository).tags == ["lab:latest"]


def test_a_reader_without_bootd(here: ImageStore, registry: DockerRegistry, tmp_path: Path) -> None:
    """The layout of docs/images.md, with urllib, hashlib and the zstd program."""
    chunks = disk()
    keep(here, chunks)
    sent = push(here, f"http://{registry.host}/lab:v1")
    base = f"http://{registry.host}/v2/lab"
    raw = fetch(f"{base}/manifests/v1", "application/vnd.oci.image.manifest.v1+json")
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == sent.digest
    manifest = json.loads(raw)
    assert manifest["artifactType"] == "application/vnd.bootd.image.v1"
    assert manifest["annotations"]["org.opencontainers.image.title"] == "lab"
    blobs = {}
    for item in [manifest["config"], *manifest["layers"]]:
        blobs[item["digest"]] = fetch(f"{base}/blobs/{item['digest']}")
        assert f"sha256:{hashlib.sha256(blobs[item['digest']]).hexdigest()}" == item["digest"]
        assert len(blobs[item["digest"]]) == item["size"]
    names = blobs[manifest["config"]["digest"]].decode().split("\n")[1:-1]
    index = json.loads(blobs[manifest["layers"][0]["digest"]])
    assert [pack["digest"] for pack in index["packs"]] == [layer["digest"] for layer in manifest["layers"][1:]]
    stored = {}
    for pack in index["packs"]:
        position = 0
        for name, length in pack["chunks"]:
            stored[name] = blobs[pack["digest"]][position : position + length]
            position += length
        assert position == pack["size"]
    for name, wanted in zip(names, chunks, strict=True):
        if not name:
            assert not any(wanted)
        elif len(stored[name]) == len(wanted):
            assert stored[name] == wanted
        else:
            unpacked = subprocess.run(["zstd", "-dc"], input=stored[name], capture_output=True, check=True).stdout
            assert unpacked == wanted


def test_another_tool_copies_it(
    here: ImageStore, there: ImageStore, registry: DockerRegistry, tmp_path: Path
) -> None:
    """skopeo knows nothing of bootd."""
    id_ = keep(here, disk())
    push(here, f"http://{registry.host}/lab:v1")
    with DockerRegistry(tmp_path / "second") as second:
        plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
        words = [f"docker://{registry.host}/lab:v1", f"docker://{second.host}/copies/lab:v1"]
        subprocess.run(["skopeo", "--insecure-policy", "copy", *plain, *words], check=True, capture_output=True)
        assert pull(there, f"http://{second.host}/copies/lab:v1").image == id_
    assert content(there, there.ids()[0]) == b"".join(disk())


def test_another_repository_of_the_registry_lends_its_packs(
    here: ImageStore, there: ImageStore, registry: DockerRegistry
) -> None:
    keep(here, disk())
    sent = push(here, f"http://{registry.host}/main/lab:v1")
    lent = push(here, f"http://{registry.host}/site/lab:v1", mount=("main/lab",))
    assert (lent.sent_packs, lent.reused_packs) == (0, sent.sent_packs)
    assert (
        sum("mount=sha256" in line and "http.response.status=201" in line for line in registry.log)
        == sent.sent_packs
    )
    pull(there, f"http://{registry.host}/site/lab:v1")
    assert content(there, there.ids()[0]) == b"".join(disk())


def test_packs_that_are_gone_are_sent_again(here: ImageStore, there: ImageStore, registry: DockerRegistry) -> None:
    keep(here, disk())
    repository = f"http://{registry.host}/lab"
    sent = push(here, f"{repository}:v1")
    layers = json.loads(fetch(f"http://{registry.host}/v2/lab/manifests/v1", artefact.MANIFEST_TYPE))["layers"]
    request = urllib.request.Request(f"http://{registry.host}/v2/lab/blobs/{layers[1]['digest']}", method="DELETE")
    urllib.request.urlopen(request).close()  # noqa: S310
    with pytest.raises(OperatorError, match=layers[1]["digest"]):
        pull(there, f"{repository}:v1")
    assert there.images() == []
    again = push(here, f"{repository}:v2")
    assert (again.sent_packs, again.reused_packs) == (1, sent.sent_packs - 1)
    pull(there, f"{repository}:v2")
    assert content(there, there.ids()[0]) == b"".join(disk())


# Who may


def test_password_and_certificate(here: ImageStore, there: ImageStore, tmp_path: Path) -> None:
    """The whole way of a job: credentials from docker's config.json, TLS with an authority of our own."""
    certified(tmp_path)
    tls = f"{{certificate: {tmp_path}/server.pem, key: {tmp_path}/server.key}}"
    id_ = keep(here, disk())
    with DockerRegistry(tmp_path / "registry", auth=htpasswd(tmp_path, LOGIN), tls=tls) as registry:
        target = f"{registry.host}/rooms/lab:v1"
        good = str(config_json(tmp_path, registry.host, LOGIN))
        told = Told()
        order: dict[str, Any] = {"store": str(here.directory), "image": "lab", "target": target}

        with pytest.raises(OperatorError, match="is not trusted") as stranger:
            work.push(told, **order, credentials=good)
        assert stranger.value.code == Exit.UNREACHABLE
        with pytest.raises(OperatorError, match="wants a login, and none is known") as nobody:
            work.push(told, **order, authority=str(tmp_path / "ca.pem"))
        assert nobody.value.code == Exit.REFUSED
        assert work.push(told, **order, credentials=good, authority=str(tmp_path / "ca.pem"))["image"] == id_
        assert told.done[0] == told.done[1] > 7 * MIB

        bad = str(config_json(tmp_path, registry.host, Login("tester", "guess")))
        with pytest.raises(OperatorError, match="does not accept the login 'tester'") as guessed:
            work.push(told, **order, credentials=bad, authority=str(tmp_path / "ca.pem"))
        assert guessed.value.code == Exit.REFUSED
        assert "guess" not in str(guessed.value)
        good = str(config_json(tmp_path, registry.host, LOGIN))
        got = work.pull(
            told, store=str(there.directory), source=target, credentials=good, authority=str(tmp_path / "ca.pem")
        )
        assert got["image"] == id_
        assert not any("pass word" in note or "guess" in note for note in told.notes)
    assert content(there, "lab:v1") == b"".join(disk())


def test_token_server(here: ImageStore, there: ImageStore, tmp_path: Path) -> None:
    """Tokens are asked for once for each right, and again when they end."""
    id_ = keep(here, disk())
    with (
        TokenServer(tmp_path, LOGIN.user, LOGIN.password) as tokens,
        DockerRegistry(tmp_path / "registry", auth=tokens.auth) as registry,
    ):
        target = f"http://{registry.host}/rooms/lab:v1"
        push(here, target, login=LOGIN)
        asked = [path for path, _ in tokens.seen]
        assert len(asked) == 2
        assert "push" not in asked[0]
        scope = asked[1].rpartition("scope=repository:rooms/lab:")[2]
        assert set(scope.split(",")) == {"pull", "push"}  # the registry says them in any order
        assert pull(there, target, login=LOGIN).image == id_
        lent = push(here, f"http://{registry.host}/site/lab", login=LOGIN, mount=("rooms/lab",))
        assert lent.sent_packs == 0
        for login in (None, Login("tester", "guess")):
            with pytest.raises(OperatorError, match="the token server") as refused:
                pull(there, target, login=login)
            assert refused.value.code == Exit.REFUSED
            assert "guess" not in str(refused.value)


def test_storage_elsewhere_is_told_no_password(
    here: ImageStore, there: ImageStore, registry: DockerRegistry
) -> None:
    id_ = keep(here, disk())
    push(here, f"http://{registry.host}/lab:v1")
    with Passing(registry.host) as storage, Redirecting(storage.host) as front:
        assert pull(there, f"http://{front.host}/lab:v1", login=LOGIN).image == id_
        assert all("Authorization" in headers for _, headers in front.seen[1:])
        assert len(storage.seen) >= 6
        assert not any("Authorization" in headers for _, headers in storage.seen)


def test_without_tls_only_where_it_is_allowed() -> None:
    with pytest.raises(OperatorError, match="without TLS") as refused:
        RegistryClient(parse_reference("http://registry.example:5000/lab"), None, trust(""))
    assert refused.value.code == Exit.REFUSED
    RegistryClient(parse_reference("http://registry.example:5000/lab"), None, trust(""), ["registry.example:5000"])


def test_a_registry_without_tls_says_so(here: ImageStore, registry: DockerRegistry) -> None:
    keep(here, disk())
    with pytest.raises(OperatorError, match="does not speak TLS"):
        push(here, f"{registry.host}/lab")


def test_forbidden(there: ImageStore) -> None:
    class Forbidding(Front):
        def respond(self, handler: Any) -> None:
            answer(handler, 403, {}, b'{"errors": [{"code": "DENIED", "message": "not yours"}]}')

    with Forbidding() as front:
        with pytest.raises(OperatorError, match=r"does not allow GET .*DENIED: not yours") as refused:
            pull(there, f"http://{front.host}/lab")
        assert refused.value.code == Exit.REFUSED
        assert len(front.seen) == 1


# What breaks


def test_told_to_come_again(here: ImageStore, there: ImageStore, registry: DockerRegistry) -> None:
    id_ = keep(here, disk())
    push(here, f"http://{registry.host}/lab")
    busy = b"HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    down = b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    waits: list[str] = []
    with Line(registry.port, busy, down) as line:
        assert pull(there, f"http://{line.host}/lab", on_wait=waits.append).image == id_
    assert len(waits) == 2
    assert "takes no more requests now; again in 1.0 s" in waits[0]
    assert "status 503" in waits[1]


def test_told_to_come_much_later(there: ImageStore) -> None:
    busy = b"HTTP/1.1 429 Too Many\r\nRetry-After: 86400\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with Line(1, busy) as line, pytest.raises(OperatorError, match="takes no more requests now") as refused:
        pull(there, f"http://{line.host}/lab")
    assert refused.value.code == Exit.UNREACHABLE


def test_a_broken_line_is_picked_up_where_it_broke(
    here: ImageStore, there: ImageStore, registry: DockerRegistry
) -> None:
    id_ = keep(here, disk())
    push(here, f"http://{registry.host}/lab")
    waits: list[str] = []
    with Line(registry.port, 2 * MIB, MIB, MIB) as line:
        got = pull(there, f"http://{line.host}/lab", on_wait=waits.append)
    assert got.image == id_
    assert len(waits) >= 3
    assert any("http.response.status=206" in line or '" 206 ' in line for line in registry.log)
    sizes = [here.chunk_path(name).stat().st_size for name in here.open("lab").chunks if name]
    assert got.fetched_bytes == sum(sizes)  # nothing came twice
    assert content(there, there.ids()[0]) == b"".join(disk())


class Killer:
    """Kills the registry once so many bytes have travelled; ``revive`` starts it again at once."""

    def __init__(self, registry: DockerRegistry, after: int, *, revive: bool) -> None:
        self._registry, self._after, self._revive = registry, after, revive
        self.killed = False

    def __call__(self, progress: Progress) -> None:
        if not self.killed and progress.done >= self._after:
            self.killed = True
            self._registry.stop()
            if self._revive:
                self._registry.start_later(1.0)


def test_registry_killed_in_the_middle_of_a_push(
    here: ImageStore, there: ImageStore, registry: DockerRegistry
) -> None:
    keep(here, disk())
    killer, waits = Killer(registry, 4 * MIB, revive=True), list[str]()
    target = f"http://{registry.host}/lab"
    push(here, target, on=killer, on_wait=waits.append)
    assert killer.killed
    assert any("does not answer" in wait for wait in waits)
    pull(there, target)
    assert content(there, there.ids()[0]) == b"".join(disk())


def test_registry_killed_in_the_middle_of_a_pull(
    here: ImageStore, there: ImageStore, registry: DockerRegistry
) -> None:
    keep(here, disk())
    target = f"http://{registry.host}/lab"
    push(here, target)
    killer = Killer(registry, 4 * MIB, revive=True)
    pull(there, target, on=killer)
    assert killer.killed
    assert content(there, there.ids()[0]) == b"".join(disk())


def test_what_travelled_before_the_end_does_not_travel_again(
    here: ImageStore, there: ImageStore, registry: DockerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry stays away: an error, nothing half in sight; the next try does the rest."""
    monkeypatch.setattr(answers, "TRIES", 2)
    keep(here, disk())
    target = f"http://{registry.host}/lab"
    all_packs = (CHUNKS - 1) // 2  # two chunks make up one
    with pytest.raises(OperatorError, match="does not answer") as gone:
        push(here, target, on=Killer(registry, 4 * MIB, revive=False))
    assert gone.value.code == Exit.UNREACHABLE
    registry.start()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(f"{target.replace(registry.host, registry.host + '/v2')}/manifests/latest")
    rest = push(here, target)
    assert 0 < rest.sent_packs < all_packs

    with pytest.raises(OperatorError, match="does not answer"):
        pull(there, target, on=Killer(registry, 4 * MIB, revive=False))
    assert there.images() == []
    registry.start()
    got = pull(there, target)
    assert 0 < got.fetched_chunks < CHUNKS - 1
    assert got.fetched_chunks + got.present_chunks == CHUNKS - 1
    assert content(there, there.ids()[0]) == b"".join(disk())


# What is wrong


def pack_files(registry: DockerRegistry, repository: str, tag: str) -> list[Path]:
    url = f"http://{registry.host}/v2/{repository}/manifests/{tag}"
    layers = json.loads(fetch(url, artefact.MANIFEST_TYPE))["layers"]
    return [registry.blobs()[layer["digest"].removeprefix("sha256:")] for layer in layers[1:]]


def test_a_flipped_bit_is_refused_and_named(here: ImageStore, there: ImageStore, registry: DockerRegistry) -> None:
    keep(here, disk())
    target = f"http://{registry.host}/lab:v1"
    push(here, target)
    path = pack_files(registry, "lab", "v1")[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match=f"in blob sha256:{path.parent.name}, chunk [0-9a-f]{{64}} is not what"):
        pull(there, target)
    assert there.images() == []
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert pull(there, target).present_chunks > 0
    assert content(there, there.ids()[0]) == b"".join(disk())


@pytest.mark.parametrize("change", [-1, -300_000, 1])
def test_a_blob_of_another_length_is_refused_and_named(
    here: ImageStore, there: ImageStore, registry: DockerRegistry, change: int
) -> None:
    keep(here, disk())
    target = f"http://{registry.host}/lab:v1"
    push(here, target)
    path = pack_files(registry, "lab", "v1")[1]
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + b"x")
    with pytest.raises(ImageError, match=f"blob sha256:{path.parent.name} has {len(data) + change} bytes"):
        pull(there, target)
    assert there.images() == []


def test_damaged_documents_are_refused(here: ImageStore, there: ImageStore, registry: DockerRegistry) -> None:
    keep(here, disk())
    target = f"http://{registry.host}/lab:v1"
    push(here, target)
    manifest = json.loads(fetch(f"http://{registry.host}/v2/lab/manifests/v1", artefact.MANIFEST_TYPE))
    for item in (manifest["config"], manifest["layers"][0]):
        path = registry.blobs()[item["digest"].removeprefix("sha256:")]
        data = path.read_bytes()
        path.write_bytes(data[:-2] + b"0\n")
        with pytest.raises(ImageError, match=f"{item['digest']} has other bytes than its digest says"):
            pull(there, target)
        path.write_bytes(data)
    assert pull(there, target).fetched_chunks == CHUNKS - 1


def test_an_index_that_lies_is_refused(here: ImageStore, there: ImageStore, registry: DockerRegistry) -> None:
    """Every blob has its digest, but a chunk is said to be where another one is."""
    keep(here, disk())
    push(here, f"http://{registry.host}/lab:v1")
    base = f"http://{registry.host}/v2/lab"
    document = json.loads(fetch(f"{base}/manifests/v1", artefact.MANIFEST_TYPE))
    index = json.loads(fetch(f"{base}/blobs/{document['layers'][0]['digest']}"))
    chunks = index["packs"][0]["chunks"]
    chunks[0][0], chunks[1][0] = chunks[1][0], chunks[0][0]
    lie = json.dumps(index).encode()
    layer = {"mediaType": artefact.INDEX_TYPE, "digest": artefact.sha256(lie), "size": len(lie)}
    document["layers"][0] = layer

    async def tell() -> None:
        where = parse_reference(f"http://{registry.host}/lab:v2")
        async with RegistryClient(where, None, trust("")) as client:
            await client.put_blob("lab", artefact.sha256(lie), lie)
            await client.put_manifest("lab", "v2", json.dumps(document).encode())

    asyncio.run(tell())
    with pytest.raises(ImageError, match="is not what its digest says"):
        pull(there, f"http://{registry.host}/lab:v2")
    assert there.images() == []


def test_what_is_damaged_here_is_not_pushed(here: ImageStore, registry: DockerRegistry) -> None:
    keep(here, disk())
    name = here.open("lab").chunks[5]
    data = bytearray(here.chunk_path(name).read_bytes())
    data[1000] ^= 4
    here.chunk_path(name).write_bytes(data)
    with pytest.raises(ImageError, match=f"chunk {name} is damaged, the image is not pushed"):
        push(here, f"http://{registry.host}/lab")


def test_what_is_no_image_of_bootd(there: ImageStore, registry: DockerRegistry) -> None:
    """A container image, as skopeo and docker push it."""
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'

    async def tell() -> None:
        where = parse_reference(f"http://{registry.host}/web:v1")
        async with RegistryClient(where, None, trust("")) as client:
            item = artefact.describe("application/vnd.oci.image.config.v1+json", config)
            await client.put_blob("web", item.digest, config)
            value = {"schemaVersion": 2, "mediaType": artefact.MANIFEST_TYPE, "layers": []}
            value["config"] = {"mediaType": item.media_type, "digest": item.digest, "size": item.size}
            await client.put_manifest("web", "v1", json.dumps(value).encode())

    asyncio.run(tell())
    with pytest.raises(ImageError, match=r"no image of bootd: it is 'application/vnd\.oci\.image\.config"):
        pull(there, f"http://{registry.host}/web:v1")
    with pytest.raises(ImageError, match="is not in the registry"):
        pull(there, f"http://{registry.host}/web:v2")
    with pytest.raises(ImageError, match="is not in the registry"):
        pull(there, f"http://{registry.host}/nothing/here")


def test_containers_beside_images_do_no_harm(here: ImageStore, registry: DockerRegistry) -> None:
    test_what_is_no_image_of_bootd(here, registry)
    keep(here, disk())
    assert push(here, f"http://{registry.host}/web:v2").sent_packs > 1
