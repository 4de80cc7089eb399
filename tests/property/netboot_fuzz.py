"""``make fuzz``: a million mutants for each parser of the boot plane: DHCP, TFTP, DNS. On all cores.

``python -m tests.property.netboot_fuzz --count N --seed S``. What is parsed goes on to the decision that it would
reach. Nothing but `PeerProtocolError` may leave a parser, and nothing at all a decision; no single input may cost
more than `MAX_SECONDS` of CPU. A failing case is printed as the command that plays it alone.
"""

import argparse
import os
import secrets
import struct
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing import Pool
from random import Random

from bootd.netboot import dhcp, loaders, offer
from bootd.netboot.files import tftp
from bootd.netboot.names import answers, zone
from bootd.netboot.offer import Interface, NodePolicy
from bootd.wire.errors import PeerProtocolError
from tests.property.test_netboot_mutants import DISCOVER, READ

MAX_SECONDS = 0.005
_INTERFACE = Interface("eth0", "10.9.0.2", 7467, artefacts=loaders.ARTEFACTS)
_HOSTS = [zone.Host("pc1", "10.9.0.11"), zone.Host("pc2", "10.9.0.12")]
_ZONE = zone.build("lab.test", "pc", "10.9.0.2", _HOSTS, 1)
_ACKNOWLEDGE = b"\0\x04\0\x07"
_QUERY = (
    struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 1) + b"\3pc1\3lab\4test\0\0\1\0\1" + b"\0\0\x29\x10\0\0\0\0\0\0\0"
)


def _dhcp(data: bytes) -> None:
    message = dhcp.parse(data)
    for port in (67, 4011):
        decision = offer.decide(message, NodePolicy(), _INTERFACE, port, ("10.9.0.77", 68))
        if isinstance(decision, offer.Offer):
            dhcp.parse(decision.reply)


def _tftp(data: bytes) -> None:
    request = tftp.parse_request(data)
    tftp.negotiate(request, 1 << 20, 1500)


def _dns(data: bytes) -> None:
    try:
        for forwards in (False, True):
            answers.decide(data, _ZONE, allowed=True, forwards=forwards)
    except PeerProtocolError as error:
        raise AssertionError(f"a decision raised: {error}") from error
    answers.parse_question(data)


PARSERS: dict[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "dhcp": (_dhcp, (DISCOVER,)),
    "tftp": (_tftp, (READ, _ACKNOWLEDGE)),
    "dns": (_dns, (_QUERY,)),
}


def mutant(chance: Random, originals: tuple[bytes, ...]) -> bytes:
    """Bytes changed, pieces cut out, doubled, moved or taken from elsewhere; now and then nothing but noise."""
    if chance.random() < 0.05:
        return chance.randbytes(chance.randrange(700))
    data = bytearray(chance.choice(originals))
    for _ in range(chance.randrange(1, 5)):
        start = chance.randrange(len(data) + 1)
        stop = min(len(data), start + chance.randrange(24))
        match chance.randrange(7):
            case 0 if stop > start:
                data[start] = chance.randrange(256)
            case 1 if stop > start:
                data[start] ^= 1 << chance.randrange(8)
            case 2:
                del data[start:stop]
            case 3:
                data[start:start] = data[start:stop] * chance.randrange(1, 30)
            case 4:
                data[start:stop] = chance.randbytes(stop - start)
            case 5:
                data[start:start] = chance.choice((b"\xff", b"\0", b"\xc0\x0c", b"\x3f", b"\xff\xff\xff\xff"))
            case _:
                del data[stop:]
    return bytes(data[:2048])


def play(name: str, seed: int, number: int) -> tuple[bool, float]:
    """Whether the input was understood, and its CPU seconds."""
    parse, originals = PARSERS[name]
    data = mutant(Random((seed << 40) | number), originals)
    begun = time.thread_time()
    try:
        parse(data)
    except PeerProtocolError:
        return False, time.thread_time() - begun
    return True, time.thread_time() - begun


def play_share(order: tuple[str, int, int, int]) -> tuple[str, int, float, str]:
    """Parser, how many inputs were understood, the dearest one in seconds, and what went wrong first."""
    name, seed, first, stop = order
    understood, worst = 0, 0.0
    for number in range(first, stop):
        try:
            is_understood, seconds = play(name, seed, number)
            if seconds > MAX_SECONDS:  # once more: it may have been somebody else's fault
                seconds = min(play(name, seed, number)[1] for _ in range(3))
        except Exception:
            return name, understood, worst, f"{traceback.format_exc()}again: {_again(name, seed, number)}"
        understood, worst = understood + is_understood, max(worst, seconds)
        if seconds > MAX_SECONDS:
            return (
                name,
                understood,
                worst,
                f"{seconds * 1000:.1f} ms for one input\nagain: {_again(name, seed, number)}",
            )
    return name, understood, worst, ""


def _again(name: str, seed: int, number: int) -> str:
    return f"python -m tests.property.netboot_fuzz --seed {seed} --parser {name} --only {number}"


def run(count: int, seed: int, workers: int) -> tuple[dict[str, tuple[int, float]], list[str]]:
    """``count`` mutants for each parser: inputs understood and the dearest one (seconds); what is wrong."""
    step = max(1, count // (4 * workers))
    orders = [(name, seed, first, min(count, first + step)) for name in PARSERS for first in range(0, count, step)]
    found: dict[str, tuple[int, float]] = dict.fromkeys(PARSERS, (0, 0.0))
    wrong = []
    with Pool(workers) as pool:
        for name, understood, worst, text in pool.imap_unordered(play_share, orders):
            found[name] = (found[name][0] + understood, max(found[name][1], worst))
            if text:
                wrong.append(text)
    return found, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="mutants for the parsers of the boot plane")
    parser.add_argument("--count", type=int, default=1_000_000, help="for each parser")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 20))
    parser.add_argument("--parser", choices=list(PARSERS), default="dhcp")
    parser.add_argument("--only", type=int, help="play this one alone")
    options = parser.parse_args()
    if options.only is not None:
        print(mutant(Random((options.seed << 40) | options.only), PARSERS[options.parser][1]).hex())
        understood, seconds = play(options.parser, options.seed, options.only)
        print(f"{'understood' if understood else 'refused'}, {seconds * 1000:.3f} ms")
        return 0
    begun = time.monotonic()
    found, wrong = run(options.count, options.seed, os.cpu_count() or 1)
    for text in wrong[:3]:
        print(text)
    each = "; ".join(
        f"{name}: {understood} understood, dearest {worst * 1000:.2f} ms"
        for name, (understood, worst) in found.items()
    )
    print(
        f"{options.count} mutants of seed {options.seed} for each parser, {time.monotonic() - begun:.0f} s; {each}"
    )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
