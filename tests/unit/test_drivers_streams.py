"""Server-sent events: framing, order, bounds; read back by the node's own reader and by hand."""

import asyncio
import io

from bootd.drivers.http.streams import HEARTBEAT, Streams, Subscriber, frame
from bootd.member.control import read_events


def test_frames_are_read_by_the_nodes_reader() -> None:
    stream = frame(b'{"a":1}') + HEARTBEAT + frame(b"two\nlines", "line")
    assert list(read_events(io.BytesIO(stream))) == [b'{"a":1}', b"two\nlines"]


def test_frame_by_the_standard() -> None:
    # WHATWG HTML 9.2.6: a blank line dispatches, so none may be inside an event.
    assert frame(b"x") == b"data: x\n\n"
    assert frame(b"a\r\nb\n", "state") == b"event: state\ndata: a\ndata: b\ndata: \n\n"
    assert HEARTBEAT.startswith(b":")


def test_what_is_in_force_comes_first_and_nothing_twice() -> None:
    async def run() -> None:
        subscriber = Subscriber("n", [b"1", b"2"], 4)
        assert subscriber.put(b"3")
        assert await subscriber.next(5) == b"123"
        assert await subscriber.next(0.01) == HEARTBEAT
        waiting = asyncio.create_task(subscriber.next(5))
        await asyncio.sleep(0)
        subscriber.put(b"4")
        assert await waiting == b"4"

    asyncio.run(run())


def test_a_lagging_client_is_dropped_and_holds_no_more_than_its_queue() -> None:
    async def run() -> None:
        streams = Streams(limit=3)
        slow, fast = streams.attach("slow", []), streams.attach("fast", [])
        for number in range(10):
            data = str(number).encode()
            assert streams.publish("slow", data) is (number < 3)
            assert streams.publish("fast", data)
            assert await fast.next(1) == data
        assert slow.closed
        assert slow.reason == "lags behind"
        assert await slow.next(1) is None
        assert len(streams) == 1

    asyncio.run(run())


def test_more_in_force_than_the_queue_holds_is_still_sent() -> None:
    async def run() -> None:
        subscriber = Subscriber("n", [b"x"] * 9, 3)
        assert await subscriber.next(1) == b"x" * 9
        assert subscriber.put(b"y")

    asyncio.run(run())


def test_a_new_connection_takes_the_place_of_the_old_one() -> None:
    async def run() -> None:
        streams = Streams()
        old = streams.attach("n", [])
        new = streams.attach("n", [])
        assert await old.next(1) is None
        streams.detach(old)
        assert streams.publish("n", b"x")
        assert await new.next(1) == b"x"
        streams.detach(new)
        assert not streams.publish("n", b"x")

    asyncio.run(run())


def test_closing_wakes_who_waits() -> None:
    async def run() -> None:
        streams = Streams()
        subscriber = streams.attach("n", [])
        waiting = asyncio.create_task(subscriber.next(30))
        await asyncio.sleep(0)
        streams.close()
        assert await asyncio.wait_for(waiting, 1) is None

    asyncio.run(run())
