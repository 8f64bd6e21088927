"""Makes the published client do what it is told: a JSON line in, a JSON line out.

Runs in the environment of the published client, with nothing of this project.
"""

import asyncio
import importlib
import inspect
import json
import os
import sys

import synth_ai.core.utils.urls
import synth_ai.sdk.base
from synth_ai.sdk.tunnels import AsyncTunnelsClient, TunnelProvider, TunnelsClient


class Driver:
    def __init__(self):
        self.clients = {}

    def client(self, options):
        key = json.dumps(options)
        if key not in self.clients:
            self.clients[key] = TunnelsClient(**options), AsyncTunnelsClient(**options)
        return self.clients[key]

    def call(self, options, method, arguments, asynchronous):
        arguments = {
            name: TunnelProvider[value["$provider"]]
            if isinstance(value, dict) and "$provider" in value
            else value
            for name, value in arguments.items()
        }
        sync_client, async_client = self.client(options)
        if asynchronous:

            async def scenario():
                return await getattr(async_client, method)(**arguments)

            return asyncio.run(scenario())
        return getattr(sync_client, method)(**arguments)

    def resolve(self, options, environ):
        for name in ("SYNTH_API_KEY", "SYNTH_BACKEND_URL"):
            os.environ.pop(name, None)
        os.environ.update(environ)
        # The published client reads the environment when it is imported.
        urls = importlib.reload(synth_ai.core.utils.urls)
        synth_ai.sdk.base.BACKEND_URL_BASE = urls.BACKEND_URL_BASE
        client = TunnelsClient(**options)
        return [client.backend_base, client.api_key]

    def signatures(self):
        found = {}
        for name, method in vars(TunnelsClient).items():
            if callable(method) and not name.startswith("_"):
                parameters = inspect.signature(method).parameters.values()
                found[name] = [
                    [
                        parameter.name,
                        str(parameter.kind),
                        None if parameter.default is parameter.empty else [parameter.default],
                    ]
                    for parameter in parameters
                    if parameter.name != "self"
                ]
        return found


driver = Driver()
for line in sys.stdin:
    order = json.loads(line)
    try:
        outcome = {"result": getattr(driver, order.pop("do"))(**order)}
    except Exception as error:
        outcome = {"error": type(error).__name__}
    sys.stdout.write(json.dumps(outcome) + "\n")
    sys.stdout.flush()
