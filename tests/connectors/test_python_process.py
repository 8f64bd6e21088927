"""What a connector in a Python process of its own is started with."""

import json
import sys
from typing import Any

from pytest_synth_tunnels.connectors.base import Assignment
from pytest_synth_tunnels.connectors.python_process import PythonConnector


class Connector(PythonConnector):
    module = "my.module"

    def config(self) -> dict[str, Any]:
        return {"token": "tt_secret", "target": self.assignment.gateway_url}


def test_its_secrets_come_through_the_standard_input_alone() -> None:
    connector = Connector(Assignment("http://127.0.0.1:9"))

    assert connector.arguments()[:2] == [sys.executable, "-I"]
    assert "tt_secret" not in " ".join(connector.arguments())
    assert connector.environment() == {}
    data = connector.stdin_data()
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1
    assert json.loads(data) == {
        "token": "tt_secret",
        "target": "http://127.0.0.1:9",
        "module": "my.module",
        "sys_path": sys.path,
    }
