"""DHCP servers that others wrote, started on ``eth0`` of the namespace ``dhcp``; each gives 10.9.0.100 to 199."""

import json
from pathlib import Path
from typing import Any

from tests.netns.room import Process, Room


def start_dnsmasq(room: Room, folder: Path, settings: str) -> Process:
    """``settings``: a configuration file; addresses are added."""
    process = room.start("dhcp", [
        *("dnsmasq", "--keep-in-foreground", f"--conf-file={settings}", "--port=0", "--log-facility=-"),
        *("--no-ping", "--interface=eth0", "--bind-interfaces", "--dhcp-range=10.9.0.100,10.9.0.199,1h"),
        *("--user=root", "--dhcp-authoritative", "--pid-file=", f"--dhcp-leasefile={folder / 'leases'}"),
    ])  # fmt: skip
    process.wait_for(r"DHCP, sockets bound")
    return process


def start_kea(room: Room, folder: Path, dhcp4: dict[str, Any]) -> Process:
    """``dhcp4``: options; interfaces, leases, the subnet and the log are added."""
    settings = folder / "kea.json"
    settings.write_text(json.dumps({"Dhcp4": {
        **dhcp4,
        "interfaces-config": {"interfaces": ["eth0"], "dhcp-socket-type": "raw"},
        "lease-database": {"type": "memfile", "persist": False},
        "subnet4": [{"subnet": "10.9.0.0/24", "interface": "eth0",
                     "pools": [{"pool": "10.9.0.100-10.9.0.199"}], "valid-lifetime": 3600}],
        "loggers": [{"name": "kea-dhcp4", "output_options": [{"output": "stdout", "flush": True}],
                     "severity": "INFO"}],
    }}))  # fmt: skip
    places = {"KEA_PIDFILE_DIR": str(folder), "KEA_LOCKFILE_DIR": str(folder)}
    process = room.start("dhcp", ["kea-dhcp4", "-c", str(settings)], places)
    process.wait_for("DHCP4_STARTED")
    return process


def start_dhcpd(room: Room, folder: Path, options: str, router: str = "") -> Process:
    """ISC's. ``options``: statements before the subnet."""
    leases, settings = folder / "dhcpd.leases", folder / "dhcpd.conf"
    leases.touch()
    routers = f" option routers {router};" if router else ""
    settings.write_text(
        f"authoritative;\nping-check off;\n{options}"
        f"subnet 10.9.0.0 netmask 255.255.255.0 {{ range 10.9.0.100 10.9.0.199;{routers} }}\n"
    )
    where = ["-cf", str(settings), "-lf", str(leases)]
    room.run("dhcp", ["dhcpd", "-t", "-4", *where])
    words = [
        "dhcpd",
        "-4",
        "-d",
        "-f",
        *where,
        "-pf",
        str(folder / "pid"),
        "-user",
        "root",
        "-group",
        "root",
        "eth0",
    ]
    process = room.start("dhcp", words)
    process.wait_for("Server starting service|Sending on +Socket/fallback")
    return process
