"""What lies on each disk and partition of each node: a table of the journal, written with what a session records.

Times are wall-clock, in seconds since the epoch. Nothing decides on them.
"""

import json
import sqlite3
from dataclasses import asdict
from typing import Any

from bootd.session.effects import ContentRecord

_KEPT = ("partuuid", "image", "root", "size", "who", "session")


def put(database: sqlite3.Connection, record: ContentRecord, now: float) -> None:
    """Add what ``record`` says to what is known of its place.

    A whole disk that is being written ends what was known of its partitions; a partition that is being written ends
    that its disk is, as a whole, the image that it was.
    """
    place = (record.mac, record.disk, record.partition)
    row = database.execute(
        "SELECT body FROM content WHERE mac = ? AND disk = ? AND partition = ?", place
    ).fetchone()
    body: dict[str, Any] = json.loads(row[0]) if row else {"wanted": None, "actual": None}
    said = {key: value for key, value in asdict(record).items() if key in _KEPT}
    if record.state == "wanted":
        body["wanted"] = {**said, "time": now}
    else:
        body["actual"] = {**said, "time": now, "state": record.state}
    database.execute("INSERT OR REPLACE INTO content VALUES (?, ?, ?, ?)", (*place, json.dumps(body)))
    if record.state != "writing":
        return
    if record.partition == 0:
        database.execute("DELETE FROM content WHERE mac = ? AND disk = ? AND partition > 0", place[:2])
        return
    whole = database.execute("SELECT body FROM content WHERE mac = ? AND disk = ? AND partition = 0", place[:2])
    for (text,) in whole.fetchall():
        value = json.loads(text)
        if value["actual"] is not None:
            value["actual"]["state"] = "changed"
            database.execute(
                "UPDATE content SET body = ? WHERE mac = ? AND disk = ? AND partition = 0",
                (json.dumps(value), *place[:2]),
            )


def of_node(database: sqlite3.Connection, mac: str) -> list[dict[str, Any]]:
    """By disk and partition: ``{"disk", "partition", "wanted", "actual"}``.

    ``actual.state``: "installed" (verified), "writing" (incomplete), "changed" (a partition of it was
    written since).
    """
    rows = database.execute(
        "SELECT disk, partition, body FROM content WHERE mac = ? ORDER BY disk, partition", (mac,)
    ).fetchall()
    return [{"disk": disk, "partition": partition, **json.loads(body)} for disk, partition, body in rows]


def is_verified(contents: list[dict[str, Any]], partition: int) -> bool:
    """Whether ``partition`` of some disk is what was last put there, to the last byte: by itself, or with its disk.

    ``contents`` as `of_node` gives them.
    """
    states = {(item["disk"], item["partition"]): (item["actual"] or {}).get("state") for item in contents}
    for disk in {item["disk"] for item in contents}:
        own, whole = states.get((disk, partition)), states.get((disk, 0))
        if own == "installed" or (own is None and whole in ("installed", "changed")):
            return True
    return False
