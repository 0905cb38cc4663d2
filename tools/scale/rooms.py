"""Many rooms, and members who come and go."""

import time

from .node import Node
from .table import Clock
from .wire import Session, command, framed

HELD = 500


def measure(table, programs, many, _rounds):
    with Node(programs) as node:
        admin = Session(node)
        empty = node.settled(1)
        with Clock(node) as clock:
            admin.pipelined([framed(command(number + 1, "room.create", {"room": f"room{number}"}))
                             for number in range(many)], 256)
        table.row(f"room.create, {many:,}, one session, 256 under way",
                  f"{many / clock.seconds:,.0f}/s", f"{clock.cpu / many * 1e6:.0f} µs of CPU each")
        created = node.settled(1)
        table.row(f"memory of {many:,} rooms", f"{(created - empty) / many:,.0f} bytes each")

        held = []
        with Clock(node) as clock:
            for first in list(range(0, many, HELD)) * 2:
                held.append(Session(node))
                held[-1].pipelined([framed(command(number + 1, "room.join", {
                    "room": f"room{first + number}", "presence": False}))
                    for number in range(min(HELD, many - first))], 64)
        joins = 2 * many
        table.row(f"room.join, {joins:,} by {len(held)} sessions",
                  f"{joins / clock.seconds:,.0f}/s", f"{clock.cpu / joins * 1e6:.0f} µs of CPU each")
        joined = node.settled(1)
        table.row(f"memory of {joins:,} memberships", f"{(joined - created) / joins:,.0f} bytes each")
        for which in ("first", "again"):
            since = time.monotonic()
            admin.send(command(admin.request() + 10 * many, "room.list", {}))
            size = len(admin.receive())
            table.row(f"room.list of {many:,} rooms, {which}",
                      f"{(time.monotonic() - since) * 1e3:.0f} ms", f"{size / 1e6:.1f} MB")
        with Clock(node) as clock:
            for session in held:
                session.close()
            settle(node)
        left = node.settled(3)
        table.row(f"{joins:,} memberships end with their sessions",
                  f"{clock.cpu / joins * 1e6:.0f} µs of CPU each",
                  f"memory {(left - created) / 1e6:.1f} MB above that of the rooms alone")
        visits(table, node, many)


def settle(node):
    last = -1
    while node.cpu() != last:
        last = node.cpu()
        time.sleep(0.5)


def visits(table, node, members):
    """Members who come to one room one after another, a hundred there at a time."""
    there, after_tenth = [], None
    with Clock(node) as clock:
        for number in range(members):
            session = Session(node)
            session.command("room.join", room="lobby", presence=False)
            there.append(session)
            if len(there) > 100:
                gone = there.pop(0)
                if number % 2:
                    gone.kill()
                else:
                    gone.close()
            if number + 1 == members // 10:
                after_tenth = node.memory()
    for session in there:
        session.close()
    end = node.settled(3)
    table.row(f"{members:,} members of one room, 100 at a time, half killed: memory",
              f"{end / 1e6:.1f} MB", f"{after_tenth / 1e6:.1f} MB after {members // 10:,}",
              end / after_tenth)
    table.row("the same, CPU of the node", f"{clock.cpu / members * 1e6:.0f} µs a member, "
              "its connection included", f"{members / clock.seconds:,.0f} members/s")
    here = Session(node).command("room.members", room="lobby")
    table.row("members left", str(len(here.get("members", []))), "0")
