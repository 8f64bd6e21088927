"""HTTP/1.1 on asyncio transports: the server for callers, the client for apps."""
