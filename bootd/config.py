"""The one settings table: bootd.toml, its types and its defaults. Bytes in, settings out."""

import ipaddress
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from bootd.errors import Exit, OperatorError
from bootd.netboot.labels import BUILT_IN, Label, LabelKind, problem

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]


DEFAULT_PATH = Path("/etc/bootd/bootd.toml")
MAX_BYTES = 4 << 20  # a settings file; more is a mistake in the path
MAX_SOCKET_PATH = 107  # bytes, sockaddr_un of Linux
SOCKET_NAME = "bootd.sock"


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Server(_Table, frozen=True):
    interface: str = ""  # "" = the only interface that is up and has an IPv4 address
    address: str = ""  # "" = the first IPv4 address of that interface
    state_dir: str = "/var/lib/bootd"
    run_dir: str = "/run/bootd"  # the operators' socket and the lock of the daemon
    boot_dir: str = ""  # loaders, stage1, stage2; "" = state_dir/boot
    http_port: Port = 7467
    bulk_port: Port = 7468  # large files, served by the worker process


class Dhcp(_Table, frozen=True):
    proxy: bool = True
    client_prefixes: tuple[str, ...] = ("PXEClient", "HTTPClient")  # option 60


class Tftp(_Table, frozen=True):
    port: Port = 69
    max_sessions: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1024
    max_sessions_per_client: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 16


class Boot(_Table, frozen=True):
    default: str = "local"  # the default label until `bootd label set-default` says otherwise
    prompt_seconds: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 0  # 0 = boot the label at once
    console: str = ""  # appended to every stage command line, e.g. "console=ttyS0,115200"


class Session(_Table, frozen=True):
    silence_seconds: Seconds = 8.0  # a member not heard of for so long is lost
    ready_seconds: Seconds = 60.0  # a node that has its plan must be ready within
    attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5  # failed attempts of a node before it is parked


class LabelTable(_Table, frozen=True):
    name: str
    kind: LabelKind = LabelKind.STAGE
    title: str = ""
    append: str = ""
    kernel: str = ""
    initrd: str = ""


class NodeTable(_Table, frozen=True):
    mac: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$")]
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$")]
    label: str = ""
    switch: Annotated[str, msgspec.Meta(max_length=63)] = ""  # where it is plugged in, for --order switch


class Settings(_Table, frozen=True):
    server: Server = Server()
    dhcp: Dhcp = Dhcp()
    tftp: Tftp = Tftp()
    boot: Boot = Boot()
    session: Session = Session()
    label: tuple[LabelTable, ...] = ()
    node: tuple[NodeTable, ...] = ()

    @property
    def boot_dir(self) -> Path:
        """Where the boot artefacts are."""
        return Path(self.server.boot_dir or Path(self.server.state_dir) / "boot")

    @property
    def socket_path(self) -> Path:
        """The operators' socket."""
        return Path(self.server.run_dir) / SOCKET_NAME

    @property
    def labels(self) -> dict[str, Label]:
        """The built-in labels, with the file's own added or put in their place."""
        table = {label.name: label for label in BUILT_IN}
        for own in self.label:
            table[own.name] = Label(own.name, own.kind, own.title, own.append, own.kernel, own.initrd)
        return table


def load(path: Path | None) -> tuple[Settings, str]:
    """Settings and where they come from: ``path``, else `DEFAULT_PATH` if it is there, else the defaults.

    `OperatorError` (CONFIG) when the file cannot be read or is wrong.
    """
    if path is None:
        if not DEFAULT_PATH.exists():
            return parse("", "defaults"), "defaults"
        path = DEFAULT_PATH
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode()
    except OSError as error:
        reason = error.strerror or str(error)
        raise OperatorError(f"{path}: {reason}", "name a settings file that can be read", Exit.CONFIG) from None
    except UnicodeDecodeError as error:
        raise OperatorError(f"{path}: not UTF-8 at byte {error.start}", "save it as UTF-8", Exit.CONFIG) from None
    if len(data) > MAX_BYTES:
        raise OperatorError(f"{path}: larger than {MAX_BYTES} bytes", "this is no settings file", Exit.CONFIG)
    return parse(text, str(path)), str(path)


def parse(text: str, source: str = "bootd.toml") -> Settings:
    """Settings from TOML; `OperatorError` (exit code CONFIG) names the path of a key that is wrong."""
    try:
        settings = msgspec.convert(tomllib.loads(text), Settings)
    except tomllib.TOMLDecodeError as error:
        raise OperatorError(f"{source}: {error}", "mend the TOML syntax", Exit.CONFIG) from None
    except msgspec.ValidationError as error:
        raise OperatorError(f"{source}: {error}", "see the settings in the README", Exit.CONFIG) from None
    _check(settings, source)
    return settings


def _check(settings: Settings, source: str) -> None:
    _check_server(settings, source)
    labels = settings.labels
    for own in settings.label:
        wrong = problem(labels[own.name])
        if wrong:
            raise OperatorError(f"{source}: label {own.name}: {wrong}", "mend this [[label]]", Exit.CONFIG)
    wanted = {settings.boot.default, *(node.label for node in settings.node if node.label)}
    for name in sorted(wanted - labels.keys()):
        raise OperatorError(
            f"{source}: label {name!r} is not defined", f"known labels: {', '.join(labels)}", Exit.CONFIG
        )
    for key in ("mac", "name"):
        values = [getattr(node, key).lower() for node in settings.node]
        for value in values:
            if values.count(value) > 1:
                raise OperatorError(f"{source}: two [[node]] with {key} {value}", "name each once", Exit.CONFIG)


def _check_server(settings: Settings, source: str) -> None:
    server = settings.server
    if server.address:
        try:
            ipaddress.IPv4Address(server.address)
        except ValueError:
            raise OperatorError(
                f"{source}: server.address {server.address!r} is not an IPv4 address",
                "write it as 192.0.2.1, or leave it out",
                Exit.CONFIG,
            ) from None
    for key in ("state_dir", "run_dir", "boot_dir"):
        value = getattr(server, key)
        if (value or key != "boot_dir") and not Path(value).is_absolute():
            raise OperatorError(
                f"{source}: server.{key} {value!r} is not an absolute path", "begin it with /", Exit.CONFIG
            )
    if len(str(settings.socket_path).encode()) > MAX_SOCKET_PATH:
        raise OperatorError(
            f"{source}: server.run_dir is too long: a socket's path has at most {MAX_SOCKET_PATH} bytes",
            "choose a shorter run_dir",
            Exit.CONFIG,
        )
    if server.http_port == server.bulk_port:
        raise OperatorError(
            f"{source}: server.http_port and server.bulk_port are both {server.http_port}",
            "give each a port of its own",
            Exit.CONFIG,
        )
