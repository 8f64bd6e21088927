"""One caller's connection, and what is tied to it: the connections to apps that agents hold for it.

To the app it is as if the caller had connected to it: a new connection of the caller is a new one
to the app, and when either ends, so does the other. Between relay and agent the caller's
connection has a name, ``conn``, which the relay puts into every ``REQ_HEADERS`` that came on it
(docs/reference/protocol.md, section 6). It exists between an agent that announced
``caller_connections`` and a relay whose callers do not share connections.

A :class:`CallerConnection` knows the sessions of those agents that may hold something for it: each
is added when a request goes there, and taken out when

- the caller's connection ends: every agent is told with ``CONN_CLOSED``;
- the agent says with ``CONN_CLOSED`` that it holds nothing any more, since the app has closed its
  connection. If no other agent holds anything, the caller's connection is closed too, unless a
  request is on its way: the agent will connect to the app anew for that one;
- the agent's link is lost. The caller's connection stays: the agent may come back.
"""

from ..http.exchange import ConnectionObserver, ResponseSink
from ..wire.frames import ConnClosed
from .agent_session import AgentSession

__all__ = ["CallerConnection"]


class CallerConnection(ConnectionObserver):
    """What one caller's connection is to agents (a
    :class:`~..http.exchange.ConnectionObserver` and a :class:`~.agent_session.TiedConnection`).

    Args:
        conn: its name.
        connection: the connection itself.
    """

    __slots__ = ("_connection", "_sessions", "conn")

    def __init__(self, conn: str, connection: ResponseSink) -> None:
        self.conn = conn
        self._connection = connection
        self._sessions: set[AgentSession] = set()
        """The sessions of the agents that may hold a connection to an app for it."""

    def use(self, session: AgentSession) -> None:
        """Note that a request goes to this agent."""
        if session not in self._sessions:
            self._sessions.add(session)
            session.tied[self.conn] = self

    def connection_ended(self) -> None:
        """Tell the agents that the caller's connection has ended."""
        for session in self._sessions:
            session.tied.pop(self.conn, None)
            session.link.send(ConnClosed(self.conn))
        self._sessions.clear()

    def app_closed(self, session: AgentSession) -> None:
        """Close the caller's connection as the app has closed its own."""
        self._sessions.discard(session)
        session.tied.pop(self.conn, None)
        if not self._sessions and not self._connection.close_if_idle():
            self.use(session)

    def session_lost(self, session: AgentSession) -> None:
        """Forget an agent, with all that it held."""
        self._sessions.discard(session)
