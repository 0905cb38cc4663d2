"""A client that costs little: frames are bytes made by hand, made before the clock runs.

Knows the few messages of proto/arqon/v1 that the cases send, and of those that come back only what
they count. For measuring, not for use.
"""

import os
import socket
import struct

SYNCED, WRITTEN = 2, 1


# -- encoding ----------------------------------------------------------------------------------

def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def put(field, value):
    """One field: a number, a truth value, a text, or bytes (also those of a message)."""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, int):
        return varint(field << 3) + varint(int(value))
    return varint(field << 3 | 2) + varint(len(value)) + value


def value(given):
    """An arqon.v1.Value."""
    if isinstance(given, bool):
        return put(2, given)
    if isinstance(given, int):
        return put(3, given << 1 if given >= 0 else (-given << 1) - 1)
    if isinstance(given, float):
        return varint(5 << 3 | 1) + struct.pack("<d", given)
    if isinstance(given, str):
        return put(6, given)
    if isinstance(given, bytes):
        return put(7, given)
    if isinstance(given, (list, tuple)):
        return put(8, b"".join(put(1, value(item)) for item in given))
    return put(9, b"".join(put(1, put(1, name) + put(2, value(item)))
                           for name, item in given.items()))


def envelope(topic, data, id=None, key=None):
    out = put(21, put(2, data)) + put(31, topic)
    if id is not None:
        out += put(30, id)
    return out + put(36, key) if key is not None else out


def produce(request, envelopes, reality="", durability=SYNCED):
    body = (put(1, reality) if reality else b"") + put(2, durability)
    return put(1, request) + put(2, body + b"".join(put(3, one) for one in envelopes))


def subscribe(request, number, filter, *, earliest=False, stop_at_end=False, group="",
              records=0, size=0, consumer="", reality=""):
    body = put(1, number) + put(3, filter)
    body += put(2, reality) if reality else b""
    body += put(4, True) if earliest else b""
    body += put(8, consumer) if consumer else b""
    body += put(9, group) if group else b""
    body += put(12, True) if stop_at_end else b""
    body += put(13, records) if records else b""
    body += put(14, size) if size else b""
    return put(1, request) + put(3, body)


def credit(number, records, size):
    return put(1, 0) + put(5, put(1, number) + put(2, records) + put(3, size))


def ack(request, number, sequence):
    return put(1, request) + put(7, put(1, number) + put(2, sequence))


def command(request, name, arguments):
    fields = b"".join(put(2, put(1, key) + put(2, value(given)))
                      for key, given in arguments.items())
    return put(1, request) + put(9, put(1, name) + fields)


def framed(payload):
    """One binary WebSocket message. The mask is zero, which the protocol allows and costs nothing."""
    length = len(payload)
    if length < 126:
        return b"\x82" + bytes([0x80 | length]) + b"\0\0\0\0" + payload
    if length < 65536:
        return b"\x82\xfe" + struct.pack(">H", length) + b"\0\0\0\0" + payload
    return b"\x82\xff" + struct.pack(">Q", length) + b"\0\0\0\0" + payload


# -- decoding ----------------------------------------------------------------------------------

def take(data, at):
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def fields(data):
    """Numbers and values of a message's fields."""
    at, end = 0, len(data)
    while at < end:
        tag, at = take(data, at)
        kind = tag & 7
        if kind == 0:
            number, at = take(data, at)
            yield tag >> 3, number
        elif kind == 2:
            length, at = take(data, at)
            yield tag >> 3, data[at:at + length]
            at += length
        else:
            length = 8 if kind == 1 else 4
            yield tag >> 3, data[at:at + length]
            at += length


def plain(data):
    """What an arqon.v1.Value says."""
    for field, given in fields(data):
        if field == 2:
            return bool(given)
        if field == 3:
            return given >> 1 if not given & 1 else -(given >> 1) - 1
        if field == 4:
            return given
        if field == 5:
            return struct.unpack("<d", given)[0]
        if field == 6:
            return bytes(given).decode()
        if field == 7:
            return bytes(given)
        if field == 8:
            return [plain(item) for _, item in fields(given)]
        if field == 9:
            pairs = (dict(fields(item)) for _, item in fields(given))
            return {bytes(pair[1]).decode(): plain(pair.get(2, b"")) for pair in pairs}
    return None


class Refused(Exception):
    """The node has answered with an Error."""


def answer(frame):
    """Request, number of the body's field, and the body of a ServerFrame."""
    request, kind, body = 0, 0, b""
    for field, given in fields(frame):
        if field == 1:
            request = given
        else:
            kind, body = field, given
    if kind == 9:
        raise Refused(str([bytes(text).decode(errors="replace") for _, text in fields(body)
                           if not isinstance(text, int)]))
    return request, kind, body


PRODUCED, SUBSCRIBED, DELIVER, RESULT, TASK, ACKED, JOINED, TAKEN = 3, 4, 5, 6, 7, 13, 20, 21


class Session:
    """One connection, used by one thread."""

    def __init__(self, node):
        self.socket = socket.create_connection(node.edge, timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.at = 0
        self.requests = 0
        self.socket.sendall((
            "GET /v1/ws HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
            "Sec-WebSocket-Protocol: arqon.v1\r\n"
            f"Authorization: Bearer {node.token}\r\n\r\n").encode())
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise Refused(head.decode(errors="replace"))
        self.buffer = bytearray(rest)
        self.receive()  # Welcome

    def fill(self):
        got = self.socket.recv(1 << 18)
        if not got:
            raise ConnectionError("the node has closed the connection")
        self.buffer += got

    def send(self, payload):
        self.socket.sendall(framed(payload))

    def complete(self):
        """The next message that has come whole, or None. Pings are answered here."""
        while True:
            here = len(self.buffer) - self.at
            if here < 2:
                break
            first, short = self.buffer[self.at], self.buffer[self.at + 1] & 0x7F
            head = 2
            length = short
            if short == 126:
                if here < 4:
                    break
                head, length = 4, struct.unpack_from(">H", self.buffer, self.at + 2)[0]
            elif short == 127:
                if here < 10:
                    break
                head, length = 10, struct.unpack_from(">Q", self.buffer, self.at + 2)[0]
            if here < head + length:
                break
            payload = bytes(self.buffer[self.at + head:self.at + head + length])
            self.at += head + length
            if first & 0x0F == 9:
                self.socket.sendall(b"\x8a" + bytes([0x80 | length]) + b"\0\0\0\0" + payload)
                continue
            if first & 0x0F == 8:
                raise ConnectionError(f"the node has closed the session: {payload!r}")
            return payload
        if self.at:
            del self.buffer[:self.at]
            self.at = 0
        return None

    def receive(self):
        while (frame := self.complete()) is None:
            self.fill()
        return frame

    def request(self):
        self.requests += 1
        return self.requests

    def ask(self, frame):
        """Sends a frame and waits for the next answer that is no Deliver."""
        self.send(frame)
        while True:
            request, kind, body = answer(self.receive())
            if kind != DELIVER and request:
                return kind, body

    def command(self, name, /, **arguments):
        _, body = self.ask(command(self.request(), name, arguments))
        return plain(next((given for field, given in fields(body) if field == 1), b""))

    def pipelined(self, frames, window=64):
        """Sends all frames, so many unanswered at a time; each must have one answer."""
        waiting = 0
        for frame in frames:
            while waiting >= window:
                answer(self.receive())
                waiting -= 1
            self.socket.sendall(frame)
            waiting += 1
        while waiting:
            answer(self.receive())
            waiting -= 1

    def read(self, records, number=1):
        """Receives Delivers until so many records have come, giving back what credit they took."""
        seen = 0
        while seen < records:
            _, kind, body = answer(self.receive())
            sizes = [len(what) for field, what in fields(body) if field == 1] \
                if kind == DELIVER else []
            seen += len(sizes)
            if sizes:
                self.send(credit(number, len(sizes), sum(sizes)))
        return seen

    def drain(self):
        """Receives Delivers until the subscription has finished, without looking at the records."""
        received = 0
        while True:
            _, kind, body = answer(self.receive())
            received += len(body)
            # `finished` is the last field that is set.
            if kind == DELIVER and body.endswith(b"\x28\x01"):
                return received

    def close(self):
        self.socket.close()

    def kill(self):
        """Ends it as a crash does: without a word, and what is unsent is lost."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def forget_settings():
    """What the machine has set must not decide what the node does."""
    for name in [name for name in os.environ if name.startswith("ARQON")]:
        del os.environ[name]
