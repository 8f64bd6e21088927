"""HttpServer, without sockets."""

from ..support.http_server import GET, OneConnection


def test_server_close(loop, wire):
    world = OneConnection(loop, wire)
    idle = type(wire)()
    world.server().connection_made(idle)
    world.feed(GET % b"").handler.exchange.start_response(200, [])
    loop.tick()
    world.server.close()
    assert idle.closed
    assert not idle.aborted
    assert wire.aborted
    loop.advance(1000)
