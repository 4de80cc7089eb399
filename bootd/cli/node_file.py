"""A room as a table: CSV in and out, and what it is as bootd.toml. Text in, rows out."""

import csv
import io
import ipaddress
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bootd.errors import Exit, OperatorError
from bootd.session.hosts import normal_mac, plain_name
from bootd.session.nodes import default_name

COLUMNS = ("mac", "name", "number", "groups", "switch", "label", "address")
HARDWARE = (
    "uuid",
    "vendor",
    "product",
    "serial",
    "board",
    "board_serial",
    "bios",
    "cpu",
    "memory",
    "disks",
    "nics",
)
MAX_ROWS = 4096
_ALIASES = {
    "group": "groups",
    "host": "name",
    "hostname": "name",
    "ip": "address",
    "id": "number",
    "ethernet": "mac",
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Row:
    """One machine; "" or None or () = the file does not say."""

    mac: str
    name: str
    number: int | None
    groups: tuple[str, ...]
    switch: str
    label: str
    address: str

    def order(self) -> dict[str, Any]:
        """As POST /api/v1/nodes takes it."""
        return {
            "mac": self.mac,
            "name": self.name,
            "number": self.number,
            "groups": list(self.groups),
            "switch": self.switch,
            "label": self.label,
        }


def parse(text: str) -> list[Row]:
    """The rows of a CSV file with a header line; `OperatorError` (INPUT) names the line that is wrong.

    Commas, semicolons or tabs, whichever the header has. Columns of an export that describe hardware are passed
    over; an unknown column is an error, since it may be a known one misspelt.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    header = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns: list[str] = []
    rows: list[Row] = []
    try:
        for fields in reader:
            values = [field.strip() for field in fields]
            if not any(values):
                continue
            if not columns:
                columns = _columns(values)
                continue
            if len(values) > len(columns):
                raise _wrong(reader.line_num, f"{len(values)} fields, the header has {len(columns)}")
            rows.append(_row(reader.line_num, dict(zip(columns, values, strict=False))))
    except csv.Error as error:
        raise _wrong(reader.line_num, str(error)) from None
    if not columns:
        raise OperatorError("no header line", f"begin with {','.join(COLUMNS)}", Exit.INPUT)
    if len(rows) > MAX_ROWS:
        raise OperatorError(f"{len(rows)} rows", f"at most {MAX_ROWS} in one file", Exit.INPUT)
    for key in ("mac", "name"):
        seen: set[str] = set()
        for row in rows:
            value = getattr(row, key).lower()
            if value and value in seen:
                raise OperatorError(f"two rows with {key} {value}", "one row for each machine", Exit.INPUT)
            seen.add(value)
    return rows


def render(nodes: Iterable[dict[str, Any]], *, hardware: bool) -> str:
    """CSV of machines, as GET /api/v1/nodes (with ``hardware``: /api/v1/nodes/NODE) tells them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, *(HARDWARE if hardware else ())])
    for node in nodes:
        values = [
            node["mac"],
            "" if node["name"] == default_name(node["mac"]) else node["name"],
            "" if node["own_number"] is None else str(node["own_number"]),
            " ".join(node["groups"]),
            node["switch"] or "",
            node["label"] or "",
            node["reserved"] or "",
        ]
        writer.writerow([*values, *(_hardware(node) if hardware else ())])
    return out.getvalue()


def to_toml(rows: Sequence[Row]) -> str:
    """``[[node]]`` and ``[[group]]`` for bootd.toml."""
    parts = []
    groups: dict[str, list[str]] = {}
    for row in rows:
        name = row.name or default_name(row.mac)
        lines = ["[[node]]", f"mac = {json.dumps(row.mac)}", f"name = {json.dumps(name)}"]
        lines += [
            f"{key} = {json.dumps(getattr(row, key))}"
            for key in ("label", "address", "number", "switch")
            if getattr(row, key) not in ("", None)
        ]
        parts.append("\n".join(lines) + "\n")
        for group in row.groups:
            groups.setdefault(group, []).append(name)
    for group, names in groups.items():
        hosts = ",\n  ".join(json.dumps(name) for name in names)
        parts.append(f"[[group]]\nname = {json.dumps(group)}\nhosts = [\n  {hosts},\n]\n")
    return "\n".join(parts)


def _columns(values: list[str]) -> list[str]:
    columns = [_ALIASES.get(value.lower(), value.lower()) for value in values]
    for column in columns:
        if column not in (*COLUMNS, *HARDWARE):
            raise OperatorError(f"unknown column {column!r}", f"columns are {','.join(COLUMNS)}", Exit.INPUT)
        if columns.count(column) > 1:
            raise OperatorError(f"column {column!r} stands twice", "leave one out", Exit.INPUT)
    if "mac" not in columns:
        raise OperatorError("no column mac", "machines are told apart by their MAC", Exit.INPUT)
    return columns


def _row(line: int, values: dict[str, str]) -> Row:
    mac = normal_mac(values["mac"])
    if not mac:
        raise _wrong(line, f"{values['mac']!r} is not a MAC")
    name, number, address = (values.get(key, "") for key in ("name", "number", "address"))
    if name and not plain_name(name):
        raise _wrong(line, f"{name!r} is not a host name: letters, digits and '-'")
    if number and not (number.isascii() and number.isdigit() and len(number) <= 6):
        raise _wrong(line, f"{number!r} is not a number from 0 to 999999")
    if address:
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            raise _wrong(line, f"{address!r} is not an IPv4 address") from None
    groups = tuple(dict.fromkeys(values.get("groups", "").replace(";", " ").replace(",", " ").split()))
    for group in groups:
        if not plain_name(group):
            raise _wrong(line, f"{group!r} is not a group name: letters, digits and '-'")
    return Row(
        mac,
        name,
        int(number) if number else None,
        groups,
        values.get("switch", ""),
        values.get("label", ""),
        address,
    )


def _hardware(node: dict[str, Any]) -> list[str]:
    told = node["hardware"]
    if told is None:
        return [""] * len(HARDWARE)
    disks = [
        " ".join(filter(None, (disk["name"], str(disk["size"]), disk["model"], disk["serial"] or disk["wwn"])))
        for disk in node["disks"]
    ]
    nics = [" ".join(filter(None, (nic["name"], nic["mac"], nic["driver"]))) for nic in told["nics"]]
    bios = " ".join(filter(None, (told["bios_vendor"], told["bios_version"], told["bios_date"])))
    texts = [
        node["uuid"] or "",
        *(told[key] for key in ("vendor", "product", "product_serial", "board", "board_serial")),
        bios,
        told["cpu"],
        str(node["memory"] or ""),
        "; ".join(disks),
        "; ".join(nics),
    ]
    # What a machine's firmware says must not be a formula when a person opens the file in a spreadsheet.
    return [f"'{text}" if text.startswith(_FORMULA) else text for text in texts]


def _wrong(line: int, text: str) -> OperatorError:
    return OperatorError(f"line {line}: {text}", "mend this line; nothing was taken over", Exit.INPUT)
