"""``bootd image push|pull|fetch``, through a daemon and without: registries, and a site that caches another's."""

import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.config import Api, Images, Registry, parse
from bootd.drivers.http.routes import Scope
from bootd.drivers.images import upstream
from bootd.drivers.images.store import ImageStore
from bootd.drivers.registry.credentials import Login
from bootd.errors import Exit, OperatorError
from bootd.images.manifest import ImageError
from bootd.images.oci import answers
from tests.unit.certificates import certified
from tests.unit.docker_registry import DockerRegistry, config_json, htpasswd
from tests.unit.operators import Operators
from tests.unit.registry_faults import Line
from tests.unit.test_registry import Told, content, disk, keep

LOGIN = Login("room", "pass:word")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Sites:
    """The daemon of a main site, on the network with TLS, and what a daemon elsewhere is told of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        certified(folder)
        (folder / "main").mkdir()
        self.main = Operators(folder / "main")
        self.api = Api(
            enabled=True,
            port=free_port(),
            certificate=str(folder / "server.pem"),
            key=str(folder / "server.key"),
        )
        self.main.listen(self.api)
        self.token = folder / "token"
        self.token.touch(0o600)
        self.token.write_text(self.make_token("site", Scope.EXPORT) + "\n")
        self.told = Told()

    def make_token(self, name: str, scope: Scope) -> str:
        async def make() -> None:
            made.append(self.main.tokens.create(name, scope, None, "test"))

        made: list[str] = []
        self.main.call(make())
        return made[0]

    @property
    def settings(self) -> Images:
        return Images(
            upstream=f"https://127.0.0.1:{self.api.port}",
            upstream_token=str(self.token),
            upstream_authority=str(self.folder / "ca.pem"),
        )

    def fetch(self, store: ImageStore, image: str, port: int | None = None) -> dict[str, object]:
        """What a job of the site does, in this process."""
        return upstream.fetch(
            self.told,
            store=str(store.directory),
            image=image,
            upstream=f"https://127.0.0.1:{port or self.api.port}",
            token=str(self.token),
            upstream_authority=str(self.folder / "ca.pem"),
        )

    @property
    def store(self) -> ImageStore:
        return ImageStore(self.main.images)


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    made = Sites(tmp_path)
    yield made
    made.main.close()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[ImageStore]:
    store = ImageStore(tmp_path / "there")
    yield store
    store.close()


def put(directory: Path, created: str = "2026-01-31T23:59:59Z", *changed: int) -> str:
    store = ImageStore(directory)
    try:
        return keep(store, disk(frozenset(changed)), created)
    finally:
        store.close()


# Registries


def test_push_and_pull_through_the_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "daemon").mkdir()
    with DockerRegistry(tmp_path / "registry", auth=htpasswd(tmp_path, LOGIN)) as registry:
        settings = Registry(credentials=str(config_json(tmp_path, registry.host, LOGIN)))
        operators = Operators(tmp_path / "daemon", registry=settings)
        try:
            id_ = put(operators.images)
            target = f"http://{registry.host}/rooms/lab:v1"
            code, out, err = operators.run(capsys, "image", "push", "lab", target, "--json")
            assert code == Exit.OK, err
            sent = json.loads(out)
            assert (sent["image"], sent["sent_packs"]) == (id_, 1)

            other = tmp_path / "other"
            words = ("--credentials", settings.credentials)
            code, out, err = operators.run(capsys, "image", "--store", str(other), "pull", target, *words)
            assert code != Exit.OK  # no store there: a wrong path is not made one
            code, out, err = operators.run(
                capsys, "image", "pull", f"{target.removesuffix(':v1')}@{sent['digest']}", "--name", "hall:one"
            )
            assert code == Exit.OK, err
            assert f"hall:one is {id_[:12]}" in out
            assert "0 chunks; 15 were here" in out
            code, out, err = operators.run(capsys, "image", "push", "hall:one", target)
            assert "sent in 0 packs, 1 were there" in out
            kinds = [(line.what, line.detail) for line in operators.journal.audit(100)]
            assert ("image-push", f"lab to {target}") in kinds
            assert "image-pull" in [what for what, _ in kinds]

            for order, wanted, text in (
                (("pull", f"http://{registry.host}/rooms/lab:v9"), Exit.INPUT, "is not in the registry"),
                (("pull", "lab"), Exit.USAGE, "names nothing in a registry"),
                (("push", "nothing", target), Exit.INPUT, "no image nothing"),
                (("push", "lab", f"http://{registry.host}/a@sha256:{'0' * 64}"), Exit.USAGE, "names a digest"),
                (("push", "lab", "http://registry.example/lab"), Exit.REFUSED, "without TLS"),
            ):
                code, out, err = operators.run(capsys, "image", *order)
                assert (code, text in err) == (wanted, True), (order, code, err)
            Path(settings.credentials).write_text('{"auths": {}}')
            code, out, err = operators.run(capsys, "image", "push", "lab", target)
            assert code == Exit.REFUSED
            assert "wants a login" in err
        finally:
            operators.close()


def test_without_the_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str], sites: Sites) -> None:
    id_ = put(tmp_path / "one")
    ImageStore(tmp_path / "two")
    with DockerRegistry(tmp_path / "registry") as registry:
        target = f"http://{registry.host}/lab"
        for store, words in (("one", ("push", "lab", target)), ("two", ("pull", target))):
            code, _out, err = sites.main.run(capsys, "image", "--store", str(tmp_path / store), *words)
            assert code == Exit.OK, err
    assert ImageStore(tmp_path / "two").resolve("lab") == id_


def test_only_an_administrator_says_where_images_go(sites: Sites) -> None:
    token = sites.make_token("operator", Scope.OPERATE)
    for path in ("images/lab/push", "image-pull"):
        request = urllib.request.Request(
            f"https://127.0.0.1:{sites.api.port}/api/v1/{path}",
            b"{}",
            {"Authorization": f"Bearer {token}"},
            method="POST",
        )
        trusted = ssl.create_default_context(cafile=sites.folder / "ca.pem")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request, context=trusted)  # noqa: S310 - https


# Another site


def test_an_image_comes_once_and_stays(sites: Sites, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "site").mkdir()
    site = Operators(tmp_path / "site", images=sites.settings)
    try:
        first = put(sites.main.images)
        code, out, err = site.run(capsys, "image", "fetch", "lab", "--json")
        assert code == Exit.OK, err
        assert json.loads(out)["fetched_chunks"] == 15
        kept = ImageStore(site.images)
        assert kept.resolve("lab") == first
        assert content(kept, "lab") == b"".join(disk())

        second = put(sites.main.images, "2026-02-01T00:00:00Z", 7)
        assert site.run(capsys, "image", "fetch", "lab")[1] == f"lab is {first[:12]}: all of it was here\n"
        code, out, err = site.run(capsys, "image", "fetch", "lab", "--refresh", "--json")
        assert (json.loads(out)["image"], json.loads(out)["fetched_chunks"]) == (second, 1)

        sites.main.close_network()
        assert site.run(capsys, "image", "fetch", "lab")[0] == Exit.OK
        assert kept.resolve("lab") == second
        assert "image-fetch" in [line.what for line in site.journal.audit(100)]
    finally:
        site.close()


def test_a_deploy_has_its_image_brought(sites: Sites, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "site").mkdir()
    site = Operators(tmp_path / "site", images=sites.settings)
    try:
        id_ = put(sites.main.images)
        words = ("deploy", "lab", "lab1", "--disk", "only", "--yes", "--json")
        code, _out, err = site.run(capsys, *words)
        assert code == Exit.OK, err
        assert ImageStore(site.images).resolve("lab") == id_
        second = put(sites.main.images, "2026-02-01T00:00:00Z", 7)
        sites.store.tag("lab", "hall:v2")
        assert site.run(capsys, "image", "fetch", "hall:v2")[0] == Exit.OK
        again = (*words[:2], "lab2", *words[3:])
        assert site.run(capsys, *again)[0] == Exit.OK  # the name is what it was when it was fetched
        assert second in ImageStore(site.images).ids()
        sources = {session.plan.source for session in site.engine.coordinator.sessions.values()}
        assert sources == {f"image:lab@{id_}"}
        code, _out, err = site.run(capsys, "deploy", "hall", *words[2:])
        assert (code, "there is no image hall" in err) == (Exit.INPUT, True)
        code, _out, err = sites.main.run(capsys, "deploy", "hall", *words[2:])
        assert (code, "there is no image hall" in err) == (Exit.INPUT, True)  # it has no upstream
    finally:
        site.close()


def test_an_old_version_is_not_the_latest_here(sites: Sites, there: ImageStore) -> None:
    first = put(sites.main.images)
    sites.store.tag("lab", "lab:v1")
    second = put(sites.main.images, "2026-02-01T00:00:00Z", 7)
    sites.fetch(there, "lab:v1")
    assert there.resolve("lab:v1") == first
    with pytest.raises(ImageError, match="there is no image lab"):
        there.resolve("lab")
    sites.fetch(there, second[:16])
    assert second in there.ids()
    with pytest.raises(ImageError, match="there is no image lab"):
        there.resolve("lab")
    sites.fetch(there, "lab")
    assert there.resolve("lab") == second


def test_a_line_that_breaks(sites: Sites, there: ImageStore) -> None:
    id_ = put(sites.main.images)
    with Line(sites.api.port, 2 << 20, 3 << 20, 1000) as line:
        assert sites.fetch(there, "lab", int(line.host.rpartition(":")[2]))["image"] == id_
        assert line.connections >= 4
    assert any("does not answer" in note for note in sites.told.notes)
    assert content(there, "lab") == b"".join(disk())


def test_the_upstream_is_away(sites: Sites, there: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "TRIES", 2)
    put(sites.main.images)
    sites.main.close_network()
    with pytest.raises(OperatorError, match="does not answer") as away:
        sites.fetch(there, "lab")
    assert away.value.code == Exit.UNREACHABLE
    assert there.images() == []


def test_what_is_damaged_there_is_not_taken(sites: Sites, there: ImageStore) -> None:
    put(sites.main.images)
    name = sites.store.open("lab").chunks[4]
    path = sites.store.chunk_path(name)
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match=f"chunk {name} came from the upstream and is not what its digest says"):
        sites.fetch(there, "lab")
    assert there.images() == []
    path.unlink()
    with pytest.raises(ImageError, match=f"chunk {name} is not in the store"):
        sites.fetch(there, "lab")
    data[5000] ^= 1
    path.write_bytes(data)
    sites.fetch(there, "lab")
    assert content(there, "lab") == b"".join(disk())


def test_who_may_fetch(sites: Sites, there: ImageStore) -> None:
    put(sites.main.images)
    with pytest.raises(ImageError, match="there is no image hall"):
        sites.fetch(there, "hall")
    sites.token.write_text("wrong\n")
    with pytest.raises(OperatorError, match="refuses the token") as refused:
        sites.fetch(there, "lab")
    assert refused.value.code == Exit.REFUSED
    assert "wrong" not in str(refused.value)
    sites.token.write_text(sites.make_token("reader", Scope.READ))
    with pytest.raises(OperatorError, match="refuses the token"):
        sites.fetch(there, "lab")


def test_a_registry_as_upstream(tmp_path: Path, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
    with DockerRegistry(tmp_path / "registry") as registry:
        id_ = put(sites.main.images)
        target = f"http://{registry.host}/rooms/lab:spring"
        assert sites.main.run(capsys, "image", "push", "lab", target)[0] == Exit.OK
        (tmp_path / "site").mkdir()
        site = Operators(tmp_path / "site", images=Images(upstream=f"oci+http://{registry.host}/rooms"))
        try:
            code, _out, err = site.run(capsys, "image", "fetch", "lab:spring")
            assert code == Exit.OK, err
            assert ImageStore(site.images).resolve("lab:spring") == id_
            code, _out, err = site.run(capsys, "image", "fetch", "lab:autumn")
            assert (code, "is not in the registry" in err) == (Exit.INPUT, True)
        finally:
            site.close()


def test_settings() -> None:
    text = '[images]\nupstream = "ftp://main"\n'
    with pytest.raises(OperatorError, match="neither a bootd nor a registry"):
        parse(text)
    with pytest.raises(OperatorError, match=r"registry\.credentials is not an absolute path"):
        parse('[registry]\ncredentials = "registry.json"\n')
    assert parse('[registry]\nplain_hosts = ["lan:5000"]\n').registry.plain_hosts == ("lan:5000",)


def test_chunks_that_nobody_may_ask_for(sites: Sites) -> None:
    for names in ([], ["../../etc/passwd"], ["0" * 64] * 65):
        assert sites.main.request("POST", "/chunks", {"digests": names})[0] == 400
    assert sites.main.request("POST", "/chunks", {"digests": ["0" * 64]})[0] == 422


def test_two_who_ask_for_the_same_wait_for_the_same(
    sites: Sites, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(sites.main.images)
    (tmp_path / "site").mkdir()
    site = Operators(tmp_path / "site", images=sites.settings)
    try:
        jobs = [site.request("POST", "/image-fetch", {"image": "lab"})[1]["job"]["id"] for _ in range(2)]
        assert len(set(jobs)) == 1
        assert site.run(capsys, "job", "wait", jobs[0])[0] == Exit.OK
        assert len(site.jobs.all()) == 1
    finally:
        site.close()
