"""Tokens: what is kept, who is let in, and how often one may ask."""

import hashlib
import itertools
from pathlib import Path

import pytest

from bootd.drivers.http.limits import MAX_KEYS, Buckets, network_of
from bootd.drivers.http.operator import ROUTES
from bootd.drivers.http.routes import Scope
from bootd.drivers.journal import Journal
from bootd.drivers.tokens import TokenStore
from bootd.errors import Exit, OperatorError


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_only_the_hash_is_kept_and_survives_a_restart(tmp_path: Path) -> None:
    path, clock = tmp_path / "bootd.db", Clock()
    journal = Journal(path, clock)
    text = TokenStore(journal, clock).create("ci", Scope.OPERATE, None, "root")
    assert len(text) == len("bootd_") + 43  # 32 bytes in base64url without padding
    row = journal._database.execute("SELECT digest FROM token").fetchone()
    assert row == (hashlib.sha256(text.encode()).digest(),)
    assert [(line.who, line.what) for line in journal.audit()] == [("root", "token create")]
    journal.close()
    for file in tmp_path.iterdir():  # the write-ahead log too
        assert text.removeprefix("bootd_").encode() not in file.read_bytes(), file
    journal = Journal(path, clock)
    found = TokenStore(journal, clock).check(text)
    assert found is not None
    assert (found.name, found.scope, found.used) == ("ci", Scope.OPERATE, 1000.0)
    journal.close()


def test_revoked_and_expired_tokens_count_for_nothing(tmp_path: Path) -> None:
    clock = Clock()
    journal = Journal(tmp_path / "bootd.db", clock)
    store = TokenStore(journal, clock)
    forever = store.create("forever", Scope.READ, None, "root")
    hour = store.create("hour", Scope.ADMIN, 3600, "root")
    clock.now += 3599
    assert store.check(hour) is not None
    clock.now += 1
    assert store.check(hour) is None
    assert [line["expired"] for line in store.listing()] == [False, True]
    assert forever not in repr(store.listing())
    store.revoke("forever", "token x (10.0.0.1)")
    assert store.check(forever) is None
    assert TokenStore(journal, clock).check(forever) is None  # nor after a restart
    assert [line.what for line in journal.audit()] == ["token create", "token create", "token revoke"]
    with pytest.raises(OperatorError, match="no token 'forever'"):
        store.revoke("forever", "root")
    journal.close()


@pytest.mark.parametrize("text", ["", "bootd_", "x" * 300, "\udcff", "bootd_" + "A" * 43, "é"])
def test_what_is_no_token(tmp_path: Path, text: str) -> None:
    journal = Journal(tmp_path / "bootd.db")
    store = TokenStore(journal)
    store.create("a", Scope.READ, None, "root")
    assert store.check(text) is None
    journal.close()


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", "a\n", "x" * 64, "a/b", "ü", "taken"])
def test_names_that_are_refused(tmp_path: Path, name: str) -> None:
    journal = Journal(tmp_path / "bootd.db")
    store = TokenStore(journal)
    store.create("taken", Scope.READ, None, "root")
    with pytest.raises(OperatorError) as raised:
        store.create(name, Scope.READ, None, "root")
    assert raised.value.code is Exit.USAGE
    assert len(store.listing()) == 1
    journal.close()


def test_a_token_that_the_disk_refuses_does_not_exist(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "bootd.db")
    store = TokenStore(journal)
    journal.close()
    with pytest.raises(OperatorError):
        store.create("a", Scope.READ, None, "root")
    assert store.listing() == []


def test_scopes() -> None:
    allowed = {(have, need) for have, need in itertools.product(Scope, Scope) if have.allows(need)}
    assert allowed == {
        (Scope.READ, Scope.READ),
        (Scope.EXPORT, Scope.READ),
        (Scope.EXPORT, Scope.EXPORT),
        (Scope.OPERATE, Scope.READ),
        (Scope.OPERATE, Scope.EXPORT),
        (Scope.OPERATE, Scope.OPERATE),
        (Scope.ADMIN, Scope.READ),
        (Scope.ADMIN, Scope.EXPORT),
        (Scope.ADMIN, Scope.OPERATE),
        (Scope.ADMIN, Scope.ADMIN),
    }


def test_every_route_has_the_scope_of_its_kind() -> None:
    """Looking needs read, what images hold export, changing operate; tokens, and files of the server, admin."""
    special = {
        ("POST", "/images"): Scope.ADMIN,
        ("POST", "/images/{image}/get"): Scope.ADMIN,
        ("POST", "/images/{image}/export"): Scope.ADMIN,
        ("POST", "/image-import"): Scope.ADMIN,
        ("POST", "/images/{image}/push"): Scope.ADMIN,
        ("POST", "/image-pull"): Scope.ADMIN,
        ("POST", "/sync-agents"): Scope.ADMIN,  # the answer is a key
        ("POST", "/chunks"): Scope.EXPORT,
        ("GET", "/images/{image}/manifest"): Scope.EXPORT,
        ("GET", "/chunks/{digest}"): Scope.EXPORT,
        ("POST", "/image-ticket"): Scope.EXPORT,
    }
    for route in ROUTES:
        if route.path.startswith("/tokens"):
            assert route.scope is Scope.ADMIN, route.path
        elif (route.method, route.path) in special:
            assert route.scope is special[route.method, route.path], route.path
        else:
            assert route.scope is (Scope.READ if route.method == "GET" else Scope.OPERATE), route.path


def test_buckets() -> None:
    buckets = Buckets(rate=2.0, burst=3.0)
    assert [buckets.take("a", 10.0) for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
    assert buckets.take("b", 10.0) == 0
    assert buckets.take("a", 10.5) == 0
    assert buckets.take("a", 10.5) == 0.5
    assert buckets.take("a", 9.0) == 0.5  # a clock that goes back gives nothing
    assert [buckets.take("a", 1000.0) for _ in range(4)] == [0, 0, 0, 0.5]
    for number in range(3 * MAX_KEYS):
        buckets.take(str(number), 1000.0)
    assert len(buckets._buckets) == MAX_KEYS


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_what_counts_as_one_client(address: str, network: str) -> None:
    assert network_of(address) == network
