"""What the tests of the agent share."""

import pytest

from ..support.agent_bench import AgentBench


@pytest.fixture(params=[False, True], ids=["pieces", "whole"])
def whole_messages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Have short messages in pieces, and in one frame."""
    monkeypatch.setattr(AgentBench, "whole_messages", request.param)
    return bool(request.param)
