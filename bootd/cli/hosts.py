"""Host sets on the command line: who is meant, asked of the daemon, which knows names and groups."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from bootd.cli.client import Client

HELP = "Names, MACs, lab[3-5], @GROUP; ! before what is left out."


def selected(client: Client, texts: Sequence[str]) -> list[dict[str, Any]]:
    """``mac``, ``name`` and ``number`` of everybody in the host set, in order of MAC."""
    hosts: list[dict[str, Any]] = client.request("GET", "hosts", query=urlencode({"hosts": ",".join(texts)}))
    return hosts
