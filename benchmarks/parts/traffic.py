"""Small requests, many of them: GET 1 KiB, and POST 1 KiB with nine headers."""

from bench import Bench, OpenTunnel
from contenders import contenders
from load import wrk
from ours import (
    Embedded,
    EmbeddedCompiled,
    EmbeddedCompiledUnrecorded,
    EmbeddedCompiledUvloop,
    EmbeddedUnrecorded,
    EmbeddedUvloop,
    OwnAgent,
    OwnAgentCompiled,
    OwnAgentCompiledUvloop,
    OwnAgentUvloop,
    PublishedAgent,
    RustAgent,
)
from peers import AioWsTunnel, Direct, Forwarder, LocalTunnel, Ssh
from processes import BenchmarkError, cpu_s
from report import NOTHING, Figures, Table, median, number, spread

TITLE = "traffic"
CONNECTIONS = (1, 16, 64)
ONCE = "once"
"""What the measures of callers are called that open a connection for each request."""

_METHODS = {"GET": False, "POST": True}


def measure(bench: Bench, figures: Figures) -> None:
    """Load each tunnel in turn, in every round."""
    with bench.tunnels(contenders(bench.only), figures) as tunnels:

        def once(round_: int) -> None:
            for connections in CONNECTIONS:
                for method in _METHODS:
                    for tunnel in tunnels:
                        _load(bench, figures, tunnel, method, connections, round_)
            if bench.origin.whole:
                for method in _METHODS:
                    for tunnel in tunnels:
                        _load(bench, figures, tunnel, method, 16, round_, once=True)

        bench.in_rounds(TITLE, once)


def _load(
    bench: Bench,
    figures: Figures,
    tunnel: OpenTunnel,
    method: str,
    connections: int,
    round_: int,
    *,
    once: bool = False,
) -> None:
    name, measure_ = tunnel.contender.name, f"{method} {ONCE if once else connections}"
    before_s, kernel_before_s = cpu_s(tunnel.contender.pids())
    try:
        load = wrk(
            tunnel.endpoint,
            post=_METHODS[method],
            connections=connections,
            duration_s=bench.duration_s,
            once=once,
        )
    except BenchmarkError as error:
        figures.fail(name, measure_, error)
        return
    if load.failed:
        figures.fail(name, measure_, f"{load.failed} of {load.requests} requests failed")
        return
    figures.add(name, measure_, round_, load.per_s)
    if tunnel.contender.pids():
        after_s, kernel_after_s = cpu_s(tunnel.contender.pids())
        each_us = 1e6 / load.requests
        figures.add(name, f"CPU {measure_}", round_, (after_s - before_s) * each_us)
        kernel_s = kernel_after_s - kernel_before_s
        figures.add(name, f"kernel {measure_}", round_, kernel_s * each_us)


def tables(bench: Bench, figures: Figures) -> list[Table]:
    """Return one table for each method."""
    found = []
    for method, what in (("GET", "GET 1 KiB"), ("POST", "POST 1 KiB with nine headers")):
        table = Table(
            f"{what}: requests/s as a part of the app's own",
            (
                "",
                *(f"{n} connection{'s' * (n > 1)}" for n in CONNECTIONS),
                "requests/s at 16",
                "CPU µs a request at 16",
                "the kernel's part of it",
            ),
        )
        for name in figures.contenders():
            rate = median(figures.get(name, f"{method} 16"))
            ratios = [
                spread(figures.ratios(name, Direct.name, f"{method} {n}"), _ratio)
                for n in CONNECTIONS
            ]
            if name == Direct.name:
                ratios = [
                    f"1 ({number(median(figures.get(name, f'{method} {n}')) or 0)}/s)"
                    for n in CONNECTIONS
                ]
            cpu = [spread(figures.get(name, f"{of} {method} 16")) for of in ("CPU", "kernel")]
            table.rows.append((name, *ratios, number(rate) if rate else NOTHING, *cpu))
        found.append(table)
    found.append(_once(figures))
    found.append(_between(figures))
    return found


def _once(figures: Figures) -> Table:
    """Return what callers get that open a connection for each request."""
    table = Table(
        "A connection for each request, 16 at a time: requests/s",
        (
            "",
            "GET",
            "a part of the forwarder's",
            "POST",
            "a part of the forwarder's",
            "CPU µs, GET",
        ),
    )
    for name in figures.contenders():
        cells = []
        for method in _METHODS:
            rate = median(figures.get(name, f"{method} {ONCE}"))
            cells.append(NOTHING if rate is None else number(rate))
            cells.append(spread(figures.ratios(name, Forwarder.name, f"{method} {ONCE}"), _ratio))
        table.rows.append((name, *cells, spread(figures.get(name, f"CPU GET {ONCE}"))))
    table.notes.append("As most senders of webhooks do. The app closes each connection as well.")
    return table


def _between(figures: Figures) -> Table:
    """Return what the targets speak of: ratios between contenders of the same round."""
    table = Table(
        "Ratios between contenders, requests/s of the same round",
        ("", *(f"{method} {n}" for method in _METHODS for n in CONNECTIONS)),
    )
    pairs = [
        (Embedded.name, other.name)
        for other in (Forwarder, Ssh, AioWsTunnel, LocalTunnel, RustAgent)
    ] + [
        (EmbeddedUvloop.name, Embedded.name),
        (EmbeddedCompiled.name, Embedded.name),
        (EmbeddedCompiledUvloop.name, EmbeddedUvloop.name),
        (Embedded.name, EmbeddedUnrecorded.name),
        (EmbeddedCompiledUvloop.name, EmbeddedCompiledUnrecorded.name),
        (OwnAgentCompiled.name, OwnAgent.name),
        (OwnAgentCompiled.name, RustAgent.name),
        (OwnAgentCompiledUvloop.name, RustAgent.name),
        (OwnAgent.name, RustAgent.name),
        (OwnAgent.name, PublishedAgent.name),
        (OwnAgentUvloop.name, OwnAgent.name),
    ]
    for one, other in pairs:
        ratios = [
            spread(figures.ratios(one, other, f"{method} {n}"))
            for method in _METHODS
            for n in CONNECTIONS
        ]
        if any(ratio != NOTHING for ratio in ratios):
            table.rows.append((f"{one} / {other}", *ratios))
    return table


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"
