"""Schedules: due at their time, kept until the machine is up, once a day, also over a restart of the daemon."""

import asyncio
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bootd.drivers.engine import Engine
from bootd.drivers.http.streams import Subscriber
from bootd.drivers.journal import Journal
from bootd.drivers.sync.keeper import Folders, SyncKeeper
from bootd.drivers.sync.sources import check_source, overlay_folder, own_files
from bootd.drivers.sync.store import Schedule, SyncStore
from bootd.errors import Exit, OperatorError
from bootd.netboot.labels import BUILT_IN
from bootd.session.coordinator import Coordinator
from bootd.session.sync import Options, SyncSet
from bootd.wire.control import SyncReport, SyncState

MAC = "52:54:00:00:00:01"


def engine_in(folder: Path) -> Engine:
    coordinator = Coordinator(
        labels={label.name: label for label in BUILT_IN},
        default_label="local",
        names={MAC: "lab1"},
        node_labels={},
        head_host="10.9.0.2",
        draw=lambda size: "ab" * size,
    )
    return Engine(coordinator, Journal(folder / "bootd.db"))


class Bench:
    def __init__(self, folder: Path) -> None:
        self.now = time.mktime((2026, 7, 1, 2, 58, 30, 0, 0, -1))
        source = folder / "model"
        if not source.exists():
            source.mkdir()
            (source / "file").touch()
        self.wanted = SyncSet("lab", str(source), target="/srv", least_files=1)
        folders = Folders(folder / "overlay", folder / "collected")
        self.store = SyncStore(folder / "sync.db")
        self.keeper = SyncKeeper(
            engine_in(folder),
            {"lab": self.wanted},
            folders,
            self.store,
            server="10.9.0.2:1",
            clock=lambda: self.now,
        )

    def agent(self) -> Subscriber:
        return self.keeper.streams.attach(MAC, [])


async def told(agent: Subscriber) -> dict[str, object] | None:
    """What an agent is told; None when nothing is."""
    data = await agent.next(0.01)
    if data is None or not data.startswith(b"data: "):
        return None
    value: dict[str, object] = json.loads(data.removeprefix(b"data: "))
    return value


def test_daily_once_also_for_a_machine_that_is_down_then(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path)
        bench.store.keep(Schedule("s", "lab", "lab1", "03:00", True, False, False, 4, "root"))
        await bench.keeper.look()
        bench.now += 120
        await bench.keeper.look()
        assert bench.store.schedules["s"].due == (MAC,)
        bench.store.close()
        after = Bench(tmp_path)  # the daemon starts anew, later
        after.now = bench.now + 3600
        agent = after.agent()
        await after.keeper.look()
        order = await told(agent)
        assert order is not None
        assert (order["type"], order["name"], order["freeze"]) == ("sync", "lab", True)
        assert after.store.schedules["s"].due == ()
        assert after.keeper.reported(SyncReport(MAC, str(order["task"]), SyncState.DONE))
        for _ in range(5):
            after.now += 60
            await after.keeper.look()
        assert await told(agent) is None, "once a day"
        after.now += 24 * 3600
        await after.keeper.look()
        assert await told(agent) is None, "an hour at most is made up for"

    asyncio.run(story())


def test_a_source_that_is_gone_is_noted_and_deletes_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path)
        bench.store.keep(Schedule("s", "lab", "lab1", "boot", True, False, False, 4, "root"))
        bench.store.enrol(MAC, 1.0, "root")
        (tmp_path / "model/file").unlink()
        agent = bench.agent()
        await bench.keeper.look()
        assert await told(agent) is None
        (line,) = [line for line in bench.keeper.engine.timeline if line["kind"] == "sync"]
        assert "0 files and folders, 1 at least" in line["text"]

    asyncio.run(story())


def test_keys_of_agents(tmp_path: Path) -> None:
    store = SyncStore(tmp_path / "sync.db")
    key = store.enrol(MAC, 1.0, "root")
    assert store.is_agent(MAC, key)
    assert not store.is_agent("52:54:00:00:00:02", key)
    assert key.encode() not in (tmp_path / "sync.db").read_bytes()
    newer = store.enrol(MAC, 2.0, "root")
    assert not store.is_agent(MAC, key)
    store.close()
    again = SyncStore(tmp_path / "sync.db")
    assert again.is_agent(MAC, newer)
    assert again.revoke(MAC)
    assert not again.is_agent(MAC, newer)
    assert not again.revoke(MAC)


def test_sources(tmp_path: Path) -> None:
    wanted = SyncSet("lab", str(tmp_path / "model"), target="/srv", least_files=3, marker="etc/this-is-it")
    with pytest.raises(OperatorError, match="is no folder"):
        check_source(wanted)
    (tmp_path / "model/etc").mkdir(parents=True)
    with pytest.raises(OperatorError, match="has no etc/this-is-it"):
        check_source(wanted)
    (tmp_path / "model/etc/this-is-it").touch()
    with pytest.raises(OperatorError, match="2 files and folders, 3 at least") as caught:
        check_source(wanted)
    assert caught.value.code is Exit.REFUSED
    assert check_source(wanted, few=True) >= 1
    (tmp_path / "model/etc/more").touch()
    assert check_source(wanted) == 3
    (tmp_path / "model").chmod(0o700)
    assert check_source(wanted) == 3
    with pytest.raises(OperatorError, match="so would / of the nodes be"):
        check_source(replace(wanted, target="/"))
    try:
        os.setxattr(tmp_path / "model", "user.rsync.%stat", b"40755 0,0 0:0")
    except OSError:
        pytest.skip("this file system keeps no user attributes")
    assert check_source(replace(wanted, target="/")) == 3


def test_files_of_one_node_alone(tmp_path: Path) -> None:
    (tmp_path / "lab1/etc/ssh").mkdir(parents=True)
    (tmp_path / "lab1/etc/ssh/key").touch()
    (tmp_path / "lab1/etc/link").symlink_to("ssh")
    assert set(own_files(overlay_folder(tmp_path, "lab1", "/"))) == {"etc/ssh/key", "etc/link"}
    assert set(own_files(overlay_folder(tmp_path, "lab1", "/etc"))) == {"ssh/key", "link"}
    assert own_files(overlay_folder(tmp_path, "lab1", "/home")) == ()
    assert own_files(overlay_folder(tmp_path, "lab2", "/")) == ()
    (tmp_path / "lab1/a\nb").touch()
    with pytest.raises(OperatorError, match="not printable"):
        own_files(overlay_folder(tmp_path, "lab1", "/"))


def test_orders_that_contradict_themselves(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path)
        for options in (Options(collect=True, freeze=True), Options(cap=0)):
            with pytest.raises(OperatorError):
                await bench.keeper.begin("lab", [MAC], options, "root")
        with pytest.raises(OperatorError, match="no node"):
            await bench.keeper.begin("lab", [], Options(), "root")

    asyncio.run(story())
