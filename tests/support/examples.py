"""How many cases Hypothesis generates for a test: fewer at a desk than in CI."""

import os

GIVEN = int(os.environ.get("SYNTH_TUNNELS_TEST_EXAMPLES", "0"))
"""What ``SYNTH_TUNNELS_TEST_EXAMPLES`` says, for each test alike."""

IN_CI = os.environ.get("CI") == "true"


def examples(in_ci: int) -> int:
    """Return how many cases a test has that has ``in_ci`` of them in CI: else a quarter."""
    return GIVEN or (in_ci if IN_CI else in_ci // 4)
