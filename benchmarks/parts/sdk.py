"""SDK calls beside the published client's: :mod:`bench_sdk_async`, with both installed."""

import subprocess

from bench import Bench
from bench_sdk_async import compare
from cache import MissingError
from ours import project_python
from report import Figures, Table, spread

TITLE = "sdk"

_OURS, _PUBLISHED = "ours", "synth-ai 0.16.1"


def measure(bench: Bench, figures: Figures) -> None:
    """Let each client make its calls in a process of its own, in turn."""
    contenders = {}
    for name, module, find in (
        (_OURS, "pytest_synth_tunnels.sdk", lambda: project_python(bench.cache)),
        (
            _PUBLISHED,
            "synth_ai.sdk.tunnels",
            lambda: bench.cache.python("synth-ai-0.16.1", "synth-ai==0.16.1"),
        ),
    ):
        try:
            contenders[name] = str(find()), module
        except MissingError as error:
            bench.missing[name] = str(error)
    try:
        found = compare(contenders, rounds=bench.rounds)
    except subprocess.SubprocessError as error:
        figures.fail("SDK", TITLE, error)
        return
    for name, measures in found.items():
        for measure_, values in measures.items():
            for round_, value in enumerate(values):
                figures.add(name, measure_, round_, value)


def tables(bench: Bench, figures: Figures) -> list[Table]:
    """Return one table."""
    names = figures.contenders()
    table = Table("SDK calls", ("", *names, "ours / published"))
    for measure_ in dict.fromkeys(m for found in figures.as_json().values() for m in found):
        table.rows.append(
            (
                measure_,
                *(spread(figures.get(name, measure_)) for name in names),
                spread(figures.ratios(_OURS, _PUBLISHED, measure_)),
            )
        )
    return [table]
