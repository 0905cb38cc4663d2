"""Subscriptions that do not match must cost a message nothing, and must give back what they took."""

import statistics
import time

from .node import Node
from .table import spread
from .wire import Session, subscribe, framed

EACH = 1000


def sessions_with(node, first, count, filter):
    """Sessions that together hold so many subscriptions."""
    held = []
    for session in range(first // EACH, (first + count + EACH - 1) // EACH):
        held.append(Session(node))
        held[-1].pipelined(framed(subscribe(number, number, filter(session, number)))
                           for number in range(1, min(EACH, count) + 1))
    return held


def measure(table, programs, scale, rounds):
    steps = [count for count in (1000, 10_000, 100_000) if count <= scale]
    with Node(programs) as node:
        node.arqon("bench", "fanout", "--subscribers", 1, "--count", 20000)  # Warm.
        held, empty = [], node.settled(2)
        alone = None
        for count in [0, *steps, 0]:
            if count:
                before = len(held) * EACH
                held += sessions_with(node, before, count - before,
                                      lambda session, number: f"other.s{session}.f{number}.*")
            elif held:
                for session in held:
                    session.close()
                held, after = [], node.settled(6)
                table.row(f"memory when {steps[-1]:,} subscriptions have ended",
                          f"{(after - empty) / 1e6:.1f} MB more than before",
                          f"{(full - empty) / 1e6:.1f} MB while they were there",
                          (after - empty) / max(full - empty, 1))
            full = node.settled(1)
            p50, rate, cpu = [], [], []
            for _ in range(rounds):
                p50.append(node.arqon("bench", "latency", "--rate", 1000, "--count", 2000,
                                      "--durability", "written")[0]["p50_us"])
                used = node.cpu()
                done = node.arqon("bench", "fanout", "--subscribers", 1, "--count", 100_000,
                                  "--size", 200)[0]
                cpu.append((node.cpu() - used) / 100_000 * 1e6)
                rate.append(done["messages_per_s"])
            alone = alone or (p50, rate, cpu)
            name = f"{count:,} subscriptions beside the one that matches"
            if count == 0 and alone[0] is not p50:
                name = "none any more"
            for what, values, base, unit, digits in [
                    ("published to delivered, p50", p50, alone[0], " µs", 0),
                    ("delivered", rate, alone[1], "/s", 0),
                    ("CPU of the node", cpu, alone[2], " µs a message", 2)]:
                table.row(f"{name}: {what}", spread(values, unit, digits), "none beside it",
                          statistics.median(values) / statistics.median(base))
            if count:
                table.row(f"{name}: memory", f"{(full - empty) / count:,.0f} bytes each")
        same(table, node, steps[-1])
        table.row(f"memory when another {steps[-1]:,} have ended",
                  f"{(node.settled(3) - empty) / 1e6:.1f} MB more than before",
                  f"{(after - empty) / 1e6:.1f} MB the first time",
                  (node.memory() - empty) / max(after - empty, 1))


def same(table, node, count):
    """Many with one filter: they are found, and let go, among each other."""
    since = time.monotonic()
    held = sessions_with(node, 0, count, lambda session, number: "same.filter")
    came = time.monotonic() - since
    used, since = node.cpu(), time.monotonic()
    for session in held:
        session.close()
    last = -1
    while node.cpu() != last:
        last = node.cpu()
        time.sleep(0.3)
    table.row(f"{count:,} subscriptions with one filter: to end all",
              f"{node.cpu() - used:.2f} s of CPU", f"{came:.2f} s to begin them",
              (node.cpu() - used) / came)
