"""Requests that mean one thing to the relay and might mean another to the app, or to nobody.

A real backend and agent on sockets, before an app that takes nothing but strict HTTP.
"""

import asyncio
import json
import logging
import re
from collections import Counter
from collections.abc import Callable

import pytest
from websockets.asyncio.client import connect as websocket
from websockets.exceptions import InvalidStatus

from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.wire.codec import decode, encode
from pytest_synth_tunnels.wire.frames import Attach, AttachAck, AttachLease

from ..support.live_tunnels import Lease, Tunnels, run, statuses

SMUGGLED = "GET /smuggled HTTP/1.1\nHost: relay.test\n\n"


def raw(lease: Lease, text: str) -> bytes:
    """Return a request as bytes.

    ``{p}`` stands for the lease's path, ``{t}`` for the headers that open it; a line end is a whole
    one, ``␊`` a line feed alone, and ``␍`` a carriage return alone.
    """
    shown = f"Host: relay.test\nX-SynthTunnel-Worker-Token: {lease.worker_token}\n"
    text = text.replace("{p}", lease.prefix).replace("{t}", shown).replace("\n", "\r\n")
    return text.replace("␊", "\n").replace("␍", "\r").encode("latin-1")


REFUSED = {
    # Whose end could be read in two ways.
    "two lengths": "POST {p}/ HTTP/1.1\n{t}Content-Length: 4\nContent-Length: 44\n\nbody",
    "one length twice": "POST {p}/ HTTP/1.1\n{t}Content-Length: 4\nContent-Length: 4\n\nbody",
    "a list of lengths": "POST {p}/ HTTP/1.1\n{t}Content-Length: 4, 4\n\nbody",
    "signed": "POST {p}/ HTTP/1.1\n{t}Content-Length: +4\n\nbody",
    "hexadecimal": "POST {p}/ HTTP/1.1\n{t}Content-Length: 0x4\n\nbody",
    "over 64 bits": "POST {p}/ HTTP/1.1\n{t}Content-Length: 18446744073709551620\n\nbody",
    "both": "POST {p}/ HTTP/1.1\n{t}Content-Length: 4\nTransfer-Encoding: chunked\n\n0\n\n",
    "both, the other way": (
        "POST {p}/ HTTP/1.1\n{t}Transfer-Encoding: chunked\nContent-Length: 4\n\n0\n\n"
    ),
    "a space before the colon": "POST {p}/ HTTP/1.1\n{t}Transfer-Encoding : chunked\n\n0\n\n",
    "a tab before the colon": "POST {p}/ HTTP/1.1\n{t}Content-Length\t: 4\n\nbody",
    "folded": "POST {p}/ HTTP/1.1\n{t}Transfer-Encoding:\n chunked\n\n0\n\n",
    "an unknown coding": "POST {p}/ HTTP/1.1\n{t}Transfer-Encoding: xchunked\n\n0\n\n",
    "a coding in quotes": 'POST {p}/ HTTP/1.1\n{t}Transfer-Encoding: "chunked"\n\n0\n\n',
    "a vertical tab": "POST {p}/ HTTP/1.1\n{t}Transfer-Encoding: \x0bchunked\n\n0\n\n",
    "chunked, and more": "POST {p}/ HTTP/1.1\n{t}Transfer-Encoding: chunked, identity\n\n0\n\n",
    "chunked twice": (
        "POST {p}/ HTTP/1.1\n{t}Transfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n0\n\n"
    ),
    "chunked in HTTP/1.0": "POST {p}/ HTTP/1.0\n{t}Transfer-Encoding: chunked\n\n0\n\n",
    # Lines that end where they should not.
    "a line feed in the request line": "GET {p}/␊X-Injected:y HTTP/1.1\n{t}\n",
    "a carriage return in the request line": "GET {p}/␍X-Injected:y HTTP/1.1\n{t}\n",
    "a line feed in a header": "GET {p}/ HTTP/1.1\n{t}X: y␊X-Injected: z\n\n",
    "a carriage return in a header": "GET {p}/ HTTP/1.1\n{t}X: y␍X-Injected: z\n\n",
    "a zero byte in a header": "GET {p}/ HTTP/1.1\n{t}X: y\0z\n\n",
    "line feeds alone": "GET {p}/ HTTP/1.1␊Host: relay.test␊␊",
    "a line feed ends the head": "GET {p}/ HTTP/1.1\n{t}␊\n",
    # Request lines of another kind.
    "a space in the path": "GET {p}/a b HTTP/1.1\n{t}\n",
    "a tab in the path": "GET {p}/a\tb HTTP/1.1\n{t}\n",
    "a fragment": "GET {p}/#a HTTP/1.1\n{t}\n",
    "HTTP/0.9": "GET {p}/\n{t}\n",
    "user information": "GET http://user@relay.test{p}/ HTTP/1.1\n{t}\n",
    "another scheme": "GET file://relay.test{p}/ HTTP/1.1\n{t}\n",
    "no Host": "GET {p}/ HTTP/1.1\nX-SynthTunnel-Worker-Token: x\n\n",
    "two Hosts": "GET {p}/ HTTP/1.1\n{t}Host: other.test\n\n",
    "a Host with a path": "GET {p}/ HTTP/1.1\nHost: relay.test/x\n\n",
    "CONNECT": "CONNECT relay.test:80 HTTP/1.1\n{t}\n",
    "HTTP/2": "PRI * HTTP/2.0\n\nSM\n\n",
    # Chunks.
    "a chunk longer than it says": (
        "POST {p}/ HTTP/1.1\n{t}Transfer-Encoding: chunked\n\n1\nabc\n0\n\n"
    ),
    "a chunk with a sign": "POST {p}/ HTTP/1.1\n{t}Transfer-Encoding: chunked\n\n+1\na\n0\n\n",
    "a chunk with a space": "POST {p}/ HTTP/1.1\n{t}Transfer-Encoding: chunked\n\n1 \na\n0\n\n",
    "a chunk over 64 bits": (
        "POST {p}/ HTTP/1.1\n{t}Transfer-Encoding: chunked\n\n10000000000000001\na\n0\n\n"
    ),
    "a chunk that a line feed ends": (
        "POST {p}/ HTTP/1.1\n{t}Transfer-Encoding: chunked\n\n1␊a␊0␊␊"
    ),
    "a line feed in an extension": (
        "POST {p}/ HTTP/1.1\n{t}Transfer-Encoding: chunked\n\n1;x␊0\n\n"
    ),
    "a length in a trailer": (
        "POST {p}/ HTTP/1.1\n{t}Transfer-Encoding: chunked\n\n0\nContent-Length: 9\n\n"
    ),
    "a bad trailer": "POST {p}/ HTTP/1.1\n{t}Transfer-Encoding: chunked\n\n0\nX␊Y: z\n\n",
}


def test_what_could_be_read_in_two_ways_is_refused_and_reaches_nobody() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        app, lease = await tunnels.serving("app")
        for name, text in REFUSED.items():
            answer = await tunnels.send(raw(lease, text + SMUGGLED) + lease.get("/after"))
            assert len(statuses(answer)) == 1, (name, answer)
            assert statuses(answer)[0] in (400, 501, 505), (name, answer)
            assert b"Connection: close" in answer, name
            assert lease.worker_token.encode() not in answer, name
        assert app.seen == []
        assert app.refused == []
        # Nobody else was disturbed.
        assert (await tunnels.send(lease.get("/well", close=True))).endswith(b"app /well")

    run(scenario)


@pytest.mark.parametrize("websocket", [False, True])
def test_what_follows_a_request_is_a_request_of_its_own(websocket: bool) -> None:
    bodies = {
        "Content-Length: 4\n\nbody": b"body",
        "Content-Length: 0004\n\nbody": b"body",
        "Transfer-Encoding: chunked\n\n4\nbody\n0\n\n": b"body",
        "Transfer-Encoding:\tchunked\n\n0;x=y\nTrailer: 1\n\n": b"",
        # Headers that are something else in spite of their names.
        "Content_Length: 40\nContent-Length: 4\n\nbody": b"body",
        "Transfer_Encoding: chunked\nContent-Length: 4\n\nbody": b"body",
        "X-Transfer-Encoding: chunked\nContent-Length: 4\n\nbody": b"body",
        "Connection: content-length\nContent-Length: 4\n\nbody": b"body",
        "Connection: close-not, transfer-encoding, host\nContent-Length: 4\n\nbody": b"body",
        "Trailer: Host\nTransfer-Encoding: chunked\n\n0\nHost: evil.test\n\n": b"",
    }

    async def scenario(tunnels: Tunnels) -> None:
        app, lease = await tunnels.serving("app", websocket=websocket)
        for text, body in bodies.items():
            app.seen.clear()
            first = raw(lease, "POST {p}/first HTTP/1.1\n{t}" + text + SMUGGLED)
            answer = await tunnels.send(first + lease.get("/last", close=True))
            assert statuses(answer) == [200, 404, 200], (text, answer)
            assert [seen.target for seen in app.seen] == ["/first", "/last"]
            assert app.seen[0].body == body
            assert len(app.seen[0].get("host")) == 1
        assert app.refused == []

    run(scenario)


def test_a_path_reaches_the_app_as_it_was_written() -> None:
    paths = [
        *("/", "//", "/../..", "/./a", "//evil.test/x", "/a//b/../c"),
        *(
            "/%2e%2e/%2E%2e/",
            "/%2f%2F",
            "/a%2Fb%5cc",
            "/%00%0d%0aX:%20y",
            "/%zz%",
            "/;a=b/,@:!$&'()*+",
        ),
        *("/\\evil", "/~", "/~/x", "/~user/x", "/%7Euser/x", '/<>`{|}^"', "/s/rt_x/v1/tunnels/"),
        *("/?", "/?a=/../&b=%23??", "/x?http://evil.test/", "/" + "x" * 60_000),
    ]

    async def scenario(tunnels: Tunnels) -> None:
        app, lease = await tunnels.serving("app")
        for path in paths:
            assert statuses(await tunnels.send(lease.get(path, close=True))) == [200], path
        assert [seen.target for seen in app.seen] == paths
        assert app.refused == []
        # An absolute target names the host that the caller meant, and decides nothing else.
        request = "GET http://evil.test:99{p}/abs?x HTTP/1.1\n{t}Connection: close\n\n"
        assert statuses(await tunnels.send(raw(lease, request))) == [200]
        assert app.seen[-1].target == "/abs?x"
        assert app.seen[-1].get("host") == [f"127.0.0.1:{app.port}"]
        assert app.seen[-1].get("x-forwarded-host") == ["evil.test:99"]

    run(scenario)


def test_nothing_but_the_token_in_its_place_opens_a_lease() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        mine, own = await tunnels.serving("mine")
        theirs, other = await tunnels.serving("theirs")
        token = own.prefix.removeprefix("/s/")
        for prefix in (
            f"/s/{token}%2f..%2f{other.prefix[3:]}",
            f"/S/{token}",
            f"/s/{token.upper()}",
            f"/s/{token[:-1]}",
            f"/s/{token}.",
            f"/s/{token};x",
            f"/s//{token}",
            f"//s/{token}",
            f"/%73/{token}",
            f"/./s/{token}",
            f"/x/../s/{token}",
            f"/api/v1/synthtunnel/agent/../../../..{own.prefix}",
        ):
            own_path, own.prefix = own.prefix, prefix
            answer = await tunnels.send(own.get("/x", close=True))
            own.prefix = own_path
            assert statuses(answer) == [404], prefix
        # A path can climb as it likes: it stays the app's own.
        assert statuses(await tunnels.send(own.get(f"/../..{other.prefix}/x", close=True))) == [200]
        assert [seen.target for seen in mine.seen] == [f"/../..{other.prefix}/x"]
        # A route takes its own worker token, and no other secret.
        for secret in (own.worker_token, other.agent_token, tunnels.backend.api_key, "", "x"):
            request = other.get("/x", close=True, token=secret or " ")
            assert statuses(await tunnels.send(request)) == [401]
        assert theirs.seen == []
        # And the control plane takes its key alone.
        for secret in (own.worker_token, own.agent_token):
            request = raw(
                own,
                "GET /v1/tunnels/health HTTP/1.1\nHost: a\nConnection: close\n"
                f"Authorization: Bearer {secret}\n\n",
            )
            assert statuses(await tunnels.send(request)) == [401]

    run(scenario)


def test_an_agent_attaches_and_answers_for_its_own_lease_alone() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        app, lease = await tunnels.serving("app")
        own = tunnels.lease(1)
        bearer = {"Authorization": f"Bearer {own.agent_token}"}
        for leases, accepted in (([lease.id], []), ([lease.id, own.id, "x"], [own.id])):
            async with websocket(own.agent_url, additional_headers=bearer) as peer:
                attach = Attach([AttachLease(lease_id) for lease_id in leases])
                await peer.send(encode(attach).decode())
                ack = decode(await peer.recv())
                assert isinstance(ack, AttachAck)
                assert ack.accepted_leases == accepted
        # Who was attached still is.
        assert (await tunnels.send(lease.get("/x", close=True))).endswith(b"app /x")
        for shown in (
            f"Bearer {own.worker_token}",
            f"Bearer {tunnels.backend.api_key}",
            f"Bearer {own.agent_token}x",
            f"Basic {own.agent_token}",
            own.agent_token,
        ):
            with pytest.raises(InvalidStatus, match="401"):
                await websocket(own.agent_url, additional_headers={"Authorization": shown})
        assert len(app.seen) == 1

    run(scenario)


def test_an_agent_leads_a_lease_to_its_own_targets_alone() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        mine, theirs = await tunnels.app("mine"), await tunnels.app("theirs")
        own, other = tunnels.lease(mine.port), tunnels.lease(theirs.port)
        agent = await tunnels.attach(own, {"a": mine.port, "b": mine.port}, websocket=False)
        # The same agent serves another lease too.
        agent.leases.serve(other.id, other.public_url)
        agent.leases.set_target(other.id, "theirs", Target("127.0.0.1", theirs.port))
        for path, status in (
            ("/~a/x", 200),
            ("/~theirs/x", 404),
            ("/%7Etheirs/x", 404),
            ("/~a/../~theirs/x", 200),
            ("/~a%2f..%2ftheirs/x", 404),
            (f"/~http:%2f%2f127.0.0.1:{theirs.port}/x", 404),
            ("/x", 404),
        ):
            assert statuses(await tunnels.send(own.get(path, close=True))) == [status], path
        # Nor does a host that the caller names.
        request = (
            f"GET http://127.0.0.1:{theirs.port}{{p}}/~a/x HTTP/1.1\n{{t}}"
            f"X-Forwarded-Host: 127.0.0.1:{theirs.port}\nConnection: close\n\n"
        )
        assert statuses(await tunnels.send(raw(own, request))) == [200]
        assert theirs.seen == []

    run(scenario)


def test_a_lease_without_windows_or_token_is_no_way_into_another() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        app, lease = await tunnels.serving("open", metadata={"require_token": False})
        request = f"GET {lease.prefix}/x HTTP/1.1\r\nHost: a\r\n"
        # The worker token never reaches the app, wherever it stands.
        for header in (
            f"Authorization: Bearer {lease.worker_token}",
            f"authorization: bEARER  {lease.worker_token}",
            f"X-SynthTunnel-Worker-Token: {lease.worker_token}",
            f"X_SynthTunnel_Worker_Token: {lease.worker_token}",
        ):
            await tunnels.send(f"{request}{header}\r\nConnection: close\r\n\r\n".encode())
            seen = app.seen.pop()
            assert lease.worker_token not in str(seen), header

    run(scenario)


def test_nothing_secret_is_logged(
    caplog: pytest.LogCaptureFixture, refused: Callable[[], list[str]]
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets: list[str] = []

    async def scenario(tunnels: Tunnels) -> None:
        app, lease = await tunnels.serving("app", websocket=True)
        secrets.extend((tunnels.backend.api_key, lease.worker_token, lease.agent_token))
        for text in REFUSED.values():
            await tunnels.send(raw(lease, text))
        await tunnels.send(lease.get(close=True))
        await tunnels.send(lease.get(close=True, token="wt_wrong-0123456789"))
        secrets.append("wt_wrong-0123456789")

        # An app that answers with no HTTP, an agent that is refused, a body that does not validate.
        async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read(10_000))
            writer.close()

        broken = tunnels.lease(await tunnels.listen(nonsense))
        await tunnels.attach(broken, {"": await tunnels.listen(nonsense)}, websocket=True)
        secrets.extend((broken.worker_token, broken.agent_token))
        assert statuses(await tunnels.send(broken.get(close=True))) == [502]
        handshake = (
            "GET /api/v1/synthtunnel/agent HTTP/1.1\nHost: a\nAuthorization: Bearer at_wrong\n"
            "Connection: upgrade, close\nUpgrade: websocket\nSec-WebSocket-Version: 13\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n"
        )
        assert statuses(await tunnels.send(raw(lease, handshake))) == [401]
        secrets.append("at_wrong")
        body = json.dumps({"api_key": "sk-in-the-body", "client_instance_id": 5})
        await tunnels.send(
            (
                "POST /api/v1/synthtunnel/leases HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                f"Authorization: Bearer {tunnels.backend.api_key}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}"
            ).encode()
        )
        secrets.append("sk-in-the-body")
        # What a caller writes is its own business too.
        await tunnels.send(lease.get("/private-path?private=query", close=True, token="wt_wrong"))
        secrets.extend(("private-path", "private=query", lease.prefix))
        assert app.seen

    run(scenario, debug=True)
    for secret in secrets:
        assert secret not in caplog.text
    told = Counter(re.sub(r".*: (\d+ \w+)( \(.*)?", r"\1", line) for line in refused())
    assert told.pop("400 BAD_REQUEST") >= 10
    assert told == {
        "401 TUNNEL_AUTH_INVALID": 2,
        "401 unauthorized": 1,
        "422 validation_error": 1,
        "501 METHOD_UNSUPPORTED": 1,
        "502 TUNNEL_ENDPOINT_UNREACHABLE": 1,
    }
