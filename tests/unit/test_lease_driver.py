"""The table, the disk and the probe together, on a real loop and file; only what the probe finds is given."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bootd.config import parse
from bootd.drivers.dhcp.leases import Leases
from bootd.drivers.dhcp.probe import Prober
from bootd.netboot.addresses.decision import Arrival, Nak
from bootd.netboot.addresses.lease import Lease
from bootd.netboot.dhcp import Message, MessageType, Operation

SETTINGS = """
[server]
state_dir = "{0}"
[dhcp]
proxy = false
[[dhcp.pool]]
subnet = "10.9.0.0/24"
range = "10.9.0.100-10.9.0.102"
"""
ARRIVAL = Arrival(("10.9.0.2",))
Given = Lease | Nak


class Asked(Prober):
    """A prober whose answers the test gives, address by address, when it likes."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.asked: asyncio.Queue[tuple[str, asyncio.Future[str]]] = asyncio.Queue()

    async def in_use(self, address: str, interface: str, client: str, relayed: bool) -> str:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self.asked.put((address, answer))
        return await answer


class Room:
    def __init__(self, folder: Path) -> None:
        self.prober, self.told, self.now = Asked(), list[tuple[str, str, str]](), 1000.0
        self.leases = Leases(
            parse(SETTINGS.format(folder)), self.prober, lambda *line: self.told.append(line), lambda: self.now
        )
        self.leases.open()
        self.answers: asyncio.Queue[tuple[int, Given]] = asyncio.Queue()
        self._transaction = 0

    def ask(self, kind: MessageType, last: int = 1, requested: str = "", server: str = "", using: str = "") -> int:
        """Send a request; the number of its transaction."""
        self._transaction += 1
        number = self._transaction
        options = {53: bytes((kind,))}
        for code, address in ((50, requested), (54, server)):
            if address:
                options[code] = bytes(int(part) for part in address.split("."))
        request = Message(
            Operation.REQUEST,
            number,
            1,
            bytes((0x52, 0x54, 0, 0, 0, last)),
            client=using or "0.0.0.0",
            options=options,
        )
        self.leases.handle(request, ARRIVAL, "eth0", lambda given: self.answers.put_nowait((number, given)))
        return number

    async def bound(self, last: int) -> str:
        self.ask(MessageType.DISCOVER, last)
        (await self.prober.asked.get())[1].set_result("")
        _, given = await self.answers.get()
        assert isinstance(given, Lease)
        self.ask(MessageType.REQUEST, last, given.address, "10.9.0.2")
        _, given = await self.answers.get()
        assert isinstance(given, Lease)
        return given.address


def play(folder: Path, story: Callable[[Room], Awaitable[None]]) -> None:
    async def run() -> None:
        room = Room(folder)
        writer = asyncio.create_task(room.leases.run())
        try:
            async with asyncio.timeout(20):
                await story(room)
        finally:
            writer.cancel()
            await room.leases.close()

    asyncio.run(run())


def test_an_offer_waits_for_the_probe_and_answers_the_latest_request(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.ask(MessageType.DISCOVER)
        address, answer = await room.prober.asked.get()
        latest = room.ask(MessageType.DISCOVER)  # firmware repeats itself while we ask
        await asyncio.sleep(0)
        assert room.answers.empty()
        answer.set_result("")
        number, given = await room.answers.get()
        assert number == latest
        assert isinstance(given, Lease)
        assert given.address == address
        assert room.prober.asked.empty()
        again = room.ask(MessageType.DISCOVER)  # probed already
        assert (await room.answers.get())[0] == again

    play(tmp_path, story)


def test_a_request_for_an_address_under_probe_is_a_lease_not_an_offer(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.ask(MessageType.DISCOVER)
        address, answer = await room.prober.asked.get()
        number = room.ask(MessageType.REQUEST, requested=address)
        answer.set_result("")
        assert (await room.answers.get())[0] == number
        assert [lease["state"] for lease in room.leases.listing()] == ["bound"]

    play(tmp_path, story)


def test_an_offer_waits_for_those_who_answer_at_once_and_the_lease_for_the_whole_probe(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        discover = room.ask(MessageType.DISCOVER)
        address, answer = await room.prober.asked.get()
        number, given = await room.answers.get()  # nobody has answered yet
        assert isinstance(given, Lease)
        assert (number, given.address) == (discover, address)
        again = room.ask(MessageType.DISCOVER)  # the offer was lost: the same one, at once
        number, given = await room.answers.get()
        assert isinstance(given, Lease)
        assert (number, given.address) == (again, address)
        request = room.ask(MessageType.REQUEST, requested=address, server="10.9.0.2")
        await asyncio.sleep(0.05)
        assert room.answers.empty()
        answer.set_result("")
        number, given = await room.answers.get()
        assert isinstance(given, Lease)
        assert (number, given.address) == (request, address)

    play(tmp_path, story)


@pytest.mark.parametrize("asked_before", [True, False])
def test_who_answers_the_probe_late_keeps_the_address(tmp_path: Path, *, asked_before: bool) -> None:
    async def story(room: Room) -> None:
        room.ask(MessageType.DISCOVER)
        address, answer = await room.prober.asked.get()
        await room.answers.get()
        if asked_before:
            request = room.ask(MessageType.REQUEST, requested=address, server="10.9.0.2")
        answer.set_result("02:00:00:00:00:99")
        while not room.told:  # noqa: ASYNC110
            await asyncio.sleep(0)
        if not asked_before:
            request = room.ask(MessageType.REQUEST, requested=address, server="10.9.0.2")
        number, given = await room.answers.get()
        assert isinstance(given, Nak)
        assert number == request
        assert [lease["state"] for lease in room.leases.listing()] == ["quarantined"]

    play(tmp_path, story)


def test_two_clients_at_the_same_time_are_probed_on_two_addresses(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        for last in (1, 2, 3):
            room.ask(MessageType.DISCOVER, last)
        probed = [await room.prober.asked.get() for _ in range(3)]
        assert len({address for address, _ in probed}) == 3
        room.ask(MessageType.DISCOVER, 4)
        room.ask(MessageType.DISCOVER, 5)
        assert [kind for kind, _, _ in room.told] == ["exhausted"]  # said once
        for _, answer in probed:
            answer.set_result("")
        given = [(await room.answers.get())[1] for _ in range(3)]
        assert {lease.address for lease in given if isinstance(lease, Lease)} == {a for a, _ in probed}

    play(tmp_path, story)


def test_addresses_in_use_are_left_alone_one_after_the_other(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.ask(MessageType.DISCOVER)
        first, answer = await room.prober.asked.get()
        answer.set_result("02:00:00:00:00:99")
        second, answer = await room.prober.asked.get()
        answer.set_result("")
        _, given = await room.answers.get()
        assert isinstance(given, Lease)
        assert (given.address, first != second) == (second, True)
        assert room.told == [
            ("conflict", "52:54:00:00:00:01", f"{first} is used by 02:00:00:00:00:99: it is left alone")
        ]

    play(tmp_path, story)

    async def after_a_restart(room: Room) -> None:
        assert [lease["state"] for lease in room.leases.listing()] == [
            "quarantined"
        ]  # the offer was in memory only

    play(tmp_path, after_a_restart)


def test_everything_in_use_ends_in_silence(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.ask(MessageType.DISCOVER)
        for _ in range(3):
            (await room.prober.asked.get())[1].set_result("02:00:00:00:00:99")
        while not any(kind == "exhausted" for kind, _, _ in room.told):  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert room.answers.empty()

    play(tmp_path, story)


def test_lease_is_on_disk_for_the_next_run(tmp_path: Path) -> None:
    addresses: list[str] = []

    async def story(room: Room) -> None:
        addresses.append(await room.bound(1))
        addresses.append(await room.bound(2))
        room.ask(MessageType.RELEASE, 2, using=addresses[1], server="10.9.0.2")

    play(tmp_path, story)

    async def after_a_restart(room: Room) -> None:
        listed = {lease["address"]: (lease["state"], lease["holds"]) for lease in room.leases.listing()}
        assert listed == {addresses[0]: ("bound", True), addresses[1]: ("released", False)}
        room.ask(MessageType.REQUEST, 3, requested=addresses[0], server="10.9.0.2")
        assert isinstance((await room.answers.get())[1], Nak)
        number = room.ask(MessageType.REQUEST, 1, using=addresses[0])
        assert (await room.answers.get())[0] == number
        room.leases.own_addresses([addresses[1]])  # it has become this server's own address
        assert await room.bound(2) not in addresses

    play(tmp_path, after_a_restart)


def test_what_a_failed_disk_confirms(tmp_path: Path) -> None:
    """Nothing: the client is not told, and asks again."""

    async def story(room: Room) -> None:
        room.ask(MessageType.DISCOVER)
        (await room.prober.asked.get())[1].set_result("")
        _, given = await room.answers.get()
        assert isinstance(given, Lease)
        store = room.leases._store
        assert store is not None
        store._database.execute("DROP TABLE lease")
        room.ask(MessageType.REQUEST, 1, given.address, "10.9.0.2")
        other = room.ask(MessageType.DISCOVER, 2)  # offers need no disk
        (await room.prober.asked.get())[1].set_result("")
        assert (await room.answers.get())[0] == other

    play(tmp_path, story)
