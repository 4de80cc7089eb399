"""Steps that make a clone another machine than its source: name, ids, keys, network, what it remembers."""

import json

from stage2.customise import identity, network
from stage2.customise.facts import CustomiseError
from stage2.customise.work import Work

RECORD = "/var/lib/bootd/customised.json"
KEYGEN_SECONDS = 300.0
_KEY_UNIT = "/etc/systemd/system/bootd-ssh-keys.service"
_KEY_UNIT_TEXT = """\
[Unit]
Description=SSH host keys of this machine, made once
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
Before=ssh.service sshd.service

[Service]
Type=oneshot
ExecStart=/usr/bin/env ssh-keygen -A

[Install]
WantedBy=multi-user.target
"""
_NETWORK_FILES = (
    ("/etc/network", "interfaces"),
    ("/etc/network/interfaces.d", "*"),
    ("/etc/netplan", "*.yaml"),
    ("/etc/NetworkManager/system-connections", "*"),
    ("/etc/sysconfig/network-scripts", "ifcfg-*"),
    ("/etc/sysconfig/network", "ifcfg-*"),
    ("/etc/systemd/network", "*"),
)
_UDEV_RULES = ("70-persistent-net.rules", "z25_persistent-net.rules", "70-persistent-cd.rules")
_LEASES = (
    ("/var/lib/dhcp", "*"),
    ("/var/lib/dhcp3", "*"),
    ("/var/lib/dhclient", "*"),
    ("/var/lib/dhcpcd", "*"),
    ("/var/lib/dhcpcd5", "*"),
    ("/etc/dhcpc", "*"),
    ("/etc", "dhcpcd.duid"),
    ("/etc", "dhcpcd.secret"),
    ("/var/lib/NetworkManager", "*.lease"),
    ("/var/lib/NetworkManager", "secret_key"),
    ("/var/lib/NetworkManager", "timestamps"),
    ("/var/lib/NetworkManager", "seen-bssids"),
    ("/var/lib/systemd/network", "*"),
)
# Two machines that start from one seed may make the same keys; one credential secret opens the other's credentials.
_SEEDS = (
    *("/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret", "/var/lib/urandom/random-seed"),
    *(
        "/var/lib/random-seed",
        "/var/lib/misc/random-seed",
        "/boot/efi/loader/random-seed",
        "/efi/loader/random-seed",
    ),
    "/boot/loader/random-seed",
)
_HOST_NAMES = ("/etc/sysconfig/network", "/etc/conf.d/hostname")


def set_hostname(work: Work) -> str:
    name = work.facts.name
    hosts = work.tree.read("/etc/hosts") or ""
    before = work.tree.read("/etc/hostname") or ""
    old = identity.old_host_name(before)
    full = identity.full_name(name, hosts, old)
    fresh = identity.rewrite_hostname(before, full or name)
    work.write("/etc/hostname", fresh)
    work.write("/etc/hosts", identity.rewrite_hosts(hosts, full or name, old))
    if work.tree.exists("/etc/mailname"):
        work.write("/etc/mailname", f"{full or name}\n")
    for path in _HOST_NAMES:
        work.rewrite(path, lambda text: identity.rewrite_sysconfig(text, fresh.strip()))
    return f"{old or 'no name'} is {fresh.strip()}"


def clear_machine_id(work: Work) -> str:
    if work.is_own:
        return "it is this node's own already"
    if not work.tree.exists("/etc/machine-id") and not work.program("systemd-machine-id-setup"):
        work.remove("/var/lib/dbus/machine-id")
        return "dbus makes one when it starts"
    # Empty, not missing and not "uninitialized": a new id, without the presets of a first boot (machine-id(5)).
    work.write("/etc/machine-id", "", 0o444)
    if work.tree.is_folder("/var/lib/dbus") and work.tree.make_link("/var/lib/dbus/machine-id", "/etc/machine-id"):
        work.changed.append("/var/lib/dbus/machine-id")
    return "systemd makes one at the first boot"


def renew_ssh_keys(work: Work) -> str:
    if work.is_own:
        return "they are this node's own already"
    old = [
        *work.tree.names("/etc/ssh", "ssh_host_*_key"),
        *work.tree.names("/etc/ssh", "ssh_host_*_key.pub"),
        *work.tree.names("/etc/ssh", "ssh_host_*_key-cert.pub"),
        *work.tree.names("/etc/dropbear", "dropbear_*_host_key"),
    ]
    keygen = work.program("ssh-keygen")
    if not old and not work.program("sshd"):
        return "there is no SSH server"
    work.remove(*old)
    if work.tree.names("/etc/dropbear") and not work.program("sshd"):
        return "dropbear makes new ones"
    if keygen:
        work.chroot.run([keygen, "-A"], KEYGEN_SECONDS)
        fresh = work.tree.names("/etc/ssh", "ssh_host_*_key")
        if not fresh:
            raise CustomiseError("ssh-keygen -A made no key: nobody could log in to this machine")
        work.changed += fresh
        return f"{len(old)} files of the source removed, {len(fresh)} keys made"
    work.write(_KEY_UNIT, _KEY_UNIT_TEXT)
    wanted = "/etc/systemd/system/multi-user.target.wants"
    work.tree.make_folder(wanted)
    work.tree.make_link(f"{wanted}/bootd-ssh-keys.service", _KEY_UNIT)
    work.warn("the tree has no ssh-keygen: a unit makes the keys at the first boot that finds one")
    return f"{len(old)} files of the source removed"


def bind_network(work: Work) -> str:
    rules = [f"/etc/udev/rules.d/{name}" for name in _UDEV_RULES]
    work.remove(*rules)
    files = [path for folder, pattern in _NETWORK_FILES for path in work.tree.names(folder, pattern)]
    texts = {path: work.tree.read(path) or "" for path in files if work.tree.is_file(path)}
    cards = network.cards_named(texts.values())
    for path, text in texts.items():
        bound = network.bind(text, work.facts.mac, cards)
        work.write(path, bound.text)
        for note in bound.notes:
            work.warn(f"{path} {note}")
    for path in ("/etc/modprobe.conf", *work.tree.names("/etc/modprobe.d")):
        work.rewrite(path, network.without_aliases)
    return f"{', '.join(sorted(cards)) or 'no card'} in its settings; this node's is {work.facts.mac}"


def forget_leases(work: Work) -> str:
    for folder, pattern in _LEASES:
        work.remove(*(path for path in work.tree.names(folder, pattern) if work.tree.is_file(path)))
    return f"{len(work.changed)} files of DHCP clients removed"


def forget_seeds(work: Work) -> str:
    if work.is_own:
        return "they are this node's own already"
    work.remove(*_SEEDS)
    return f"{len(work.changed)} removed"


def relabel(work: Work) -> str:
    """SELinux: what was written here has no label yet; the first boot gives every file its own."""
    text = work.tree.read("/etc/selinux/config") or ""
    if not any(line.strip() in ("SELINUX=enforcing", "SELINUX=permissive") for line in text.splitlines()):
        return "it is not used"
    work.write("/.autorelabel", "")
    return "the first boot labels every file, and restarts once"


def read_record(work: Work) -> bool:
    """Whether the tree has been customised for this node before."""
    try:
        found = json.loads(work.tree.read(RECORD) or "{}")
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("mac") == work.facts.mac and bool(work.facts.mac)


def write_record(work: Work) -> None:
    """For the next time, and for who wonders why this machine is what it is."""
    record = {
        "mac": work.facts.mac,
        "name": work.facts.name,
        "image": work.facts.image,
        "session": work.facts.session,
    }
    work.write(RECORD, json.dumps(record, sort_keys=True) + "\n")
