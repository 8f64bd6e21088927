"""What a reader wants first: each contender in one line, and whether the targets are reached."""

from bench import Bench
from contenders import contenders
from ours import (
    Embedded,
    EmbeddedCompiledUnrecorded,
    EmbeddedCompiledUvloop,
    EmbeddedUnrecorded,
    EmbeddedUvloop,
    OwnAgent,
    OwnAgentCompiled,
    OwnAgentCompiledUvloop,
    PublishedAgent,
    RustAgent,
)
from parts import bulk, felt, first_answer, memory, path, plugin
from peers import AioWsTunnel, Direct, Forwarder, LocalTunnel, Ssh
from report import NOTHING, Figures, Table, median, number

__all__ = ["overview", "shares", "targets"]

Found = dict[str, Figures]


def overview(bench: Bench, found: Found) -> Table:
    """Return one line for each contender."""
    table = Table(
        "In one table",
        (
            "",
            "GET",
            "POST",
            "CPU µs, GET",
            "CPU µs, POST",
            "MiB/s down",
            "MiB/s up",
            "ms to first 200",
            "does not do",
        ),
    )
    traffic = found.get("traffic", Figures())
    large = found.get("bulk", Figures())
    first = found.get("first_answer", Figures())
    for contender in contenders(bench.only):
        name = contender.name
        cells = [
            *(_text(median(traffic.ratios(name, Direct.name, f"{m} 16"))) for m in ("GET", "POST")),
            *(_text(median(traffic.get(name, f"CPU {m} 16"))) for m in ("GET", "POST")),
            *(_text(median(large.get(name, way))) for way in ("down", "up")),
            _text(median(first.get(name, first_answer.TITLE))),
        ]
        if any(cell != NOTHING for cell in cells):
            table.rows.append((name, *cells, contender.lacks or NOTHING))
    table.notes.append(
        "GET and POST: requests/s at 16 connections as a part of the app's own; 1 KiB each way, "
        "POST with nine headers. CPU: of all processes that carry a request, the app and the "
        "caller left out. All of ours check the caller's token, follow HTTP/1.1, hold deadlines, "
        "limits and flow control, and report failures with a status."
    )
    table.notes.append(
        "For reference, and not of this run: bore (Rust, raw TCP), which no registry has that this "
        "installs from, was measured at 0.29 of the app for GET and 0.27 for POST, with 16 "
        "connections on two cores, at 27 µs a GET."
    )
    return table


def targets(found: Found) -> Table:
    """Return what the product must reach, and what it has reached here."""
    table = Table("Targets", ("", "wanted", "measured", ""))
    traffic = found.get("traffic", Figures())

    def row(what: str, wanted: float, got: float | None, *, at_most: bool = False) -> None:
        if got is not None:
            reached = got <= wanted if at_most else got >= wanted
            sign = "≤" if at_most else "≥"
            verdict = "reached" if reached else "missed"
            table.rows.append((what, f"{sign} {wanted:g}", _text(got), verdict))

    def against(one: type, other: type, connections: tuple[int, ...], wanted: float) -> None:
        for method in ("GET", "POST"):
            for count in connections:
                ratios = traffic.ratios(one.name, other.name, f"{method} {count}")
                what = f"{one.name} / {other.name}, {method}, {count}"
                row(what, wanted, median(ratios))

    for method, wanted in (("GET", 0.26), ("POST", 0.22)):
        ratios = traffic.ratios(EmbeddedCompiledUvloop.name, Direct.name, f"{method} 16")
        row(f"{EmbeddedCompiledUvloop.name} / {Direct.name}, {method}, 16", wanted, median(ratios))
    for one in (Embedded, EmbeddedUvloop, EmbeddedCompiledUvloop):
        for method in ("GET", "POST"):
            ratios = traffic.ratios(one.name, Forwarder.name, f"{method} once")
            what = f"{one.name} / {Forwarder.name}, {method}, a connection for each"
            row(what, 0.5, median(ratios))
    for one, other in (
        (Embedded, EmbeddedUnrecorded),
        (EmbeddedCompiledUvloop, EmbeddedCompiledUnrecorded),
    ):
        ratios = traffic.ratios(one.name, other.name, "GET 16")
        row(f"{one.name} / the same, recording off, GET, 16", 0.9, median(ratios))
    for peer in (Ssh, AioWsTunnel, LocalTunnel):
        against(Embedded, peer, (16,), 1)
    against(OwnAgent, RustAgent, (1, 16), 1)
    against(OwnAgentCompiled, RustAgent, (1, 16), 1.3)
    against(OwnAgentCompiledUvloop, RustAgent, (1, 16), 1.3)
    for method in ("GET", "POST"):
        ratios = traffic.ratios(OwnAgentCompiled.name, RustAgent.name, f"CPU {method} 16")
        what = f"{OwnAgentCompiled.name} / {RustAgent.name}, CPU of a {method}, 16"
        row(what, 0.8, median(ratios), at_most=True)
    against(OwnAgent, PublishedAgent, (1, 16), 8)
    for name in (Embedded.name, OwnAgent.name):
        for way in bulk.WAYS:
            rate = median(found.get("bulk", Figures()).get(name, way))
            row(f"{name}: MiB/s {way}", 400, rate)
    first = found.get("first_answer", Figures())
    for name in (Embedded.name, first_answer.COLD):
        ratio = median(first.ratios(name, Ssh.name, first_answer.TITLE))
        row(f"{name}: first 200, against ssh -R", 0.4, ratio, at_most=True)
    row(
        "the unused plugin: CPU ms",
        3,
        plugin.unused_cpu_ms(found.get("plugin", Figures())),
        at_most=True,
    )
    row(
        "-n 8 with a lease in use: s more than with a plain fixture",
        0.5,
        plugin.in_use_wall_s(found.get("plugin", Figures())),
        at_most=True,
    )
    waits = found.get("felt", Figures())
    row("smallest run, with a lease / without", 1.15, felt.small_run_ratio(waits), at_most=True)
    row("a test that uses the lease: ms more", 0.1, felt.per_test_ms(waits), at_most=True)
    row(
        "waiting in the fixture after 200 ms of collection: ms",
        30,
        felt.waited_ms(waits),
        at_most=True,
    )
    kept = found.get("memory", Figures())
    row("the keeper: MiB idle", 40, median(kept.get(memory.NAME, "idle")), at_most=True)
    held = kept.get(memory.NAME, "after holding")
    row("requests held at the same time", memory.HELD, memory.HELD if held else None)
    calls = found.get("sdk", Figures()).get("ours", "500 at once, cold (s)")
    row("500 calls of 100 ms at once: s", 1.5, median(calls), at_most=True)
    return table


def shares(found: Found) -> Table:
    """Return where the time of a request goes."""
    table = Table(
        "Where the time of a request goes: CPU µs at 16 connections",
        ("", "all", "the kernel", "our own code and its libraries", "the event loop, and the rest"),
    )
    traffic, own_code = found.get("traffic", Figures()), found.get("path", Figures())
    for contender, link in ((Embedded, "embedded"), (OwnAgent, "websocket")):
        for method in ("GET", "POST"):
            whole = median(traffic.get(contender.name, f"CPU {method} 16"))
            kernel = median(traffic.get(contender.name, f"kernel {method} 16"))
            own = median(own_code.get(path.LINKS[link], method))
            if whole is not None and kernel is not None and own is not None:
                cells = (whole, kernel, own, max(whole - kernel - own, 0.0))
                table.rows.append((f"{contender.name}, {method}", *map(_text, cells)))
    table.notes.append(
        "Our own code was measured by itself, without system calls, so the last column is only "
        "what is left; some 3 µs of our own are those of the measuring."
    )
    return table


def _text(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.3f}" if 0 < value < 0.1 else number(value)
