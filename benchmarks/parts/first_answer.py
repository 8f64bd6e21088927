"""From wanting a tunnel to the first 200 through it."""

import time

from bench import Bench
from contenders import contenders
from ours import Embedded
from peers import Contender, Direct, Ssh, wait_open
from processes import BenchmarkError, Processes
from report import Figures, Table, spread

TITLE = "first answer"

COLD = "ours, embedded, asked for in the middle of a test"


def measure(bench: Bench, figures: Figures) -> None:
    """Open and close each tunnel in turn, in every round."""
    everybody = [one for one in contenders(bench.only) if not isinstance(one, Direct)]
    with Processes() as processes:
        ready = bench.prepared(everybody, processes, figures)

        def once(round_: int) -> None:
            for contender in ready:
                try:
                    figures.add(contender.name, TITLE, round_, _open_ms(contender))
                    if type(contender) is Embedded:
                        figures.add(COLD, TITLE, round_, contender.from_nothing_s() * 1000)
                except BenchmarkError as error:
                    figures.fail(contender.name, TITLE, error)

        # Each takes a moment only, and a moment is noisy.
        bench.in_rounds(TITLE, once, rounds=3 * bench.rounds)


def _open_ms(contender: Contender) -> float:
    """Return the time from the request for a tunnel to the first answer, in milliseconds."""
    began_s = time.perf_counter()
    try:
        endpoint = contender.open()
        if isinstance(contender, Embedded):
            return contender.took_s * 1000
        wait_open(contender, endpoint)
        return (time.perf_counter() - began_s) * 1000
    finally:
        contender.close()


def tables(bench: Bench, figures: Figures) -> list[Table]:
    """Return one table."""
    table = Table(
        "From wanting a tunnel to the first 200 through it",
        ("", "ms", "a part of what ssh -R needs"),
    )
    for name in figures.contenders():
        ratios = "1" if name == Ssh.name else spread(figures.ratios(name, Ssh.name, TITLE))
        table.rows.append((name, spread(figures.get(name, TITLE)), ratios))
    table.notes.append(
        "Ours, embedded: from the set-up of a test's first fixture, with `synth_lease` among "
        "them; the keeper was started when collection ended, or, in the other line, by the "
        "request itself. Agents on our relay: with the lease's creation; the others: from the "
        "start of the client process. All servers run already, but for ours, embedded, which "
        "has none to be started by anybody."
    )
    return [table]
