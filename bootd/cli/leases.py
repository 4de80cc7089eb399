"""``bootd leases``: who has which address, where bootd gives them."""

import time

import click
from rich.table import Table

from bootd.cli.context import Context, console, json_option, pass_context, print_json


@click.command()
@click.option("--all", "all_", is_flag=True, help="Also leases that have ended; their machines get them again.")
@json_option
@pass_context
def leases(context: Context, all_: bool, as_json: bool) -> None:
    """Addresses that machines have from bootd, and those that are left alone."""
    listed = [lease for lease in context.client.get("leases") if lease["holds"] or all_]
    if as_json:
        print_json(listed)
        return
    if not listed:
        console().print("no leases (bootd gives addresses only with [[dhcp.pool]] in its settings)")
        return
    table = Table("address", "MAC", "node", "calls itself", "state", "ends", box=None)
    for lease in listed:
        ends = "never" if lease["ends"] is None else time.strftime("%F %T", time.localtime(lease["ends"]))
        state = f"{lease['state']}, reserved" if lease["reserved"] else lease["state"]
        table.add_row(lease["address"], lease["client"], lease["node"], lease["name"], state, ends)
    console().print(table)
