"""``python -m pytest_synth_tunnels``: see :mod:`.cli`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m pytest_synth_tunnels"))
