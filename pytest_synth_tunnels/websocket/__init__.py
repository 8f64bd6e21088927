"""WebSockets that travel as frames: handshake, fragments, closes."""
