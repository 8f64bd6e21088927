"""One end of an aiowstunnel: ``server PORT``, or ``client SERVER_PORT PUBLIC_PORT APP_PORT``."""

import asyncio
import sys

from aiowstunnel import LISTEN
from aiowstunnel.client import Client
from aiowstunnel.server import Server

HOST = "127.0.0.1"


async def main(role: str, *ports: int) -> None:
    """Run until killed."""
    if role == "server":
        end = Server(HOST, ports[0])
    else:
        end = Client(LISTEN, HOST, ports[0], HOST, ports[1], HOST, ports[2], initial_delay=0.05)
    end.start()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
