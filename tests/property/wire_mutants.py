"""What can go wrong with a message on its way: mutations of bytes and of JSON, drawn from a seeded generator."""

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

EDGES = (0, 1, 2, 7, 31, 32, 43, 44, 63, 64, 65, 127, 128, 202, 203, 255)
WORDS: tuple[int, ...] = (
    0, 1, 4095, 4096, 4097, 65535, 65536, 65537, (1 << 22) - 1, 1 << 22, (1 << 22) + 1,
    (1 << 31) - 1, 1 << 31, (1 << 32) - 4096, (1 << 32) - 1
)  # fmt: skip
LONGEST_GROWTH = 512  # bytes that one mutation adds at most

Mutation = Callable[[Random, bytearray, bytes], None]


def _flip(random: Random, data: bytearray, donor: bytes) -> None:
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _edge(random: Random, data: bytearray, donor: bytes) -> None:
    data[random.randrange(len(data))] = random.choice(EDGES)


def _word(random: Random, data: bytearray, donor: bytes) -> None:
    """A field of 4 bytes at a bound: most fields and all lengths are that wide."""
    if len(data) >= 4:
        at = random.randrange(0, len(data) - 3)
        at -= at % 4 if random.random() < 0.7 else 0
        data[at : at + 4] = random.choice(WORDS).to_bytes(4, "big")


def _length(random: Random, data: bytearray, donor: bytes) -> None:
    """The length of the first frame, a little or much beside the truth."""
    if len(data) >= 8:
        truth = int.from_bytes(data[4:8], "big")
        data[4:8] = (random.choice((truth - 1, truth + 1, truth * 2, *WORDS)) % (1 << 32)).to_bytes(4, "big")


def _cut(random: Random, data: bytearray, donor: bytes) -> None:
    del data[random.randrange(len(data)) :]


def _drop(random: Random, data: bytearray, donor: bytes) -> None:
    at = random.randrange(len(data))
    del data[at : at + random.randrange(1, 64)]


def _repeat(random: Random, data: bytearray, donor: bytes) -> None:
    at = random.randrange(len(data))
    data[at:at] = data[at : at + random.randrange(1, 128)]


def _splice(random: Random, data: bytearray, donor: bytes) -> None:
    """The beginning of one message and the end of another."""
    at, start = random.randrange(len(data)), random.randrange(len(donor))
    data[at:] = donor[start : start + LONGEST_GROWTH]


def _insert(random: Random, data: bytearray, donor: bytes) -> None:
    at = random.randrange(len(data))
    data[at:at] = random.randbytes(random.randrange(1, 16))


def _noise(random: Random, data: bytearray, donor: bytes) -> None:
    data[:] = random.randbytes(random.randrange(1, 200))


MUTATIONS: tuple[Mutation, ...] = (
    _flip, _flip, _edge, _word, _word, _length, _cut, _drop, _repeat, _splice, _insert, _noise
)  # fmt: skip


def mutate(random: Random, data: bytes, donor: bytes) -> bytes:
    """``data`` after one to three mutations; never empty unless everything was cut off."""
    body = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if body:
            random.choice(MUTATIONS)(random, body, donor)
    return bytes(body)


def shuffle(random: Random, frames: Sequence[bytes], donors: Sequence[bytes]) -> list[bytes]:
    """A conversation with frames left out, repeated, exchanged, changed, or taken from another conversation."""
    made = list(frames)
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(made)) if made else 0
        match random.randrange(6):
            case 0 if made:
                del made[at]
            case 1 if made:
                made.insert(random.randrange(len(made) + 1), made[at])
            case 2 if made:
                other = random.randrange(len(made))
                made[at], made[other] = made[other], made[at]
            case 3 if made:
                made[at] = mutate(random, made[at], random.choice(donors))
            case 4:
                made.insert(at, random.choice(donors))
            case _ if made:
                made[at] = random.choice(donors)
    return made


# --- JSON --------------------------------------------------------------------------------------------------

SMALL: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 65536, (1 << 63) - 1, 1 << 63, 10**400, 0.5, 1e308, "", "x", "\0", "\ud800",
    "\u202e", "ready", [], {}, [[]], [{}], [None], {"type": "report"}, {"": 0}
)  # fmt: skip
LARGE: tuple[Any, ...] = (
    "x" * 8192, "x" * 8193, "\U0001f600" * 4097, [0] * 4096, ["x"] * 4097, [0.5] * 5000
)  # fmt: skip
LITERALS = ("NaN", "-Infinity", "1e999", "-0", "01", "1" * 5000, '"\\ud83d"', '"\\x"', "'x'", "tru", "/**/1", "")
BRACKETS = ("[", '{"a":', '{"type":"report","disks":[', '[{"":')
CODECS = ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7", "cp037")


def mutate_json(random: Random, text: bytes, donor: bytes) -> bytes:
    """One message with a wrong value, type, depth, size, key or encoding; or with its bytes mutated."""
    kind = random.randrange(20)
    if kind < 7:
        return mutate(random, text, donor)
    if kind < 16:
        tree = json.loads(text)
        for _ in range(random.choice((1, 1, 2))):
            _change(random, tree)
        return json.dumps(tree, ensure_ascii=random.random() < 0.8).encode("utf-8", "surrogatepass")
    words = text.decode()
    match kind:
        case 16:
            return words.encode(random.choice(CODECS))
        case 17:  # a bare literal in the place of a value
            at = words.find(":", random.randrange(len(words)))
            return (words[: at + 1] + random.choice(LITERALS) + words[words.find(",", at) :]).encode()
        case 18:  # keys twice: the later one counts, or the reader's depth is tried
            return (words[:-1] + "," + donor.decode("utf-8", "replace")[1:]).encode()
        case _:
            depth = random.choice((1, 10, 100, 900, 1100, 5000))
            return (random.choice(BRACKETS) * depth + words).encode()


def _value(random: Random) -> Any:
    return copy.deepcopy(random.choice(SMALL))  # a list must not end up inside itself


def _change(random: Random, tree: Any) -> None:
    """One place of ``tree``, however deep: another value, a key more, a key less."""
    node = tree
    while True:
        keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            if isinstance(node, dict):
                node["more"] = _value(random)
            else:
                node.append(_value(random))
            return
        key = random.choice(keys)
        if isinstance(node[key], dict | list) and random.random() < 0.8:
            node = node[key]
            continue
        match random.randrange(12):
            case 0 | 1:
                del node[key]
            case 2 if isinstance(node, dict):
                node["more"] = _value(random)
            case 3 if random.random() < 0.1:
                large = random.choice(LARGE)
                node[key] = list(large) if isinstance(large, list) else large
            case 4:
                node[key] = [node[key]] * random.choice((1, 2, 50))
            case _:
                node[key] = _value(random)
        return
