"""Large bodies, each way, and how much memory the keeper takes meanwhile."""

from bench import Bench, OpenTunnel
from contenders import contenders
from load import bulk_down, bulk_up
from ours import Embedded
from peers import Direct
from processes import BenchmarkError, memory_kib, reset_peak
from report import Figures, Table, spread

TITLE = "bulk"

_TIMEOUT_S = 60.0
WAYS = {"down": bulk_down, "up": bulk_up}
_MIB = 1 << 20


def measure(bench: Bench, figures: Figures) -> None:
    """Send one large body each way through each tunnel in turn, in every round."""
    if not bench.origin.whole:
        figures.fail("all", TITLE, f"{bench.origin.name} has no large answers: install a compiler")
        return
    with bench.tunnels(contenders(bench.only), figures) as tunnels:

        def once(round_: int) -> None:
            for way in WAYS:
                for tunnel in tunnels:
                    _send(bench, figures, tunnel, way, round_)

        bench.in_rounds(TITLE, once)


def _send(bench: Bench, figures: Figures, tunnel: OpenTunnel, way: str, round_: int) -> None:
    contender = tunnel.contender
    if f"{contender.name}, {way}" in figures.problems:
        return  # it failed in an earlier round, and that took long enough
    keeper = contender.keeper_pid if isinstance(contender, Embedded) else 0
    if keeper:
        reset_peak(keeper)
    try:
        took_s = WAYS[way](tunnel.endpoint, bench.bulk_bytes, _TIMEOUT_S)
    except (OSError, BenchmarkError) as error:
        figures.fail(contender.name, way, error)
        return
    figures.add(contender.name, way, round_, bench.bulk_bytes / _MIB / took_s)
    if keeper:
        figures.add(contender.name, f"peak {way}", round_, memory_kib(keeper, "VmHWM") / 1024)


def tables(bench: Bench, figures: Figures) -> list[Table]:
    """Return one table."""
    table = Table(
        f"Bodies of {bench.bulk_bytes // _MIB} MiB: MiB/s",
        ("", "to the caller", "a part of the app's own", "to the app", "a part of the app's own"),
    )
    for name in figures.contenders():
        cells = []
        for way in WAYS:
            cells.append(spread(figures.get(name, way)))
            cells.append(
                "1" if name == Direct.name else spread(figures.ratios(name, Direct.name, way))
            )
        table.rows.append((name, *cells))
    peaks = [spread(figures.get(Embedded.name, f"peak {way}")) for way in WAYS]
    table.notes.append(
        f"The keeper's memory at its highest meanwhile: {peaks[0]} MiB to the caller, {peaks[1]} "
        "MiB to the app."
    )
    return [table]
