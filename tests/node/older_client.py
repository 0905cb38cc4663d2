"""A client of the older system, as its Python SDK is written: text frames over `websockets`, no
subprotocol, one coroutine. Prints one line of JSON with what it has seen.

Usage: older_client.py URL TOKEN SCENE
"""

import asyncio
import json
import sys
from datetime import datetime, timezone
from uuid import uuid4

import websockets


class Client:
    """`ArqonBusClient` of the older SDK, without its error classes. Without a token here, one may
    stand in the query of the URL."""

    def __init__(self, url, *, jwt_token=None):
        self._url, self._token, self._socket = url, jwt_token, None

    async def __aenter__(self):
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        self._socket = await websockets.connect(self._url, additional_headers=headers)
        return self

    async def __aexit__(self, *_):
        await self._socket.close()

    async def send_json(self, mapping):
        await self._socket.send(json.dumps(mapping))

    async def recv_json(self, timeout=10):
        message = json.loads(await asyncio.wait_for(self._socket.recv(), timeout))
        assert isinstance(message, dict), message
        return message


class Ids:
    counter = 0


def message_id():
    Ids.counter += 1
    return f"arq_1700000000000_{Ids.counter}_{uuid4().hex[:6]}"


def envelope(kind, **parts):
    now = datetime.now(timezone.utc).isoformat()
    return {"id": message_id(), "timestamp": now, "type": kind, "version": "1.0", **parts}


def command(name, /, **args):
    return envelope("command", command=name, args=args)


async def ask(client, frame):
    await client.send_json(frame)
    return await client.recv_json()


async def hello(url, token):
    """The older example bot: welcome, one message, its acknowledgement."""
    async with Client(url, jwt_token=token) as client:
        welcome = await client.recv_json()
        sent = envelope("message", room="science", channel="general", payload={"content": "hello"})
        return {"welcome": welcome, "sent": sent, "answer": await ask(client, sent)}


async def room(url, token):
    """Two in a channel hear each other, in order, and not themselves."""
    async with Client(url, jwt_token=token) as ann, Client(url, jwt_token=token) as bob:
        names = [(await one.recv_json())["payload"]["client_id"] for one in (ann, bob)]
        joined = await ask(bob, command("join_channel", room="lab", channel="a b.c"))
        for number in range(20):
            payload = {"n": number, "half": number / 2 + 0.25, "text": "ünï"}
            await ann.send_json(envelope("message", room="lab", channel="a b.c", payload=payload))
        acks = [await ann.recv_json() for _ in range(20)]
        heard = [await bob.recv_json() for _ in range(20)]
        # Whoever speaks hears the others from then on.
        await bob.send_json(envelope("message", room="lab", channel="a b.c", payload={"re": 1}))
        answer, reply = await bob.recv_json(), await ann.recv_json()
        history = await ask(bob, command("history", room="lab", channel="a b.c", limit=3))
        left = await ask(bob, command("leave_channel", room="lab", channel="a b.c"))
        again = await ask(bob, command("leave_channel", room="lab", channel="a b.c"))
        return {
            "names": names, "joined": joined, "acks": acks, "heard": heard, "answer": answer,
            "reply": reply, "history": history, "left": left, "again": again,
        }


async def commands(url, token):
    async with Client(url, jwt_token=token) as client:
        await client.recv_json()
        await ask(client, envelope("message", room="r", channel="c", payload={}))
        legacy = envelope("command", payload={"command": "ping", "parameters": {}})
        return [
            await ask(client, frame)
            for frame in (
                command("status"), command("ping"), legacy, command("help"),
                command("help", command="history"), command("list_channels", room="r"),
                command("channel_info", room="r", channel="c"), command("create_channel"),
                command("op.store.set"), command("dance"),
                command("history", room="r", channel="c", limit=0), command("log.status"),
            )
        ]


def episode_event(number, seconds, **changed):
    event = {
        "event_id": f"01J9ZQ6T2N8W4V5X6Y7Z8A{number:04}",
        "event_type": "episode.created",
        "tenant_id": "dev",
        "agent_id": "planner",
        "episode_id": "01J9ZQ6T2N8W4V5X6Y7Z8B0001",
        "source_ts": f"2026-01-31T12:00:{seconds:02}Z",
        "schema_version": 1,
        "payload": {
            "content_ref": "sqlite://episodes/1", "summary": "a plan",
            "tags": ["a", "b"], "metadata": {"n": number},
        },
    }
    return {**event, **changed}


async def projector(url, token):
    """The commands of the older projector, as its clients give them."""
    async with Client(url, jwt_token=token) as client:
        await client.recv_json()
        lane = "op.continuum.projector."

        async def give(name, **args):
            return await ask(client, command(lane + name, **args))

        key = {"agent_id": "planner", "episode_id": "01J9ZQ6T2N8W4V5X6Y7Z8B0001"}
        deleted = episode_event(2, 30, event_type="episode.deleted")
        return {
            "projected": await give("project_event", event=episode_event(1, 10)),
            "duplicate": await give("project_event", event=episode_event(1, 10)),
            "found": await give("get", tenant_id="dev", **key),
            "deleted": await give("project_event", event=deleted),
            "stale": await give("project_event", event=episode_event(3, 20)),
            "dead": await give("project_event", event=episode_event(4, 40, schema_version=2)),
            "foreign": await give("project_event", event=episode_event(5, 50, tenant_id="acme")),
            "text": await give("project_event", event=json.dumps(episode_event(1, 10))),
            "no_object": await give("project_event", event=[1]),
            "tombstone": await give("get", tenant_id="dev", **key),
            "missing": await give("get", agent_id="planner", episode_id="nobody"),
            "not_theirs": await give("get", tenant_id="acme", **key),
            "list": await give("list", limit=10),
            "of_agent": await give("list", agent_id="nobody"),
            "too_many": await give("list", limit=1_001),
            "dlq": await give("dlq.list", limit=10),
            "dlq_by_alias": await give("dlq_list"),
            "status": await give("status"),
        }


async def builtins(url, token):
    """Every built-in name of the older library, with the arguments that it took."""
    channel = f"exp-{uuid4().hex[:8]}"
    place = {"room": "science", "channel": channel}
    async with Client(url, jwt_token=token) as client:
        await client.recv_json()
        seen = {}
        for name, args in (
            ("status", {}), ("ping", {}), ("help", {}),
            ("create_channel", {"room": "science", "name": channel, "description": "d"}),
            ("join_channel", place), ("list_channels", {"room": "science"}),
        ):
            seen[name] = await ask(client, command(name, **args))
        sent = envelope("message", **place, payload={"content": "one"})
        assert (await ask(client, sent))["type"] == "message_response"
        for name, args in (
            ("channel_info", place), ("history", {**place, "limit": 5}),
            ("leave_channel", place), ("delete_channel", place),
            ("op.store.set", {"key": channel, "value": {"n": 5}}), ("op.store.get", {"key": channel}),
            ("op.store.list", {}), ("op.store.delete", {"key": channel}),
        ):
            seen[name] = await ask(client, command(name, **args))
        return seen


async def errors(url, token):
    """What the older library called by names of its own."""
    place = {"room": "faults", "channel": f"c-{uuid4().hex[:8]}"}
    async with Client(url, jwt_token=token) as client:
        await client.recv_json()
        await ask(client, command("create_channel", **place))
        seen = {
            "create_twice": await ask(client, command("create_channel", **place)),
            "info_unknown": await ask(client, command("channel_info", room="no", channel="where")),
            "leave_unknown": await ask(client, command("leave_channel", room="no", channel="where")),
            "bad_since": await ask(client, command("history", **place, since="yesterday")),
            "help_unknown": await ask(client, command("help", command="dance")),
        }
        await ask(client, command("delete_channel", **place))
        seen["delete_unknown"] = await ask(client, command("delete_channel", **place))
        return seen


async def tail(url, token):
    """`arqon tail --send JSON --limit 3`, as the older command line printed it."""
    send, limit, lines = {"type": "command", "command": "ping"}, 3, []
    async with Client(url, jwt_token=token) as client:
        await client.send_json(send)
        await client.send_json(envelope("message", room="science", channel="general", payload={}))
        while len(lines) < limit:
            frame = await client.recv_json(timeout=5.0)
            parts = " ".join(
                f"{name}={frame.get(name)}" for name in ("type", "sender", "room", "channel", "payload")
            )
            lines.append(f"{frame['timestamp']} {parts}")
    return {"lines": lines}


async def bot(url, token):
    """The hello-world bot: prints the welcome, says one thing, prints one frame."""
    room, channel = "science", "general"
    async with Client(url, jwt_token=token) as client:
        welcome = await client.recv_json()
        text = {"content": "hello from the bot"}
        await client.send_json(envelope("message", room=room, channel=channel, payload=text))
        return {"welcome": welcome, "received": await client.recv_json()}


async def refused(url, _token):
    """Without a token there is no socket."""
    try:
        async with Client(url):
            return {"status": 101}
    except websockets.exceptions.InvalidStatus as error:
        response = error.response
        return {
            "status": response.status_code,
            "challenge": response.headers["WWW-Authenticate"],
            "body": json.loads(response.body),
        }


SCENES = {scene.__name__: scene for scene in (hello, room, commands, projector, builtins, errors, tail, bot, refused)}

if __name__ == "__main__":
    found = asyncio.run(SCENES[sys.argv[3]](sys.argv[1], sys.argv[2]))
    print(json.dumps(found))
