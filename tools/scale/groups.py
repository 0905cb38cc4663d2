"""Members of a group that come and go must leave nothing behind and lose nothing."""

import random
import selectors
import time

from .node import Node
from .wire import ACKED, DELIVER, Refused, Session, ack, answer, envelope, fields, produce, \
    subscribe

AT_A_TIME = 100
TAKEN = 5


def measure(table, programs, members, _rounds):
    chance = random.Random(7)
    records = members * 4
    with Node(programs) as node:
        producer = Session(node)
        for start in range(0, records, 1000):
            producer.ask(produce(producer.request(), [
                envelope("work.item", b"%d" % number, id=f"w{number}")
                for number in range(start, min(start + 1000, records))]))
        done, sent = set(), set()
        table_at = {}
        since = time.monotonic()
        came = 0
        while came < members:
            wave(node, chance, done, sent)
            came += AT_A_TIME
            if came in (AT_A_TIME, members // 10, members):
                table_at[came] = (node.settled(2), node.disk("_system"))
        took = time.monotonic() - since
        confirmed = len(done)
        drain(node, done, sent)
        early = table_at.get(members // 10) or table_at[AT_A_TIME]
        late = table_at[members]
        table.row(f"{members:,} members of a group, {AT_A_TIME} at a time, a third killed",
                  f"{members / took:,.0f} members/s")
        # Who is killed does not hear what became of its last answers: these may count or not. A
        # record that has been in the hands of too many who died is a dead letter.
        group = Session(node).command("group.show", group="crew")
        settled = len(done | sent) + group["dead_letters"]
        table.row(f"records answered for, {confirmed:,} before the last member",
                  f"{len(done | sent):,}, and {group['dead_letters']:,} dead letters; "
                  f"lag {group['lag']}", f"{records:,} produced", settled / records)
        table.row(f"memory after {members:,} members", f"{late[0] / 1e6:.1f} MB",
                  f"{early[0] / 1e6:.1f} MB after {members // 10:,}", late[0] / early[0])
        table.row(f"`_system` after {members:,} members", f"{late[1] / 1e6:.2f} MB",
                  f"{early[1] / 1e6:.2f} MB after {members // 10:,}", late[1] / early[1])


def wave(node, chance, done, sent):
    """A hundred members: each takes a few records, answers for most of them, and goes."""
    selector = selectors.DefaultSelector()
    members = []
    for _ in range(AT_A_TIME):
        member = Session(node)
        member.send(subscribe(1, 1, "work.item", earliest=True, group="crew", records=TAKEN))
        member.end = chance.choice(["leaves", "closes", "killed"])
        member.had = 0
        member.socket.setblocking(False)
        selector.register(member.socket, selectors.EVENT_READ, member)
        members.append(member)
    deadline = time.monotonic() + 1
    busy = set(members)
    while busy and time.monotonic() < deadline:
        for key, _ in selector.select(0.05):
            member = key.data
            try:
                member.fill()
            except BlockingIOError:
                continue
            while (frame := member.complete()) is not None:
                try:
                    _, kind, body = answer(frame)
                except Refused:  # It was too slow, and another has the record.
                    continue
                if kind == ACKED:
                    done.add(dict(fields(body)).get(2, 0))
                    member.had += 1
                    if member.had >= TAKEN - 2:
                        busy.discard(member)
                elif kind == DELIVER:
                    for field, what in fields(body):
                        if field == 7 and member.requests < TAKEN - 2:
                            sequence = dict(fields(what))[1]
                            sent.add(sequence)
                            member.socket.setblocking(True)
                            member.send(ack(member.request() + 1, 1, sequence))
                            member.socket.setblocking(False)
    for member in members:
        member.socket.setblocking(True)
        if member.end == "killed":
            member.kill()
        else:
            if member.end == "leaves":
                member.send(b"\x08\x09\x22\x02\x08\x01")  # Unsubscribe from 1, as request 9.
            member.close()


def drain(node, done, sent):
    """One more does what is left, until nothing has come for a while."""
    last = Session(node)
    last.socket.settimeout(5)
    last.send(subscribe(1, 1, "work.item", earliest=True, group="crew", records=500))
    last.requests = 1
    while True:
        try:
            _, kind, body = answer(last.receive())
        except TimeoutError:
            return
        if kind == DELIVER:
            for field, what in fields(body):
                if field == 7:
                    sequence = dict(fields(what))[1]
                    sent.add(sequence)
                    last.send(ack(last.request(), 1, sequence))
        elif kind == ACKED:
            done.add(dict(fields(body)).get(2, 0))
