"""What the node does with messages beyond keeping them, beside plainly keeping them."""

import os
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time

from .node import Node
from .table import Clock, spread
from .wire import (ACKED, DELIVER, TASK, Session, ack, answer, command, envelope,
                   fields, framed, produce, put, subscribe)

DATA = b"x" * 200


def measure(table, programs, count, rounds):
    count = min(count, 20_000)
    for case in (keeping, group, store, audit, dispatch, webhook, wasm, cron):
        with Node(programs) as node:
            base = single(node, count)
            try:
                case(table, programs, node, count, base)
            except Exception as error:  # One that cannot be measured must not hide the others.
                table.row(case.__name__, f"not measured: {error!r}")
    window(table, programs, rounds)


def single(node, count, topic="plain.topic", **more):
    """Rate, and CPU of the node a message, of single messages: stored, synced, 256 under way."""
    session = Session(node)
    frames = [framed(produce(number + 1, [envelope(topic, DATA, **more)]))
              for number in range(count)]
    with Clock(node) as clock:
        session.pipelined(frames, 256)
    session.close()
    return count / clock.seconds, clock.cpu / count * 1e6


def row(table, what, count, clock, base, beside="stored singly"):
    cpu = clock.cpu / count * 1e6
    table.row(f"{what}: rate", f"{count / clock.seconds:,.0f}/s", f"{base[0]:,.0f}/s {beside}",
              count / clock.seconds / base[0])
    table.row(f"{what}: CPU of the node", f"{cpu:.1f} µs", f"{base[1]:.1f} µs {beside}",
              cpu / base[1])


def keeping(table, programs, node, count, base):
    session = Session(node)
    with Clock(node) as clock:
        session.send(subscribe(1, 1, "plain.topic", earliest=True))
        session.read(count)
    row(table, "delivered to a plain subscription", count, clock, base)


def group(table, programs, node, count, base):
    selector = selectors.DefaultSelector()
    for _ in range(3):
        member = Session(node)
        member.send(subscribe(1, 1, "plain.topic", earliest=True, group="crew", records=200))
        member.requests = 1
        selector.register(member.socket, selectors.EVENT_READ, member)
    acked = 0
    with Clock(node) as clock:
        while acked < count:
            for key, _ in selector.select(10):
                member, answers = key.data, []
                member.fill()
                while (frame := member.complete()) is not None:
                    _, kind, body = answer(frame)
                    acked += kind == ACKED
                    if kind == DELIVER:
                        answers += [framed(ack(member.request(), 1, dict(fields(what))[1]))
                                    for field, what in fields(body) if field == 7]
                if answers:
                    member.socket.sendall(b"".join(answers))
    row(table, "group of 3, delivered and answered for, on disk", count, clock, base)


def store(table, programs, node, count, base):
    session = Session(node)
    for name, more in [("op.store.set", {"value": "x" * 200}), ("op.store.get", {})]:
        frames = [framed(command(number + 1, name, {"key": f"k{number % 1000}", **more}))
                  for number in range(count)]
        with Clock(node) as clock:
            session.pipelined(frames, 256)
        row(table, f"{name}, one session", count, clock, base)
    sessions = [Session(node) for _ in range(8)]
    parts = [[framed(command(number + 1, "op.store.set", {"key": f"s{at}k{number % 100}",
                                                           "value": "x" * 200}))
              for number in range(count // 8)] for at in range(8)]
    with Clock(node) as clock:
        threads = [threading.Thread(target=session.pipelined, args=(part, 64))
                   for session, part in zip(sessions, parts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    row(table, "op.store.set, 8 sessions", count // 8 * 8, clock, base)


def one_by_one(node, frames):
    """Microseconds from each frame to its answer, the median; and CPU of the node."""
    session = Session(node)
    times = []
    with Clock(node) as clock:
        for frame in frames:
            since = time.monotonic()
            session.socket.sendall(frame)
            answer(session.receive())
            times.append(time.monotonic() - since)
    session.close()
    return statistics.median(times) * 1e6, clock.cpu / len(frames) * 1e6


def audit(table, programs, node, _count, _base):
    count = 1000
    plainly = one_by_one(node, [framed(produce(n + 1, [envelope("a.b", DATA)]))
                                for n in range(count)])
    for name, arguments in [
            ("status", lambda n: {}),
            ("op.store.set", lambda n: {"key": "k", "value": n}),
            ("edge.rate.set", lambda n: {"name": "r", "pattern": "never.used",
                                         "messages_per_second": 1000 + n}),
            ("room.create", lambda n: {"room": f"r{n}"})]:
        node_disk = Session(node).command("audit.head")
        took = one_by_one(node, [framed(command(n + 1, name, arguments(n)))
                                 for n in range(count)])
        after = Session(node).command("audit.head")
        entries = (int(after.get("number") or 0) - int(node_disk.get("number") or 0)) / count
        table.row(f"{name}, one at a time ({entries:.0f} entries in the audit each)",
                  f"{took[0]:,.0f} µs, {took[1]:,.0f} µs of CPU",
                  f"{plainly[0]:,.0f} µs, {plainly[1]:,.0f} µs: a message, synced",
                  took[0] / plainly[0])


def dispatch(table, programs, node, _count, base):
    operator = Session(node)
    operator.ask(put(1, 1) + put(10, put(1, "echo") + put(2, "g") + put(6, 64)
                                 + put(7, "1.0.0")))
    requesters = [Session(node) for _ in range(16)]
    count = 4000

    def work():
        try:
            while True:
                _, kind, body = answer(operator.receive())
                if kind == TASK:
                    task = dict(fields(body))
                    operator.send(put(1, 100) + put(11, put(1, task[1]) + put(2, b"done")
                                                    + put(4, task[7])))
        except (OSError, ConnectionError):
            pass

    threading.Thread(target=work, daemon=True).start()
    frame = [framed(command(n + 1, "op.dispatch", {"group": "g", "data": DATA, "wait_ms": 10_000}))
             for n in range(count)]
    plainly = one_by_one(node, [framed(produce(n + 1, [envelope("a.b", DATA)]))
                                for n in range(500)])
    alone = one_by_one(node, frame[:500])
    table.row("op.dispatch, one at a time, result waited for",
              f"{alone[0]:,.0f} µs, {alone[1]:,.0f} µs of CPU",
              f"{plainly[0]:,.0f} µs, {plainly[1]:,.0f} µs: a message, synced",
              alone[0] / plainly[0])
    with Clock(node) as clock:
        threads = [threading.Thread(target=session.pipelined, args=(frame[at::16], 1))
                   for at, session in enumerate(requesters)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    row(table, "op.dispatch, 16 at a time, result waited for", count, clock, base)
    operator.close()


RECEIVER = """
import asyncio
count = 0
async def serve(reader, writer):
    global count
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            length = 0
            for line in head.lower().split(b"\\r\\n"):
                if line.startswith(b"content-length:"):
                    length = int(line[15:])
            if length:
                await reader.readexactly(length)
            body = b""
            if head.startswith(b"GET"):
                body = str(count).encode()
            else:
                count += 1
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def webhook(table, programs, node, count, base):
    receiver = subprocess.Popen([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE)
    try:
        port = int(receiver.stdout.readline())

        def received():
            with socket.create_connection(("127.0.0.1", port)) as asking:
                asking.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return int(asking.recv(4096).rpartition(b"\r\n\r\n")[2])

        count = min(count, 3000)
        session = Session(node)
        for what, more in [("in order", {}), ("ordered by key", {"ordered_by_key": True})]:
            topic = f"hook.{len(more)}"
            session.pipelined([framed(produce(n + 1, [envelope(topic, DATA, key=f"k{n}")]))
                               for n in range(count)], 256)
            before = received()
            with Clock(node) as clock:
                session.command("op.webhook.register", url=f"http://127.0.0.1:{port}/",
                                topic=topic, name=f"hook{len(more)}", **{"from": "earliest"}, **more)
                deadline = time.monotonic() + 40
                while received() - before < count and time.monotonic() < deadline:
                    time.sleep(0.02)
            row(table, f"webhook deliveries, {what}", received() - before, clock, base)
    finally:
        receiver.kill()
        receiver.wait()


def wasm(table, programs, node, count, base):
    module = os.path.join(os.path.dirname(__file__), "../../examples/operators/count.wat")
    session = Session(node)
    with Clock(node) as clock:
        node.arqon("wasm", "push", "count", module, "--topics", "plain.topic", "--emits", "out.>")
        session.send(subscribe(1, 1, "out.>", earliest=True))
        session.read(count)
    row(table, "WebAssembly operator, records read and said again", count, clock, base)


def cron(table, programs, node, _count, base):
    jobs, seconds = 5000, 8
    session = Session(node)
    with Clock(node) as clock:
        session.pipelined([framed(command(n + 1, "op.cron.schedule", {
            "topic": "ticks.all", "payload": {"n": n}, "delay_seconds": 1,
            "interval_seconds": 1, "repeat_count": 0})) for n in range(jobs)], 256)
    row(table, f"op.cron.schedule, {jobs:,}, one session", jobs, clock, base)
    counter = Session(node)
    counter.send(subscribe(1, 1, "ticks.all"))
    answer(counter.receive())
    counter.socket.settimeout(5)
    with Clock(node) as clock:
        seen, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            seen += counter.read(1)
    table.row(f"cron, {jobs:,} jobs, each every second", f"{seen / clock.seconds:,.0f} firings/s, "
              f"{clock.cpu / max(seen, 1) * 1e6:.0f} µs of CPU each", f"{jobs:,}/s asked for",
              seen / clock.seconds / jobs)


def window(table, programs, rounds):
    """Ids that producers gave: what knowing them costs."""
    with Node(programs) as node:
        session, batch, count = Session(node), 1000, 200_000
        without, ids = [], []
        for turn in range(-1, rounds):
            for known, results in ((False, without), (True, ids)):
                frames = [framed(produce(n + 1, [
                    envelope("dup.topic", DATA, id=f"id-{turn}-{n}-{at}" if known else None)
                    for at in range(batch)])) for n in range(count // batch)]
                with Clock(node) as clock:
                    session.pipelined(frames, 8)
                if turn >= 0:
                    results.append((count / clock.seconds, clock.cpu / count * 1e6))
        for at, unit, digits, what in [(0, "/s", 0, "rate"), (1, " µs", 2, "CPU of the node")]:
            values = [[one[at] for one in which] for which in (ids, without)]
            table.row(f"batches of {batch:,} with ids of their producers: {what}",
                      spread(values[0], unit, digits),
                      f"{spread(values[1], unit, digits)} without",
                      statistics.median(values[0]) / statistics.median(values[1]))
        again = [framed(produce(n + 1, [envelope("dup.topic", DATA, id=f"id-{rounds - 1}-{n}-{at}")
                                        for at in range(batch)])) for n in range(count // batch)]
        with Clock(node) as clock:
            session.pipelined(again, 8)
        table.row("the same sent again: rate", f"{count / clock.seconds:,.0f}/s",
                  f"{spread([one[0] for one in ids], '/s')} the first time",
                  count / clock.seconds / statistics.median(one[0] for one in ids))
    taken = []
    for known in (False, True):
        with Node(programs) as node:
            session, empty = Session(node), None
            for start in range(0, 1_000_000, 100_000):
                session.pipelined([framed(produce(n + 1, [
                    envelope("dup.topic", b"x", id=f"id-{start + n * 1000 + at:012}" if known
                             else None) for at in range(1000)])) for n in range(100)], 8)
            taken.append(node.settled(2))
    table.row("memory of the window at 1,000,000 ids", f"{(taken[1] - taken[0]) / 1e6:,.0f} bytes each",
              f"{taken[0] / 1e6:.0f} MB of node without ids")
