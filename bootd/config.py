"""The one settings table: bootd.toml, its types and its defaults. Bytes in, settings out."""

import ipaddress
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from bootd.errors import Exit, OperatorError
from bootd.netboot.addresses.pool import Subnet, number, overlapping, parse_subnet
from bootd.netboot.files.tftp import Cap
from bootd.netboot.files.tftp_caps import CapRule
from bootd.netboot.labels import BUILT_IN, Label, LabelKind, problem
from bootd.netboot.loaders import LOADERS
from bootd.netboot.menu import DISCOVERY_GROUP, Menu, MenuItem
from bootd.netboot.menu import problem as menu_problem
from bootd.netboot.names.zone import problem as zone_problem
from bootd.netboot.power import power_problem
from bootd.netboot.quirks import RASPBERRY_PI_PREFIXES
from bootd.session.admission import Unknown
from bootd.session.groups import ConfiguredGroup
from bootd.session.groups import problem as group_problem
from bootd.session.sync import SyncSet
from bootd.session.sync import problem as sync_problem

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]
Mac = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$")]
MacPrefix = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){0,5}$")]
BootFile = Annotated[str, msgspec.Meta(max_length=127, pattern=r"^[!-~]*$")]  # BOOTP's `file` holds 127 bytes


DEFAULT_PATH = Path("/etc/bootd/bootd.toml")
MAX_BYTES = 4 << 20  # a settings file; more is a mistake in the path
MAX_SOCKET_PATH = 107  # bytes, sockaddr_un of Linux
SOCKET_NAME = "bootd.sock"


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Server(_Table, frozen=True):
    interface: str | tuple[str, ...] = ""  # one or several; "" = the only one that is up and has an IPv4 address
    address: str = ""  # "" = the first IPv4 address of that interface
    state_dir: str = "/var/lib/bootd"
    run_dir: str = "/run/bootd"  # the operators' socket and the lock of the daemon
    boot_dir: str = ""  # loaders, stage1, stage2; "" = state_dir/boot
    http_port: Port = 7467
    bulk_port: Port = 7468  # large files, served by the worker processes
    bulk_workers: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2
    max_connections: Annotated[int, msgspec.Meta(ge=8, le=16384)] = 1024  # of each of these ports
    max_connections_per_address: Annotated[int, msgspec.Meta(ge=2, le=16384)] = 64

    @property
    def interfaces(self) -> tuple[str, ...]:
        """Those that are named; () = the one that is found."""
        return _several(self.interface)


class PoolTable(_Table, frozen=True):
    subnet: str  # "192.0.2.0/24"
    range: str | tuple[str, ...] = ()  # "192.0.2.100-192.0.2.199"; () = [[node]] with an address only
    gateway: str | tuple[str, ...] = ()
    dns: str | tuple[str, ...] = ()
    domain: str = ""
    lease_seconds: Annotated[int, msgspec.Meta(ge=60, le=31_536_000)] = 3600

    def parsed(self) -> Subnet:
        """`ValueError` with one sentence on what is wrong."""
        return parse_subnet(
            self.subnet,
            _several(self.range),
            routers=_several(self.gateway),
            name_servers=_several(self.dns),
            domain=self.domain,
            seconds=self.lease_seconds,
        )


class Dhcp(_Table, frozen=True):
    proxy: bool = True  # another server gives addresses; false: we do, from our pools (none: no DHCP)
    client_prefixes: tuple[str, ...] = ("PXEClient", "HTTPClient", "Etherboot")  # option 60
    ignore: tuple[Mac, ...] = ()  # never an answer to these
    pool: tuple[PoolTable, ...] = ()
    authoritative: bool = False  # also refuse addresses that are in no subnet of ours
    probe_seconds: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.3  # wait for who uses an address; 0 = no probe
    quarantine_seconds: Seconds = 3600.0  # an address that somebody else uses is left alone for so long
    rogue: Literal["refuse", "warn", "off"] = "refuse"  # another server gives addresses when we start
    rogue_seconds: Annotated[float, msgspec.Meta(gt=0, le=30)] = 3.5  # dnsmasq pings 3 s before it offers
    router_advertisement: bool = True  # with pools only: lets iPXE go on at once


class TftpCapTable(_Table, frozen=True):
    """The most that some clients are given, whatever they ask for."""

    mac: MacPrefix | None = None  # whose MAC begins so
    address: str = ""  # whose address is in this network, "10.1.0.0/24" or "10.1.0.7"
    blksize: Annotated[int, msgspec.Meta(ge=8, le=65464)] = 65464
    windowsize: Annotated[int, msgspec.Meta(ge=1, le=64)] = 64

    def parsed(self) -> CapRule:
        """`ValueError` when ``address`` is no network."""
        network = ipaddress.ip_network(self.address) if self.address else None
        return CapRule(Cap(self.blksize, self.windowsize), self.mac or "", network)


class Tftp(_Table, frozen=True):
    port: Port = 69
    ipv6: bool = True  # also over IPv6, on the same interface
    workers: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2  # processes that carry transfers
    max_sessions: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1024
    max_sessions_per_client: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 16
    cap: tuple[TftpCapTable, ...] = ()  # the first that fits

    def rules(self) -> tuple[CapRule, ...]:
        """`ValueError` when a cap's address is no network."""
        return tuple(table.parsed() for table in self.cap)


class Dns(_Table, frozen=True):
    """Names of the nodes. Off by default: a machine room may have its own."""

    enabled: bool = False
    port: Port = 53
    zone: str = "bootd.internal"
    prefix: str = ""  # aliases are this and the number of the node; "" = none
    upstream: tuple[str, ...] = ()  # "192.0.2.53" or "192.0.2.53:5353": asked for all else; () = refused
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=30)] = 2.0  # for each of them
    clients: tuple[str, ...] = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")
    responses_per_second: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 50.0  # one name to one /24; 0 = no limit


class Boot(_Table, frozen=True):
    default: str = "local"  # the default label until `bootd label set-default` says otherwise
    prompt_seconds: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 0  # 0 = boot the label at once
    console: str = ""  # appended to every stage command line, e.g. "console=ttyS0,115200"
    secure_boot: bool = False  # UEFI gets only what Secure Boot runs: shim and GRUB, a signed kernel image
    loop_boots: Annotated[int, msgspec.Meta(ge=0, le=100)] = 5  # so many without reaching stage2: parked; 0 = never
    loop_minutes: Annotated[float, msgspec.Meta(gt=0, le=1440)] = 30.0  # within so long
    loaders: dict[str, BootFile] = {}  # family (bios, x64, arm64, ...) to an operator's own first file


class MenuItemTable(_Table, frozen=True):
    title: str
    local: bool = False  # boot the node's own disk: nobody is asked
    file: BootFile = ""  # "" = the loader of the client's architecture; {layer} = the layer that it asks for
    layers: Annotated[int, msgspec.Meta(ge=0, le=32767)] = 0
    families: tuple[str, ...] = ()  # () = all


class MenuTable(_Table, frozen=True):
    """The firmware's own menu (PXE option 43), before any loader. No item: no menu."""

    prompt: str = "Press F8 to view menu ..."
    seconds: int = 2  # then the first item is taken
    multicast: str = DISCOVERY_GROUP  # boot server discovery; "" = off
    broadcast: bool = True  # discovery by broadcast
    uefi: bool = False  # also to UEFI, whose menu code is broken in the field
    item: tuple[MenuItemTable, ...] = ()

    def parsed(self) -> Menu:
        """What is sent; `bootd.netboot.menu.problem` has not been asked yet."""
        items = tuple(
            MenuItem(item.title, item.local, item.file, item.layers, frozenset(item.families)) for item in self.item
        )
        return Menu(items, self.prompt, self.seconds, self.multicast, self.broadcast, self.uefi)


class Pxe(_Table, frozen=True):
    config_file: BootFile = ""  # option 209 for PXELINUX
    path_prefix: BootFile = ""  # option 210
    reboot_seconds: Annotated[int, msgspec.Meta(ge=0, le=86400)] = (
        0  # option 211: reboot when nothing can be loaded
    )
    raspberry_pi_prefixes: tuple[MacPrefix, ...] = RASPBERRY_PI_PREFIXES
    raspberry_pi_delay: Annotated[float, msgspec.Meta(ge=0, le=5)] = 0.0  # seconds before it is answered


class Api(_Table, frozen=True):
    """The operators' interface over the network. Off by default."""

    enabled: bool = False
    address: str = "127.0.0.1"  # beyond loopback only with a certificate
    port: Port = 7469
    certificate: str = ""  # PEM, with those that lead to its authority
    key: str = ""  # PEM
    requests_per_second: Annotated[float, msgspec.Meta(ge=0.1, le=10000)] = (
        20.0  # of one address; twice as many at once
    )
    failures_per_minute: Annotated[float, msgspec.Meta(ge=1, le=10000)] = 10.0  # wrong tokens of one address
    max_connections: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 128
    max_connections_per_address: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 32


class Session(_Table, frozen=True):
    silence_seconds: Seconds = 8.0  # a member not heard of for so long is lost
    ready_seconds: Seconds = 60.0  # a node that has its plan must be ready within
    attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5  # failed attempts of a node before it is parked


class Power(_Table, frozen=True):
    """Switching nodes on and off. Passwords are in files, or credentials of systemd: "credential:NAME"."""

    secret: str = ""  # file with the password of the controllers, where a [[node]] has no power_secret
    authority: str = ""  # PEM: who signed the certificates of the controllers; "" = the system's authorities
    seconds: Annotated[float, msgspec.Meta(ge=1, le=45)] = 20.0  # for one controller
    wake_addresses: tuple[str, ...] = ()  # broadcast addresses of subnets behind routers, for magic packets


class Notify(_Table, frozen=True):
    """How word of a session's end goes out as mail. Webhooks need nothing here but the time-out."""

    smtp: Annotated[str, msgspec.Meta(max_length=255)] = ""  # "mail.example.org" or with :PORT; "" = sendmail
    tls: Literal["off", "starttls", "on"] = "off"
    user: str = ""
    password_file: str = ""
    sender: str = ""  # "" = bootd@ this machine
    sendmail: str = "/usr/sbin/sendmail"
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=300)] = 15.0

    @property
    def server(self) -> tuple[str, int]:
        """Host and port of the SMTP server. `ValueError` when that is none."""
        default = 465 if self.tls == "on" else 25
        if self.smtp.count(":") > 1 and not self.smtp.startswith("["):
            return self.smtp, default  # an IPv6 address
        host, colon, port = self.smtp.rpartition(":") if not self.smtp.endswith("]") else (self.smtp, "", "")
        if not colon:
            host, port = self.smtp, str(default)
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{self.smtp!r} is not HOST or HOST:PORT")
        return host.strip("[]"), int(port)


class LabelTable(_Table, frozen=True):
    name: str
    kind: LabelKind = LabelKind.STAGE
    title: str = ""
    append: str = ""
    kernel: str = ""
    initrd: str = ""
    password: str | tuple[str, ...] = ()  # hashes, as `bootd label password` makes them
    hide: bool = False  # in no menu: booted when a policy says so
    partition: Annotated[int, msgspec.Meta(ge=0, le=128)] = 0  # in menus only where bootd has verified it
    system: Annotated[str, msgspec.Meta(max_length=32)] = (
        ""  # `bootd stage import`, `bootd ramboot`: booted as stage2
    )


class NodeTable(_Table, frozen=True):
    mac: Mac
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$")]
    label: str = ""
    address: str = ""  # reserved for it, where bootd gives the addresses
    ignore: bool = False  # its firmware and DHCP client get no answer
    number: Annotated[int, msgspec.Meta(ge=0, le=999_999)] | None = None  # in its alias; None = at its name's end
    switch: Annotated[str, msgspec.Meta(max_length=63)] = ""  # where it is plugged in, for --order switch
    power: str = ""  # its controller: redfish://USER@HOST/Systems/ID or ipmi://USER@HOST
    power_secret: str = ""  # file with its password
    power_fingerprint: str = ""  # SHA-256 of its certificate, which is then trusted without any authority
    wake_secret: str = ""  # file with the SecureOn password of its network card


class ImageRule(_Table, frozen=True):
    """What `bootd image gc` keeps of a name: an image that one of the two keeps stays; both 0: all stay."""

    keep_last: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0  # so many, the newest
    keep_days: Annotated[float, msgspec.Meta(ge=0, le=36_500)] = 0.0  # those that are no older


class Images(_Table, frozen=True):
    directory: str = ""  # "" = state_dir/images
    keep_last: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0  # as in a rule, for names without one
    keep_days: Annotated[float, msgspec.Meta(ge=0, le=36_500)] = 0.0
    rule: dict[str, ImageRule] = {}  # [images.rule.NAME]
    upstream: str = ""  # images that are not here come from it: https://HOST:7469, a bootd, or oci://HOST/PREFIX
    upstream_token: str = ""  # file with a token of scope export, for a bootd
    upstream_authority: str = ""  # of its certificate, PEM; "" = the system's

    @property
    def keep(self) -> dict[str, tuple[int, float]]:
        """(keep_last, keep_days) by name, "" for all others."""
        rules = {name: (rule.keep_last, rule.keep_days) for name, rule in self.rule.items()}
        return {"": (self.keep_last, self.keep_days), **rules}


class Registry(_Table, frozen=True):
    """Registries that images are pushed to and pulled from."""

    credentials: str = ""  # docker's config.json; "" = the systemd credential "registry"
    authority: str = ""  # PEM, trusted beside the system's
    plain_hosts: tuple[str, ...] = ()  # HOST:PORT of those that may be spoken to without TLS


class SyncSetTable(_Table, frozen=True):
    """Files that are kept alike on nodes: `bootd sync`, docs/sync.md."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    source: str = ""  # folder on this server; "" = state_dir/sync/NAME
    target: str = "/"  # folder on the nodes
    include: tuple[str, ...] = ()  # patterns of rsync, before those left out
    exclude: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()  # paths of the nodes that stay theirs, beside the ones that always do
    default_unique: bool = True
    whole_system: bool = False  # / of a running system may be the target
    update: bool = False  # files that are newer on the node stay
    checksum: bool = False
    compress: bool = False
    least_files: Annotated[int, msgspec.Meta(ge=1)] = 10  # a source with fewer is taken for one that is not there
    marker: str = ""  # a file that must be in the source
    max_delete: Annotated[int, msgspec.Meta(ge=0, le=100)] = 50  # per cent of the files there
    disk: str = "only"  # stage2: selector of the disk with the installed system
    partition: Annotated[int, msgspec.Meta(ge=0, le=128)] = 0  # of its root; 0 = the one that has an /etc/fstab

    def parsed(self, state_dir: str) -> SyncSet:
        """`ValueError` with one sentence on what is wrong."""
        wanted = SyncSet(
            name=self.name,
            source=self.source or f"{state_dir}/sync/{self.name}",
            target=self.target,
            include=self.include,
            exclude=self.exclude,
            unique=self.unique,
            default_unique=self.default_unique,
            whole_system=self.whole_system,
            update=self.update,
            checksum=self.checksum,
            compress=self.compress,
            least_files=self.least_files,
            marker=self.marker,
            max_delete=self.max_delete,
            disk=self.disk,
            partition=self.partition,
        )
        wrong = sync_problem(wanted)
        if wrong:
            raise ValueError(wrong)
        return wanted


class SyncTable(_Table, frozen=True):
    overlay: str = ""  # OVERLAY/NODE/...: files of one node alone; "" = state_dir/sync-overlay
    collected: str = ""  # COLLECTED/SET/NODE/...: what came from nodes; "" = state_dir/sync-collected
    set: tuple[SyncSetTable, ...] = ()


class Nodes(_Table, frozen=True):
    unknown: Unknown = Unknown.ACCEPT  # machines that nobody has named: accept, approve or ignore


class GroupTable(_Table, frozen=True):
    name: str
    hosts: str | tuple[str, ...]  # host sets: "lab[1-30]", "@other", "!lab7"
    label: str = ""  # what its machines boot by default


class Settings(_Table, frozen=True):
    server: Server = Server()
    dhcp: Dhcp = Dhcp()
    tftp: Tftp = Tftp()
    dns: Dns = Dns()
    boot: Boot = Boot()
    menu: MenuTable = MenuTable()
    pxe: Pxe = Pxe()
    session: Session = Session()
    api: Api = Api()
    power: Power = Power()
    images: Images = Images()
    registry: Registry = Registry()
    notify: Notify = Notify()
    label: tuple[LabelTable, ...] = ()
    nodes: Nodes = Nodes()
    sync: SyncTable = SyncTable()
    node: tuple[NodeTable, ...] = ()
    group: tuple[GroupTable, ...] = ()

    @property
    def groups(self) -> tuple[ConfiguredGroup, ...]:
        """The [[group]] tables."""
        return tuple(ConfiguredGroup(one.name, ",".join(_several(one.hosts)), one.label) for one in self.group)

    @property
    def sync_sets(self) -> dict[str, SyncSet]:
        """The [[sync.set]] tables by name; `ValueError`."""
        return {one.name: one.parsed(self.server.state_dir) for one in self.sync.set}

    @property
    def boot_dir(self) -> Path:
        """Where the boot artefacts are."""
        return Path(self.server.boot_dir or Path(self.server.state_dir) / "boot")

    @property
    def image_dir(self) -> Path:
        """Where the image store is."""
        return Path(self.images.directory or Path(self.server.state_dir) / "images")

    @property
    def ignored(self) -> frozenset[str]:
        """MAC addresses, lower case, that get no answer."""
        own = (node.mac for node in self.node if node.ignore)
        return frozenset(mac.lower() for mac in (*self.dhcp.ignore, *own))

    @property
    def socket_path(self) -> Path:
        """The operators' socket."""
        return Path(self.server.run_dir) / SOCKET_NAME

    @property
    def labels(self) -> dict[str, Label]:
        """The built-in labels, with the file's own added or put in their place."""
        table = {label.name: label for label in BUILT_IN}
        for own in self.label:
            table[own.name] = Label(
                own.name,
                own.kind,
                own.title,
                own.append,
                own.kernel,
                own.initrd,
                password=_several(own.password),
                hide=own.hide,
                partition=own.partition,
                system=own.system,
            )
        return table


def _several(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """One word or several, as settings may say it."""
    return ((value,) if value else ()) if isinstance(value, str) else value


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
    try:
        settings.tftp.rules()
    except ValueError as error:
        raise OperatorError(
            f"{source}: tftp.cap: {error}", 'write its address as "192.0.2.0/24"', Exit.CONFIG
        ) from None
    _check_addresses(settings, source)
    _check_menu(settings, source)
    _check_dns(settings, source)
    _check_api(settings, source)
    _check_power(settings, source)
    _check_notify(settings.notify, source)
    _check_remote_images(settings, source)
    _check_sync(settings, source)
    labels = settings.labels
    for own in settings.label:
        wrong = problem(labels[own.name])
        if wrong:
            raise OperatorError(f"{source}: label {own.name}: {wrong}", "mend this [[label]]", Exit.CONFIG)
    wrong = group_problem(settings.groups)
    if wrong:
        raise OperatorError(f"{source}: {wrong}", "mend this [[group]]", Exit.CONFIG)
    wanted = {settings.boot.default, *(node.label for node in settings.node if node.label)}
    wanted |= {group.label for group in settings.group if group.label}
    for name in sorted(wanted - labels.keys()):
        raise OperatorError(
            f"{source}: label {name!r} is not defined", f"known labels: {', '.join(labels)}", Exit.CONFIG
        )
    for key in ("mac", "name"):
        values = [getattr(node, key).lower() for node in settings.node]
        for value in values:
            if values.count(value) > 1:
                raise OperatorError(f"{source}: two [[node]] with {key} {value}", "name each once", Exit.CONFIG)


def _check_menu(settings: Settings, source: str) -> None:
    wrong = menu_problem(settings.menu.parsed())
    if wrong:
        raise OperatorError(f"{source}: menu: {wrong}", "mend [menu] and its [[menu.item]]", Exit.CONFIG)
    named = {*settings.boot.loaders, *(family for item in settings.menu.item for family in item.families)}
    for name in sorted(named - LOADERS.keys()):
        raise OperatorError(
            f"{source}: {name!r} is no family of machines", f"known families: {', '.join(LOADERS)}", Exit.CONFIG
        )


def _check_dns(settings: Settings, source: str) -> None:
    wrong = zone_problem(settings.dns.zone, settings.dns.prefix)
    if wrong:
        raise OperatorError(f"{source}: dns.{wrong}", "mend it under [dns]", Exit.CONFIG)
    for text in settings.dns.upstream:
        host, colon, port = text.partition(":")
        try:
            ipaddress.IPv4Address(host)
            good = not colon or 0 < int(port) < 65536
        except ValueError:
            good = False
        if not good:
            raise OperatorError(
                f"{source}: dns.upstream: {text!r} is not an IPv4 address, with a port or without",
                "write it as 192.0.2.53 or 192.0.2.53:5353",
                Exit.CONFIG,
            )
    for text in settings.dns.clients:
        try:
            ipaddress.IPv4Network(text)
        except ValueError as error:
            raise OperatorError(f"{source}: dns.clients: {error}", "write 192.0.2.0/24", Exit.CONFIG) from None


def _check_notify(notify: Notify, source: str) -> None:
    if notify.smtp:
        try:
            _ = notify.server
        except ValueError as error:
            hint = "write mail.example.org, or mail.example.org:587"
            raise OperatorError(f"{source}: notify.smtp: {error}", hint, Exit.CONFIG) from None
    if bool(notify.user) != bool(notify.password_file) or (notify.user and notify.tls == "off"):
        raise OperatorError(
            f"{source}: notify.user needs a password_file, and tls that it is not sent in the clear",
            'set password_file, and tls = "starttls" or "on", under [notify]',
            Exit.CONFIG,
        )
    for key in ("sendmail", "password_file"):
        value = getattr(notify, key)
        if (value or key == "sendmail") and not Path(value).is_absolute():
            raise OperatorError(
                f"{source}: notify.{key} {value!r} is not an absolute path", "begin it with /", Exit.CONFIG
            )


def _check_sync(settings: Settings, source: str) -> None:
    try:
        sets = settings.sync_sets
    except ValueError as error:
        raise OperatorError(f"{source}: sync.set: {error}", "mend this [[sync.set]]", Exit.CONFIG) from None
    if len(sets) != len(settings.sync.set):
        raise OperatorError(f"{source}: two [[sync.set]] of one name", "name each once", Exit.CONFIG)
    for key in ("overlay", "collected"):
        value = getattr(settings.sync, key)
        if value and not Path(value).is_absolute():
            raise OperatorError(f"{source}: sync.{key} is not an absolute path", "begin it with /", Exit.CONFIG)


def _check_remote_images(settings: Settings, source: str) -> None:
    files = {
        "images.upstream_token": settings.images.upstream_token,
        "images.upstream_authority": settings.images.upstream_authority,
        "registry.credentials": settings.registry.credentials,
        "registry.authority": settings.registry.authority,
    }
    for key, path in files.items():
        if path and not Path(path).is_absolute():
            raise OperatorError(f"{source}: {key} is not an absolute path", "begin it with /", Exit.CONFIG)
    upstream = settings.images.upstream
    if upstream and not upstream.startswith(("https://", "http://", "oci://", "oci+http://")):
        raise OperatorError(
            f"{source}: images.upstream {upstream!r} is neither a bootd nor a registry",
            "write https://HOST:7469, or oci://HOST/PREFIX",
            Exit.CONFIG,
        )


def _check_api(settings: Settings, source: str) -> None:
    api, server = settings.api, settings.server
    try:
        address = ipaddress.ip_address(api.address)
    except ValueError:
        raise OperatorError(
            f"{source}: api.address {api.address!r} is not an IP address",
            "write it as 192.0.2.1, or 0.0.0.0 for all",
            Exit.CONFIG,
        ) from None
    if bool(api.certificate) != bool(api.key):
        raise OperatorError(
            f"{source}: api.certificate and api.key go together", "name both PEM files under [api]", Exit.CONFIG
        )
    for key in ("certificate", "key"):
        if getattr(api, key) and not Path(getattr(api, key)).is_absolute():
            raise OperatorError(f"{source}: api.{key} is not an absolute path", "begin it with /", Exit.CONFIG)
    if not api.enabled:
        return
    if not api.certificate and not address.is_loopback:
        raise OperatorError(
            f"{source}: api.address {api.address} is on the network: without TLS anybody there reads the tokens",
            'set api.certificate and api.key, or api.address = "127.0.0.1"',
            Exit.CONFIG,
        )
    if api.port in (server.http_port, server.bulk_port):
        raise OperatorError(
            f"{source}: api.port is {api.port}, as is server.http_port or server.bulk_port",
            "give each a port of its own",
            Exit.CONFIG,
        )


def _check_power(settings: Settings, source: str) -> None:
    for node in settings.node:
        wrong = power_problem(node.power, node.power_fingerprint)
        if wrong:
            raise OperatorError(f"{source}: node {node.name}: power: {wrong}", "mend this [[node]]", Exit.CONFIG)
    for text in settings.power.wake_addresses:
        try:
            ipaddress.IPv4Address(text)
        except ValueError as error:
            raise OperatorError(
                f"{source}: power.wake_addresses: {error}", "write it as 192.0.2.255", Exit.CONFIG
            ) from None


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


def _check_addresses(settings: Settings, source: str) -> None:
    pools = settings.dhcp.pool
    if pools and settings.dhcp.proxy:
        raise OperatorError(
            f"{source}: [[dhcp.pool]] beside dhcp.proxy: bootd gives addresses, or another server does",
            "set proxy = false under [dhcp], or remove the pools",
            Exit.CONFIG,
        )
    try:
        subnets = [pool.parsed() for pool in pools]
    except ValueError as error:
        raise OperatorError(f"{source}: dhcp.pool: {error}", "mend this [[dhcp.pool]]", Exit.CONFIG) from None
    wrong = overlapping(subnets)
    if wrong:
        raise OperatorError(f"{source}: dhcp.pool: {wrong}", "give each subnet one [[dhcp.pool]]", Exit.CONFIG)
    taken: dict[str, str] = {}
    for node in settings.node:
        if not node.address:
            continue
        try:
            address = str(ipaddress.IPv4Address(node.address))
        except ValueError:
            raise OperatorError(
                f"{source}: node {node.name}: {node.address!r} is not an IPv4 address",
                "write it as 192.0.2.1, or leave it out",
                Exit.CONFIG,
            ) from None
        if address in taken:
            raise OperatorError(
                f"{source}: nodes {taken[address]} and {node.name} both have the address {address}",
                "give each its own",
                Exit.CONFIG,
            )
        taken[address] = node.name
        if pools and not any(subnet.usable(number(address)) for subnet in subnets):
            raise OperatorError(
                f"{source}: node {node.name}: {address} is in no [[dhcp.pool]]",
                "add its subnet, or mend the address",
                Exit.CONFIG,
            )
