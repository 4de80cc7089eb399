"""What the commands of CloneSys and ka-deploy are called here: one table, from words to words. Runs nothing.

`bootd compat` goes by it, and docs/migrating.md is held against it by a test.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bootd.errors import Exit, OperatorError

_DEVICE = re.compile(r"(?:/dev/)?([shv]d[a-z]+([1-9][0-9]*)|(?:nvme\d+n\d+|mmcblk\d+)p([1-9][0-9]*))\Z")
Words = list[str]


@dataclass(frozen=True)
class Room:
    """What a translation may need: the ``prefix`` of host ids, the ``image`` that stands for the golden machine,
    and the names of the ``sessions`` that are open."""

    prefix: str = ""
    image: str = ""
    sessions: Callable[[], Sequence[str]] = field(default=lambda: ())


@dataclass(frozen=True)
class OldWord:
    """``usage`` as its own documentation has it; ``here`` what takes its place, as the table shows it; ``note`` one
    sentence. ``translate`` gives the commands, without ``bootd``; None: there is none, and ``note`` says why."""

    name: str
    usage: str
    here: str
    note: str
    translate: Callable[[Words, Room], list[Words]] | None = None


def _part(device: str) -> str:
    found = _DEVICE.match(device)
    if found is None:
        raise OperatorError(f"{device!r} is no partition", "say it as sda5 or nvme0n1p2", Exit.USAGE)
    return found[1]


def _number(device: str) -> str:
    found = _DEVICE.match(device)
    if found is None:
        raise OperatorError(f"{device!r} is no partition", "say it as sda5 or nvme0n1p2", Exit.USAGE)
    return found[2] or found[3]


def _hosts(names: Words, room: Room) -> Words:
    """Host ids are numbers behind a prefix: the one that is said, or the daemon's."""
    if not names:
        raise OperatorError("no host is named", "name them: lab3 lab4, or lab[3-4]", Exit.USAGE)
    made = []
    for name in names:
        if name.startswith("-"):  # it would become an option of another command
            raise OperatorError(f"{name!r} is no host", "name them: lab3 lab4, or lab[3-4]", Exit.USAGE)
        made.append(f"{room.prefix}{name}" if name.isdigit() else name)
    return made


def _image(name: str) -> str:
    if name.startswith("-"):
        raise OperatorError(f"{name!r} is no image", "see bootd image list", Exit.USAGE)
    return "@last" if name == "default" else name


def _take(words: Words, least: int, most: int | None, usage: str) -> Words:
    if len(words) < least or (most is not None and len(words) > most):
        raise OperatorError(f"its words are: {usage}", "see docs/migrating.md", Exit.USAGE)
    return words


def _rclone(words: Words, room: Room) -> list[Words]:
    device, image, _user, *hosts = _take(words, 3, None, "rclone DEVICE IMAGE USER HOST…")
    return [["restore", _image(image), "--part", _part(device), *_hosts(hosts, room)]]


def _rbackup(words: Words, room: Room) -> list[Words]:
    device, image, host, user, comment = _take(words, 5, 5, 'rbackup DEVICE IMAGE HOST USER "COMMENT"')
    (node,) = _hosts([host], room)
    return [["backup", node, _image(image), "--part", _part(device), "--comment", comment, "--user", user]]


def _initinstall(words: Words, room: Room) -> list[Words]:
    usage = "initinstall HOST USER LAYOUT (a layout, or an image of a whole disk)"
    host, _user, layout = _take(words, 3, 3, usage)
    return [["init", *_hosts([host], room), "--layout", layout]]


def _restore(words: Words, room: Room) -> list[Words]:
    usage = "restore USER -d DEVICE… -h HOST…"
    _take(words, 5, None, usage)
    if words[1] != "-d" or "-h" not in words[2:]:
        raise OperatorError(f"its words are: {usage}", "see docs/migrating.md", Exit.USAGE)
    at = words.index("-h", 2)
    parts = [word for device in words[2:at] for word in ("--part", _part(device))]
    return [["restore", "@last", *parts, *_hosts(words[at + 1 :], room)]]


def _lockimage(words: Words, room: Room) -> list[Words]:
    device, host, user, reason = _take(words, 4, 4, "lockimage DEVICE HOST USER REASON")
    place = ["--partition", _number(device)]
    return [["lock", "add", *_hosts([host], room), *place, "--owner", user, "--reason", reason]]


def _unlockimage(words: Words, room: Room) -> list[Words]:
    device, host, _lockuser, _user = _take(words, 4, 4, "unlockimage DEVICE HOST LOCKUSER USER")
    return [["lock", "remove", *_hosts([host], room), "--partition", _number(device)]]


def _lastlogs(words: Words, room: Room) -> list[Words]:
    usage = "lastlogs [-c LOGFILE] HOST…"
    clear = words[:1] == ["-c"]
    hosts = _hosts(_take(words[2:] if clear else words, 1, None, usage), room)
    return [["logs", host, *(["--clear"] if clear else [])] for host in hosts]


def _waitfinished(words: Words, room: Room) -> list[Words]:
    _take(words, 0, 1, "waitfinished [MAILADDRESS]")
    told = ["--notify", f"mailto:{words[0]}"] if words else []
    return [["wait", session, *told] for session in room.sessions()]


def _rex(words: Words, room: Room) -> list[Words]:
    host, *command = _take(words, 2, None, "rex HOST COMMAND…")
    return [["exec", *_hosts([host], room), "--", *command]]


def _plain(*made: str) -> Callable[[Words, Room], list[Words]]:
    def translate(words: Words, _room: Room) -> list[Words]:
        _take(words, 0, 0, "no words")
        return [list(made)]

    return translate


def _of_host(*made: str) -> Callable[[Words, Room], list[Words]]:
    def translate(words: Words, room: Room) -> list[Words]:
        return [[*made, *_hosts(_take(words, 1, 1, "HOST"), room)]]

    return translate


@dataclass(frozen=True)
class KaOption:
    """An option of ka-d.sh with ``values`` words behind it. ``words`` may hold ``{}``, its last value."""

    name: str
    values: int
    here: str
    note: str
    words: tuple[str, ...] = ()


KA_OPTIONS = (
    KaOption("-n", 1, "--expect N", "Changed while it waits by bootd session expect.", ("--expect", "{}")),
    KaOption("-d", 1, "--delay SECONDS", "Tenths of a second become seconds.", ("--delay", "{}")),
    KaOption("-s", 1, "--name SESSION", "Also what kaopt= names.", ("--name", "{}")),
    KaOption("-X", 1, "--protect-disk ID", "With -p; one disk is chosen and written, no other is opened anyway."),
    KaOption("-m", 1, "bootd layout convert --boot-code DISK", "With -p; an image of the whole disk has its own."),
    KaOption("-M", 2, "--boot-sector FILE", "With -p: an image of a disk has its own.", ("--boot-sector", "{}")),
    KaOption(
        "-D", 1, "bootd restore --part N", "After the files: an image of the partition (bootd backup --part N)."
    ),
    KaOption("-p", 2, "--layout FILE", "The image is one of files: bootd backup --files.", ("--layout", "{}")),
    KaOption("-r", 1, "--boot-loader grub --with MODULE", "With -p; else the boot loader of the disk is repaired."),
    KaOption("-x", 1, "--exclude DIR", "With -p: images of disks are of blocks, not of files."),
    KaOption("-e", 1, "bootd ring send --command CMD HOST…", "The output of a command, to receivers by hand."),
)
_STOPS = {"-e"}  # what they mean would be lost without a word
_OF_FILES = {"-M", "-x"}  # likewise, without -p
_SEVERAL = {"-x": "--exclude", "-X": "--protect-disk"}  # their values stand in one word: 'sdb|sdc'


def _ka_d(words: Words, room: Room) -> list[Words]:
    options = {option.name: option for option in KA_OPTIONS}
    made: Words = []
    rest = list(words)
    while rest:
        name = rest.pop(0)
        option = options.get(name)
        if option is None or len(rest) < option.values:
            raise OperatorError(
                f"ka-d.sh {name}: not one of its options, or a value is missing",
                "see docs/migrating.md",
                Exit.USAGE,
            )
        values = [rest.pop(0) for _ in range(option.values)]
        if name in _STOPS:
            raise OperatorError(f"ka-d.sh {name} is {option.here} here", option.note, Exit.USAGE)
        if name in _OF_FILES and "-p" not in words:
            text = f"ka-d.sh {name} is {option.here} here, for images of files"
            raise OperatorError(text, "say -p DRIVE DESC too", Exit.USAGE)
        value = values[-1]
        if name in _SEVERAL and "-p" in words:
            made += [word for part in value.split("|") for word in (_SEVERAL[name], part)]
        if name == "-r" and "-p" in words:
            made += _boot_loader(value)
        if name == "-d":
            try:
                value = f"{int(value) / 10:g}"
            except ValueError:
                raise OperatorError(f"-d {value!r} is no number", "tenths of a second", Exit.USAGE) from None
        made += [word.replace("{}", value) for word in option.words]
    if not room.image:
        raise OperatorError(
            "ka-d.sh copies the machine that it runs on; bootd clones images",
            "bootd backup NODE NAME -m COMMENT; then bootd compat --image NAME ka-d.sh …",
            Exit.USAGE,
        )
    return [["deploy", room.image, "any", "--disk", "only", *made]]


def _boot_loader(value: str) -> Words:
    """``'grub --with=ata_piix'``, as ``-r`` has it."""
    loader, *rest = value.split()
    if loader != "grub" or not all(word.startswith("--with=") for word in rest):
        raise OperatorError(f"ka-d.sh -r {value!r}", "say -r 'grub --with=MODULE …'; LILO is not", Exit.USAGE)
    modules = [part for word in rest for part in ("--with", word.removeprefix("--with="))]
    return ["--boot-loader", loader, *modules]


def _nothing(name: str, usage: str, here: str, note: str) -> OldWord:
    return OldWord(name, usage, here, note)


OLD_WORDS = {
    word.name: word
    for word in (
        _nothing(
            "clone",
            "clone DEVICE IMAGE USER",
            "bootd restore IMAGE --part DEVICE HOST",
            "Nothing is begun on the machine itself: say its name on the server.",
        ),
        OldWord(
            "rclone",
            "rclone DEVICE IMAGE USER HOST…",
            "bootd restore IMAGE --part DEVICE HOST…",
            "Image default is @last. Only what differs is written. Who it was is who runs it.",
            _rclone,
        ),
        _nothing(
            "backup",
            'backup DEVICE IMAGE USER "COMMENT"',
            "bootd backup HOST IMAGE --part DEVICE -m COMMENT",
            "Nothing is begun on the machine itself: say its name on the server.",
        ),
        OldWord(
            "rbackup",
            'rbackup DEVICE IMAGE HOST USER "COMMENT"',
            "bootd backup HOST IMAGE --part DEVICE --comment COMMENT --user USER",
            "Only used blocks travel, and only those that are new.",
            _rbackup,
        ),
        OldWord(
            "initinstall",
            "initinstall HOST USER",
            "bootd init HOST --layout LAYOUT",
            "The layout is said here, as a third word. It asks before it erases a disk.",
            _initinstall,
        ),
        OldWord(
            "restore",
            "restore USER -d DEVICE… -h HOST…",
            "bootd restore @last --part DEVICE… HOST…",
            "One session, the partitions in their order.",
            _restore,
        ),
        OldWord(
            "lockimage",
            "lockimage DEVICE HOST USER REASON",
            "bootd lock add HOST --partition N --owner USER --reason REASON",
            "Enforced, where the old one asked for politeness.",
            _lockimage,
        ),
        OldWord(
            "unlockimage",
            "unlockimage DEVICE HOST LOCKUSER USER",
            "bootd lock remove HOST --partition N",
            "The audit tells who did it.",
            _unlockimage,
        ),
        OldWord("state", "state", "bootd state", "", _plain("state")),
        OldWord(
            "lastlogs",
            "lastlogs [-c LOGFILE] HOST…",
            "bootd logs HOST [--clear]",
            "Dead runs need no clearing: they end by themselves.",
            _lastlogs,
        ),
        OldWord(
            "waitfinished",
            "waitfinished [MAILADDRESS]",
            "bootd wait SESSION [--notify mailto:MAILADDRESS]",
            "For each session that is open.",
            _waitfinished,
        ),
        OldWord("clonesyslog", "clonesyslog", "bootd audit", "", _plain("audit")),
        OldWord("imagedesc", "imagedesc", "bootd image list", "", _plain("image", "list")),
        OldWord("clustermap", "clustermap", "bootd map", "Generated, not kept by hand.", _plain("map")),
        OldWord("config", "config HOST", "bootd node show HOST", "", _of_host("node", "show")),
        OldWord("mapname", "mapname ALIAS", "bootd node find ALIAS", "", _of_host("node", "find")),
        OldWord("rex", "rex HOST COMMAND…", "bootd exec HOST -- COMMAND…", "Audited, with its exit code.", _rex),
        OldWord(
            "ka-d.sh",
            "ka-d.sh -n N [OPTION…]",
            "bootd deploy IMAGE any --disk only --expect N",
            "Its options are below. The image is said before it: bootd compat --image NAME ka-d.sh …",
            _ka_d,
        ),
        _nothing(
            "ka-d-server",
            "ka-d-server -s SESSION -n N -e COMMAND",
            "bootd ring send --command COMMAND HOST…",
            "Receivers are named by the sender: there is no session to find.",
        ),
        _nothing(
            "ka-d-client",
            "ka-d-client -s SESSION -e COMMAND",
            "bootd ring receive TARGET",
            "With the secret that bootd ring send shows.",
        ),
        _nothing(
            "ka-d-session.sh",
            "DATA_PATH=DIR ka-d-session.sh -n N",
            "bootd ramboot DIR NODES",
            "The nodes are named, not counted; they boot DIR the next time they start.",
        ),
        OldWord(
            "dolly",
            "dolly -s -v -f dolly.cfg",
            "bootd dolly -s -v -f dolly.cfg",
            "Its own words and wire. On clients with --allow PATH: docs/dolly.md.",
            lambda words, _: [["dolly", *words]],
        ),
        OldWord(
            "dollyS",
            "dollyS -v -f dolly.cfg",
            "bootd dolly -S -v -f dolly.cfg",
            "dolly+'s list of files, over dolly's wire.",
            lambda words, _: [["dolly", "-S", *words]],
        ),
        OldWord(
            "dollyC",
            "dollyC",
            "bootd dolly --allow PATH",
            "Once for each path that the server may have written.",
            lambda words, _: [["dolly", *words]],
        ),
    )
}


def tables() -> str:
    """Both tables in Markdown, as docs/migrating.md has them."""
    lines = ["| CloneSys, ka-deploy | here | |", "|---|---|---|"]
    lines += [_row(f"`{word.usage}`", f"`{word.here}`", word.note) for word in OLD_WORDS.values()]
    lines += ["", "| ka-d.sh | here | |", "|---|---|---|"]
    lines += [_row(f"`{option.name}`", option.here, option.note) for option in KA_OPTIONS]
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |".replace("|  |", "| |")
