"""Boot configuration for one node, in the languages of PXELINUX, iPXE and GRUB, from one set of labels.

Kernel and initrd are URLs on the bulk port wherever the loader has HTTP (lpxelinux and iPXE do; Debian's signed
GRUB does not). Everything that is put into a script has been checked before (`RenderContext`), so nothing here
needs quoting rules that differ from loader to loader.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bootd.netboot.labels import Label, LabelKind, problem
from bootd.netboot.passwords import crypt_hash, grub_hash

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?\Z")
_TOKEN = re.compile(r"[0-9a-f]{8,128}\Z")
_CONSOLE = re.compile(r"[A-Za-z0-9_=,. /-]*\Z")

_MESSAGE = re.compile(r"[A-Za-z0-9_=,.:/() -]{0,200}\Z")
MESSAGE_SECONDS = 60

KERNEL = "stage1/vmlinuz"
INITRD = "stage1/initrd.img"
MENU_MODULES = ("menu.c32", "libutil.c32")  # PXELINUX's menu, which alone asks for passwords
LOCAL_LOADER = "local.efi"
LOCAL_SCRIPT = "local.cfg"  # the same search for GRUB
_GRUB_NOBODY = "_bootd"  # no label can be called so
MAX_COMMAND_LINE = 2047  # COMMAND_LINE_SIZE of x86, less the NUL


@dataclass(frozen=True)
class RenderContext:
    """Everything that a boot configuration says. `ValueError` names what does not fit, when it is made.

    ``labels`` by name in menu order; ``label`` is the one to boot; ``mac`` lower case with colons; ``token`` the
    boot token, hex; ``console`` is appended to the command line ("console=ttyS0,115200"); with ``prompt_seconds``
    above 0 a menu of all labels is shown for so long first. ``message``, one line, stands on the screen a minute
    before anything is loaded (a node that is parked: whatever is wrong, it does not spin). ``menu_module``: the
    boot folder has `MENU_MODULES`.

    The label that the policy chose is booted without its password: whoever set it was asked who he is. A password
    is for who sits at the machine, and wants another entry.
    """

    server_host: str
    http_port: int
    bulk_port: int
    labels: Mapping[str, Label]
    label: str
    mac: str
    token: str
    console: str = ""
    prompt_seconds: int = 0
    message: str = ""
    menu_module: bool = True

    def __post_init__(self) -> None:
        if not _HOST.match(self.server_host):
            raise ValueError(f"server host {self.server_host!r}")
        if not MAC.match(self.mac):
            raise ValueError(f"MAC address {self.mac!r}")
        if not _TOKEN.match(self.token):
            raise ValueError("boot token is not hexadecimal")
        if not _CONSOLE.match(self.console):
            raise ValueError(f"console {self.console!r}")
        if not _MESSAGE.match(self.message):
            raise ValueError(f"message {self.message!r}")
        if self.label not in self.labels:
            raise ValueError(f"label {self.label!r} is not defined")
        for label in self.labels.values():
            if problem(label):
                raise ValueError(f"label {label.name}: {problem(label)}")
            if len(self.command_line(label)) > MAX_COMMAND_LINE:
                raise ValueError(f"label {label.name}: command line is longer than {MAX_COMMAND_LINE} characters")

    @property
    def files(self) -> str:
        """Base URL of the boot folder on the bulk port."""
        return f"http://{self.server_host}:{self.bulk_port}"

    @property
    def hyphenated_mac(self) -> str:
        """The MAC as PXELINUX and BOOTIF write it: ``01-`` for Ethernet, hyphens."""
        return "01-" + self.mac.replace(":", "-")

    @property
    def shown(self) -> list[Label]:
        """The entries of a menu; without one the chosen label alone."""
        return self.reachable if self.prompt_seconds else [self.labels[self.label]]

    @property
    def reachable(self) -> list[Label]:
        """What somebody at the machine may choose, where the loader has a menu anyway; and the chosen one."""
        return [label for label in self.labels.values() if not label.hide or label.name == self.label]

    def locked(self, label: Label) -> bool:
        """Whether whoever chooses ``label`` from the menu must know its password."""
        return bool(label.password) and label.name != self.label

    def boots(self, label: Label) -> tuple[str, str]:
        """(kernel, initrd) paths in the boot folder; initrd may be ""."""
        if label.kind is LabelKind.STAGE:
            return KERNEL, INITRD
        return label.kernel.lstrip("/"), label.initrd.lstrip("/")

    def command_line(self, label: Label) -> str:
        """What the kernel of ``label`` gets; only stage labels get bootd's own words, the token among them."""
        words = label.append.split()
        if label.kind is LabelKind.STAGE:
            words += [f"bootd.system={label.system}"] if label.system else []
            words += [
                f"bootd.server={self.server_host}:{self.http_port}",
                f"bootd.node={self.mac}",
                f"bootd.token={self.token}",
                f"BOOTIF={self.hyphenated_mac}",
                *self.console.split(),
            ]
        return " ".join(words)


def pxelinux(context: RenderContext) -> str:
    """``pxelinux.cfg/01-...``. TIMEOUT is in tenths of a second; a menu needs no module, only SAY and PROMPT.

    Passwords are checked by the menu module alone: with one in sight it takes over, and nothing is typed past it.
    Where it is not there, or has no hash that it knows, the entry is left out.
    """
    shown = [
        label
        for label in context.shown
        if not context.locked(label) or (context.menu_module and crypt_hash(label.password))
    ]
    has_module = any(context.locked(label) for label in shown)
    lines = ["# Written by bootd for this node.", f"DEFAULT {context.label}"]
    if has_module:
        lines = [lines[0], f"UI {MENU_MODULES[0]}", "PROMPT 0", "NOESCAPE 1", "ALLOWOPTIONS 0", "MENU TITLE bootd"]
        lines.append(f"TIMEOUT {context.prompt_seconds * 10}")
    elif context.prompt_seconds:
        lines += ["PROMPT 1", f"TIMEOUT {context.prompt_seconds * 10}", "SAY Labels:"]
        lines += [f"SAY   {label.name:16} {label.title}".rstrip() for label in shown]
    elif context.message:
        lines += [f"SAY {context.message}", "PROMPT 1", f"TIMEOUT {MESSAGE_SECONDS * 10}"]
    else:
        lines += ["PROMPT 0", "NOESCAPE 1"]
    for label in shown:
        lines += ["", f"LABEL {label.name}"]
        if has_module:
            lines.append(f"  MENU LABEL {label.title or label.name}")
            lines += ["  MENU DEFAULT"] if label.name == context.label else []
            lines += [f"  MENU PASSWD {crypt_hash(label.password)}"] if context.locked(label) else []
        if label.kind is LabelKind.LOCAL:
            lines.append("  LOCALBOOT 0")
            continue
        kernel, initrd = context.boots(label)
        lines.append(f"  LINUX {context.files}/{kernel}")
        if initrd:
            lines.append(f"  INITRD {context.files}/{initrd}")
        if context.command_line(label):
            lines.append(f"  APPEND {context.command_line(label)}")
    return "\n".join(lines) + "\n"


def ipxe(context: RenderContext) -> str:
    """``boot.ipxe?mac=...``, for BIOS and UEFI alike."""
    lines = ["#!ipxe", "# Written by bootd for this node."]
    if context.message:
        lines.append(f"echo {context.message}")
        lines.append(f"prompt --timeout {MESSAGE_SECONDS * 1000} Going on in {MESSAGE_SECONDS} s, or at any key ||")
    if context.prompt_seconds:
        lines += [":bootd/menu", "menu bootd"]
        lines += [f"item {label.name} {label.title or label.name}" for label in context.shown]
        choose = f"choose --default {context.label} --timeout {context.prompt_seconds * 1000} target"
        lines.append(f"{choose} && goto ${{target}} || goto {context.label}")
    for label in context.shown:
        lines += [f":{label.name}", f"echo bootd: {label.name}"]
        if context.locked(label):
            lines += _ipxe_ask(context, label)
            continue
        lines += _ipxe_local(context, label.name) if label.kind is LabelKind.LOCAL else _ipxe_boot(context, label)
    return "\n".join(lines) + "\n"


def _ipxe_ask(context: RenderContext, label: Label) -> list[str]:
    """iPXE can ask, not check: the entry itself is rendered by the server, once it has the password."""
    server = f"http://{context.server_host}:{context.http_port}"
    return [
        "clear username",
        "clear password",
        "login || goto bootd/menu",  # a form of name and password; any name will do
        "params",
        f"param mac {context.mac}",
        f"param label {label.name}",
        "param password ${password}",
        "clear password",
        f"chain --replace {server}/boot/unlock.ipxe##params || goto bootd/menu",
    ]


def ipxe_again(mac: str, text: str, seconds: int) -> str:
    """Back to the menu after ``seconds``; ``text`` is plain."""
    return f"#!ipxe\necho bootd: {text}\nsleep {seconds}\nchain --replace boot.ipxe?mac={mac} || exit 1\n"


def _ipxe_boot(context: RenderContext, label: Label) -> list[str]:
    kernel, initrd = context.boots(label)
    failed = f"{label.name}/failed"  # "/" is not in label names, so it is no label of the menu
    # A UEFI kernel finds the initrd by this name (a BIOS kernel ignores it); --name makes it what we say.
    name = "initrd=initrd.img " if initrd else ""
    command = f"kernel {context.files}/{kernel} {name}{context.command_line(label)}".rstrip()
    lines = [f"{command} || goto {failed}"]
    if initrd:
        lines.append(f"initrd --name initrd.img {context.files}/{initrd} || goto {failed}")
    return [*lines, f"boot || goto {failed}", f":{failed}", *_ipxe_give_up(label.name)]


def _ipxe_local(context: RenderContext, name: str) -> list[str]:
    """How the disk is started. `exit` with success ends in UEFI's set-up screen, `exit 1` tries the next entry."""
    return [
        f"iseq ${{platform}} efi && goto {name}/efi ||",
        "sanboot --no-describe --drive 0x80 || exit",
        f":{name}/efi",
        f"chain --autofree {context.files}/{LOCAL_LOADER} || exit 1",
        "exit 1",
    ]


def _ipxe_give_up(name: str) -> list[str]:
    """Leave with an error, so that the firmware goes on to its next boot entry and comes back in time."""
    return [f"echo bootd: {name} could not be loaded, trying the next boot device in 10 s", "sleep 10", "exit 1"]


def plain(text: str) -> str:
    """``text`` as a message that every loader can show."""
    return re.sub(r"[^A-Za-z0-9_=,.:/() -]", " ", text)[:200]


def words(context: RenderContext) -> str:
    """``stage1/words?mac=...``: the command line that a stage1 without one of its own goes by; "" for a label that
    starts no stage."""
    label = context.labels[context.label]
    return context.command_line(label) + "\n" if label.kind is LabelKind.STAGE else ""


def autoexec(server_host: str, http_port: int) -> str:
    """``autoexec.ipxe``, which iPXE asks for before anything else: it brings its own MAC along."""
    url = f"http://{server_host}:{http_port}/boot/boot.ipxe?mac=${{mac}}"
    return f"#!ipxe\nisset ${{ip}} || dhcp || exit 1\nchain --autofree {url} || exit 1\n"


def grub(context: RenderContext) -> str:
    """A node's GRUB configuration; files over TFTP, since Debian's signed GRUB has no HTTP."""
    lines = [
        "# Written by bootd for this node.",
        f"set default={context.label}",
        f"set timeout={context.prompt_seconds}",
    ]
    if context.message:
        lines += [f"echo '{context.message}'", f"sleep --interruptible {MESSAGE_SECONDS}"]
    has_password = any(context.locked(label) for label in context.reachable)
    if has_password:  # nobody edits an entry or gets a command line, either: this user has no password
        lines.append(f'set superusers="{_GRUB_NOBODY}"')
    for label in context.reachable:
        access = " --unrestricted" if has_password else ""
        if context.locked(label):
            lines.append(f"password_pbkdf2 {label.name} {grub_hash(label.password)}")  # GRUB asks for both
            access = f" --users {label.name}"
        lines.append(f"menuentry '{label.title or label.name}' --id {label.name}{access} {{")
        if label.kind is LabelKind.LOCAL:
            lines += [f"  {line}" for line in _grub_local(context.server_host)]
        else:
            if label.kind is LabelKind.STAGE:
                lines += [f"  {line}" for line in _grub_no_stage()]
            kernel, initrd = context.boots(label)
            root = f"(tftp,{context.server_host})"
            lines.append(f"  linux {root}/{kernel} {_grub_words(context.command_line(label))}".rstrip())
            if initrd:
                lines.append(f"  initrd {root}/{initrd}")
        lines.append("}")
    return "\n".join(lines) + "\n"


def grub_entry() -> str:
    """``grub/grub.cfg``, the same for every node: GRUB fills in the MAC of the card that it booted from."""
    return "configfile /grub/node-${net_default_mac}.cfg\n"


def _grub_no_stage() -> list[str]:
    """On to the firmware's next entry where our kernel cannot run; GRUB would stop and wait for a key."""
    return [
        'if [ "$grub_cpu" != x86_64 -a "$grub_cpu" != i386 ]; then',
        '  echo "bootd: no stage is built for $grub_cpu"',
        "  sleep 5",
        "  exit",
        "fi",
    ]


def _grub_local(host: str) -> list[str]:
    return [
        'if [ "$grub_platform" = efi ]; then',
        # Not local.efi: nobody signed it, and under Secure Boot this GRUB would refuse to start it.
        f"  source (tftp,{host})/{LOCAL_SCRIPT}",
        "else",
        "  set root=(hd0)",
        "  chainloader +1",
        "fi",
    ]


def _grub_words(line: str) -> str:
    """Words in single quotes where GRUB would read something into them; a label has no single quote."""
    plain = re.compile(r"[A-Za-z0-9_=:,./+@%-]+\Z")
    return " ".join(word if plain.match(word) else f"'{word}'" for word in line.split())
