"""Many topics and realities must not slow an append, nor a start, nor a replay of one of them."""

import itertools
import statistics
import time

from .node import Node
from .table import Clock, spread
from .wire import Session, answer, command, envelope, framed, produce, subscribe

BATCH = 1000
DATA = b"x" * 200


def batches(topics, count):
    """Frames with so many records, to these topics in turn."""
    turn = itertools.cycle(topics)
    return [framed(produce(number + 1, [envelope(next(turn), DATA) for _ in range(BATCH)]))
            for number in range(count // BATCH)]


def rate(node, session, frames, window=8, each=BATCH):
    with Clock(node) as clock:
        session.pipelined(frames, window)
    return len(frames) * each / clock.seconds, clock.cpu / (len(frames) * each) * 1e6


def replayed(node, filter):
    """Seconds by the clock, and CPU of the node, to read a filter from the first record to the end."""
    session = Session(node)
    with Clock(node) as clock:
        session.send(subscribe(1, 1, filter, earliest=True, stop_at_end=True,
                               records=1 << 40, size=1 << 40))
        size = session.drain()
    session.close()
    return clock.seconds, clock.cpu, size


def measure(table, programs, many, rounds):
    with Node(programs) as node:
        names = [f"many.group{number % 100}.topic{number}" for number in range(many)]
        session = Session(node)
        new = rate(node, session, batches(names, many))
        one, all_of_them = batches(["one.topic"], many), batches(names, many)
        single, spread_out = [], []
        for _ in range(rounds):
            single.append(rate(node, session, one))
            spread_out.append(rate(node, session, all_of_them))
        base = statistics.median(r for r, _ in single)
        table.row(f"append to {many:,} topics in turn, the first time", f"{new[0]:,.0f}/s",
                  f"{spread([r for r, _ in single], '/s')} to one topic", new[0] / base)
        table.row(f"append to {many:,} topics in turn",
                  spread([r for r, _ in spread_out], "/s"),
                  f"{spread([r for r, _ in single], '/s')} to one topic",
                  statistics.median(r for r, _ in spread_out) / base)
        cpu = [statistics.median(c for _, c in which) for which in (spread_out, single)]
        table.row("the same, CPU of the node", f"{cpu[0]:.2f} µs a record",
                  f"{cpu[1]:.2f} µs to one topic", cpu[0] / cpu[1])
        took = [node.arqon("topics")[1] for _ in range(3)]
        floor = [node.arqon("status")[1] for _ in range(3)]
        table.row(f"`arqon topics` with {many:,}", spread([t * 1e3 for t in took], " ms"),
                  f"`arqon status` {spread([t * 1e3 for t in floor], ' ms')}",
                  statistics.median(took) / statistics.median(floor))
        for how in ("stop", "kill"):
            getattr(node, how)()
            ready = node.start()
            since = time.monotonic()
            session = Session(node)
            session.ask(produce(session.request(), [envelope("one.topic", DATA)]))
            first = time.monotonic() - since
            table.row(f"start after {how}, {many:,} topics: ready", f"{ready * 1e3:.0f} ms",
                      f"and {first * 1e3:.0f} ms more to the first synced acknowledgement")
        table.row("memory then", f"{node.settled(1) / 1e6:.1f} MB")
    store(table, programs, many)
    part(table, programs, rounds)


def part(table, programs, rounds):
    """A topic that is one in a hundred of the log."""
    with Node(programs) as node:
        session = Session(node)
        session.pipelined(batches([f"part.t{number}" for number in range(100)], 500_000), 8)
        replayed(node, "part.>")
        whole = [replayed(node, "part.>") for _ in range(rounds)]
        one = [replayed(node, "part.t7") for _ in range(rounds)]
        table.row(f"replay of a topic that is 1 % of 500,000 records ({one[0][2] / whole[0][2] * 100:.2f} % of the bytes)",
                  spread([t[0] * 1e3 for t in one], " ms", 1),
                  f"{spread([t[0] * 1e3 for t in whole], ' ms')} for all",
                  statistics.median(t[0] for t in one) / statistics.median(t[0] for t in whole))
        # CPU time is counted in hundredths of a second: many replays, one figure.
        with Clock(node) as clock:
            for _ in range(50):
                replayed(node, "part.t7")
        share = clock.cpu / 50
        whole_cpu = statistics.median(t[1] for t in whole)
        table.row("the same, CPU of the node", f"{share * 1e3:.2f} ms",
                  f"{whole_cpu * 1e3:.0f} ms for all", share / whole_cpu)


def store(table, programs, many):
    with Node(programs) as node:
        sessions = Session(node)
        with Clock(node) as clock:
            sessions.pipelined((framed(command(number + 1, "op.store.set", {
                "namespace": "scale", "key": f"k{number:06}", "value": number}))
                for number in range(many)), 256)
        table.row(f"op.store.set, {many:,} keys, one session, 256 under way",
                  f"{many / clock.seconds:,.0f}/s", f"{clock.cpu / many * 1e6:.1f} µs of CPU each")
        for name in ("first", "again"):
            since = time.monotonic()
            count, after, pages = 0, None, 0
            while True:
                more = {"after": after} if after else {}
                got = sessions.command("op.store.list", namespace="scale", limit=10_000, **more)
                count += len(got["keys"])
                pages += 1
                after = got.get("next")
                if not after:
                    break
            took = time.monotonic() - since
            table.row(f"op.store.list of {count:,} keys, {pages} pages, {name}",
                      f"{took * 1e3:.0f} ms")
        table.row("memory then", f"{node.settled(1) / 1e6:.1f} MB")


def realities(table, programs, many, rounds):
    with Node(programs) as node:
        session = Session(node)
        names = [f"r{number}" for number in range(many)]
        empty = node.settled(1)
        with Clock(node) as clock:
            session.pipelined([framed(command(number + 1, "reality.create", {"name": name}))
                               for number, name in enumerate(names)], 16)
        table.row(f"reality.create, {many:,}", f"{clock.seconds / many * 1e3:.2f} ms each",
                  f"{clock.cpu / many * 1e6:.0f} µs of CPU")
        for size, window in [(1, 1), (100, 16)]:
            batch = [envelope("one.topic", DATA)] * size
            to_one = [framed(produce(n + 1, batch, reality="r0")) for n in range(many)]
            in_turn = [framed(produce(n + 1, batch, reality=name))
                       for n, name in enumerate(names)]
            rate(node, session, in_turn, window, size)
            single, spread_out = [], []
            for _ in range(rounds):
                single.append(rate(node, session, to_one, window, size)[0])
                spread_out.append(rate(node, session, in_turn, window, size)[0])
            table.row(f"synced append to {many:,} realities in turn, {size} records each, "
                      f"{window} under way", spread(spread_out, "/s"),
                      f"{spread(single, '/s')} to one",
                      statistics.median(spread_out) / statistics.median(single))
        table.row(f"memory with {many:,} realities open",
                  f"{(node.settled(1) - empty) / 1e6:.1f} MB more")
