"""The command line: ``synth-tunnels``, also as ``python -m pytest_synth_tunnels``."""

import argparse
import os
import sys
from collections.abc import Sequence

from .compiled import build_name
from .options import API_KEY_VARIABLE, PROVIDERS

__all__ = ["main"]

_PROVIDER_HELP = f"{', '.join(PROVIDERS)} or an installed plugin's"


def main(arguments: Sequence[str] | None = None, *, prog: str = "synth-tunnels") -> int:
    """Run a command.

    Args:
        arguments: the command line without the program's name; by default the real one.
        prog: the program's name.

    Returns:
        The exit code: 1 if the doctor found a problem, a stale lease could not be closed, or a
        tunnel failed, and 130 after a Ctrl-C that came before there was anything to show.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _run(given, prog)
    except KeyboardInterrupt:  # while a command was being imported, or a table written
        return 130


def _run(given: list[str], prog: str) -> int:
    if given[:1] == ["backend"]:  # which reads its own arguments
        from .backend.__main__ import main as serve_backend

        return serve_backend(given[1:], prog=f"{prog} backend")
    options = _parser(prog).parse_args(given)
    match options.name:
        case "doctor":
            return _examine(options.backend, options.provider)
        case "leases":
            from .ledger_commands import show_leases

            return show_leases(release_stale=options.release_stale)
        case "expose" if options.port is None and options.command is None:
            print(
                f"{prog} expose: a port is needed, or --command with something that serves "
                "{port}",
                file=sys.stderr,
            )
            return 2
        case _:
            return _open_tunnel(options, prog)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog)
    parser.add_argument(
        "--version", action="version", version=f"pytest-synth-tunnels {build_name()}"
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    expose = commands.add_parser(
        "expose",
        help="give a local port a public URL, and show the requests that come",
        description="Give a local port a public URL, and show the requests that come, until "
        "Ctrl-C. Settings come from these options and the environment, not from an ini file.",
    )
    expose.add_argument(
        "port",
        nargs="?",
        metavar="PORT",
        help="the local port; with --command a free one by default",
    )
    expose.add_argument(
        "--command",
        metavar="COMMAND",
        help="start this to serve the port, and end it with the tunnel; {port} stands for the port",
    )
    inbox = commands.add_parser(
        "inbox",
        help="show the requests that come to a public URL, without an app",
        description="Answer every request to a public URL with 200 and show it, until Ctrl-C. "
        "Settings come from these options and the environment, not from an ini file.",
    )
    for tunnel in (expose, inbox):
        _add_backend_and_provider(tunnel)
        tunnel.add_argument(
            "--url-style",
            metavar="STYLE",
            help="root: a URL that is an origin of its own (the default with the embedded "
            "backend); path: one with a path",
        )
        tunnel.add_argument(
            "--inspect",
            action="store_true",
            help="show the requests in a page too, with their bodies, and replay them from there",
        )
        tunnel.add_argument(
            "--require-token",
            action="store_const",
            const="true",
            help="let in only callers that send the worker token, as a hosted relay always does",
        )
    leases = commands.add_parser("leases", help="list the open leases of hosted backends")
    leases.add_argument(
        "--release-stale",
        action="store_true",
        help=f"close those whose keeper is dead, with the key in {API_KEY_VARIABLE}",
    )
    doctor = commands.add_parser(
        "doctor",
        help="check backend, key, connector and ports, and make a round trip",
        description="Settings come from these options and the environment, not from an ini file.",
    )
    _add_backend_and_provider(doctor)
    commands.add_parser("backend", help="serve the embedded backend on its own", add_help=False)
    return parser


def _add_backend_and_provider(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", help="auto, embedded, hosted or a URL")
    parser.add_argument("--provider", help=_PROVIDER_HELP)


def _open_tunnel(options: argparse.Namespace, prog: str) -> int:
    from .live_tunnel import LiveTunnel, open_keeper, tunnel_settings
    from .settings import SettingsError

    is_inbox = options.name == "inbox"
    given = {k: v for k, v in vars(options).items() if k not in ("name", "inspect")}
    try:
        settings = tunnel_settings(given, os.environ)
    except SettingsError as error:
        print(f"{prog} {options.name}: {error}", file=sys.stderr)
        return 2
    with open(os.devnull, "w") as nowhere:
        # Python has none for a stream that was closed, as whoever starts a service may do.
        out, err = sys.stdout or nowhere, sys.stderr or nowhere
        keeper = open_keeper(settings, dict(os.environ), err)
        tunnel = LiveTunnel(
            keeper, is_inbox=is_inbox, has_inspector=options.inspect, out=out, err=err
        )
        return tunnel.run()


def _examine(backend: str | None, provider: str | None) -> int:
    from .doctor import Finding, examine

    def say(finding: Finding) -> None:
        print(f"{finding.verdict:8} {finding.name:11} {finding.text}", flush=True)
        if finding.hint:
            print(f"{'':8} {'':11} -> {finding.hint}", flush=True)

    try:
        healthy = examine(backend=backend, provider=provider, environ=dict(os.environ), say=say)
    except KeyboardInterrupt:  # by now its lease is given back
        return 130
    return 0 if healthy else 1
