"""What ``bootd node show`` prints: one machine, with its hardware, disks, locks and warnings."""

from collections.abc import Iterator
from typing import Any

from bootd.cli.format import duration, size
from bootd.cli.lock import line
from bootd.cli.plan import content_lines, disk_line


def machine_lines(node: dict[str, Any]) -> Iterator[str]:
    """As the API tells it, in lines."""
    yield f"{node['name']}  {node['mac']}"
    for text in node["warnings"]:
        yield f"WARNING  {text}"
    if node["changed"]:
        yield f"         it gets no plan until: bootd node accept-change {node['name']}"
    if not node["known"]:
        yield f"UNKNOWN  no session takes it until: bootd node approve {node['name']}"
    if node["parked"]:
        yield f"PARKED   {node['parked']}"
    yield f"boots    {node['next_label']}: {node['why']}"
    label = node["group_label"]
    if label is not None:
        yield f"group    {label['label']}: {label['why']}"
    if node["groups"]:
        yield f"groups   {', '.join(node['groups'])}"
    place = [f"number {node['number']}" if node["number"] is not None else "", node["switch"] or ""]
    if any(place):
        yield f"place    {', '.join(word for word in place if word)}"
    seen = "never" if node["seen_seconds"] is None else f"{duration(node['seen_seconds'])} ago"
    yield f"seen     {seen}{', in stage2 now' if node['present'] else ''}, address {node['address'] or '-'}"
    if node["session"] or node["waiting"]:
        yield f"now      {'in session ' + node['session'] if node['session'] else 'waits: ' + node['waiting']}"
    yield from _hardware(node)
    for disk in node["disks"]:
        yield f"disk     {disk_line(disk)}{': excluded, ' + disk['excluded'] if disk['excluded'] else ''}"
        yield from (f"           {text}" for text in content_lines(disk))
    for lock in node["locks"]:
        yield f"LOCK     {line(lock)}"
    for other in node["inherited_locks"]:
        yield f"LOCK     {line(other['lock'])} (of {other['name']}: the same machine, or disk)"


def _hardware(node: dict[str, Any]) -> Iterator[str]:
    hardware = node["hardware"]
    if hardware is None:
        yield "hardware not known: it was never in stage2"
        return
    yield f"machine  {_words(hardware, 'vendor', 'product', serial='product_serial')}"
    yield f"board    {_words(hardware, 'board_vendor', 'board', serial='board_serial')}"
    yield f"UUID     {node['uuid'] or '-'}"
    if hardware["chassis_serial"] or hardware["asset_tag"]:
        yield f"chassis  serial {hardware['chassis_serial'] or '-'}, asset tag {hardware['asset_tag'] or '-'}"
    firmware = _words(hardware, "bios_vendor", "bios_version", "bios_date")
    yield f"firmware {(node['firmware'] or '-').upper()} {firmware}"
    count = f"{hardware['sockets']} sockets, {hardware['cores']} cores, {hardware['threads']} threads"
    yield f"CPU      {hardware['cpu'] or '-'}, {count}, {node['arch']}"
    yield f"memory   {size(node['memory'] or 0)}"
    for nic in hardware["nics"]:
        link = "no link" if not nic["link"] else f"{nic['speed']} Mbit/s" if nic["speed"] else "link"
        yield f"network  {nic['name']}  {nic['mac']}  {nic['driver'] or '-'} ({nic['bus'] or '-'})  {link}"


def _words(hardware: dict[str, Any], *keys: str, serial: str = "") -> str:
    words = [hardware[key] for key in keys if hardware[key]]
    if serial and hardware[serial]:
        words.append(f"serial {hardware[serial]}")
    return "  ".join(words) or "-"
