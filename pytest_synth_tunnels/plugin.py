"""The pytest plugin: options, marks, hooks and fixtures.

Loaded by every pytest run of an environment that has it, so it imports nothing but pytest and
what is tiny; the rest comes when a test asks for a fixture.
"""

from argparse import SUPPRESS
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from ._unpatched import unpatched
from .options import OPTIONS, Option
from .session import SESSION, Session, is_early_start, used_tunnels_before, uses_tunnels

if TYPE_CHECKING:
    import socket

    from .fixture_types import SynthExpose, SynthServe
    from .lease import Lease
    from .sdk import TunnelsClient
    from .serving import AppServers
    from .settings import Settings
    from .synth_inbox import Inbox
    from .synth_traffic import Traffic

FAILED = pytest.StashKey[bool]()
"""Set for a test that uses tunnels and has failed, in its set-up and tear-down too."""

_T = TypeVar("_T", bound="Traffic")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from . import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("synth-tunnels", "tunnels (pytest-synth-tunnels)")
    for option in OPTIONS:
        if option.bare:
            _add_bare_option(group, option)
        else:
            group.addoption(option.flag, dest=option.ini, metavar=option.metavar, help=option.help)
        parser.addini(option.ini, f"{option.help} (also ${option.variable})", default="")


# As a wrapper it runs before all other plugins, some of which import the app's settings here.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config,
) -> Generator[None, object, object]:
    """Open the tunnel before any conftest is imported, if the settings say so; prepare to open it
    if the last run used it."""
    if is_early_start(early_config):
        from .early_start import start_early

        start_early(early_config)
    elif used_tunnels_before(early_config):
        from .warm_start import start_warm

        start_warm(early_config)
    return (yield)


def _add_bare_option(group: "pytest.OptionGroup", option: Option) -> None:
    """Add an option that may stand without a value: each value as an option of its own."""
    group.addoption(
        option.flag, dest=option.ini, action="store_const", const=option.bare[0], help=option.help
    )
    for value in option.bare:
        group.addoption(
            f"{option.flag}={value}",
            dest=option.ini,
            action="store_const",
            const=value,
            help=SUPPRESS,
        )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "synth_hosted: needs the hosted Synth backend; skipped where none is configured"
    )
    session = config.stash.get(SESSION, None)
    if session is None:
        session = config.stash[SESSION] = Session(config, _register_redaction)
    session.settle()
    if session.has_settings():
        # A wrong value is told now, not in the middle of the run.
        _check_workers(config, session.settings)
        if session.settings.inspector == "hold" and session.is_owner:
            from .inspector_hold import InspectorHold

            config.pluginmanager.register(InspectorHold(session))


def _check_workers(config: pytest.Config, settings: "Settings") -> None:
    """Refuse that each pytest-xdist worker serves the application on the same port."""
    has_workers = config.getoption("dist", "no") != "no"
    if has_workers and settings.app is not None and settings.port is not None:
        app, port = (settings.sources.get(name, name) for name in ("app", "port"))
        raise pytest.UsageError(
            f"synth-tunnels: {app} is served by each pytest-xdist worker, and {port} gives them "
            f"all the port {settings.port}: leave {port} out, or run with -n 0"
        )


def _register_redaction(session: Session) -> None:
    """Take secrets out of all reports, once this process can know one."""
    from .reporting import Redaction

    config = session.config
    config.pluginmanager.register(Redaction(config, session.secrets))
    if config.pluginmanager.has_plugin("allure_listener"):
        from .allure_redaction import clean_allure_results

        clean_allure_results(config, session.secrets)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Make a worker part of this run; one on another host has a run of its own."""
    spec = node.gateway.spec
    if spec.popen and not (spec.via or spec.ssh or spec.socket):
        session = node.config.stash[SESSION]
        session.possible_users.add(node.workerinput["workerid"])
        node.workerinput["synth_tunnels"] = session.worker_input(node.workerinput["workerid"])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Learn from a worker that it needed no tunnel; one that has crashed says nothing."""
    if getattr(node, "workeroutput", {}).get("synth_tunnels_used", True) is False:
        node.config.stash[SESSION].possible_users.discard(node.workerinput["workerid"])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Let workers find the run before they import a conftest."""
    session = config.stash[SESSION]
    if session.is_early:
        from .early_start import hand_on_run

        hand_on_run(session)


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.stash[SESSION].is_early:
        _register_redaction(session.config.stash[SESSION])
    if not session.config.option.collectonly:
        ours = session.config.stash[SESSION]
        ours.start_ahead()
        ours.remove_old_har_files()
        ours.open_inspector()
        if ours.has_keeper:
            from .preload import preload

            preload()
        if ours.inspector_url and not _has_header(session.config):
            terminal = session.config.pluginmanager.get_plugin("terminalreporter")
            if terminal is not None:
                terminal.write_line(_inspector_line(ours))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Let the controller of xdist's workers show what they wait for."""
    controller: Any = session.config.pluginmanager.get_plugin("dsession")
    if controller is not None and hasattr(controller, "queue"):
        from .idle_queue import IdleQueue

        ours = session.config.stash[SESSION]
        controller.queue = IdleQueue(controller.queue, ours.show_waits, ours.pause_waits)
    return (yield)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    hosted = [item for item in items if item.get_closest_marker("synth_hosted")]
    reason = config.stash[SESSION].why_not_hosted() if hosted else None
    if reason is not None:
        for item in hosted:
            item.add_marker(pytest.mark.skip(reason=f"no hosted Synth backend: {reason}"))


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    ours = session.config.stash[SESSION]
    names = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    ours.start(names)
    if ours.has_keeper or "request" in names:
        from .preload import preload

        preload(names)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test that needs a tunnel at once, with the one cause, when the tunnel is lost."""
    if not uses_tunnels(item):
        return
    session = item.config.stash[SESSION]
    session.test_began_s = unpatched.monotonic()
    with _failures_shown_plainly():
        session.check()
        session.free_port()
    if session.lost is not None:
        pytest.fail(session.lost, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Tell what happened to leases between two tests, and write what came for a test, where nothing
    is patched."""
    done = yield
    if uses_tunnels(item):
        session = item.config.stash[SESSION]
        session.tell()
        if session.has_keeper and _wants_har(item, session.settings.har):
            from .item_traffic import ItemTraffic

            ItemTraffic(item, session).write_har()
    return done


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    session = item.config.stash[SESSION]
    if session.has_keeper:
        from .reporting import TRAFFIC_SECTION, add_section, clean

        if report.when == "call":
            add_section(report, _happened(session))
        if report.failed and uses_tunnels(item):
            from .item_traffic import ItemTraffic

            traffic = ItemTraffic(item, session)
            add_section(report, traffic.sections(), TRAFFIC_SECTION)
            if item.config.getoption("htmlpath", None) and not item.stash.get(FAILED, False):
                traffic.add_to_html(report)
            item.stash[FAILED] = True
        clean(report, session.secrets())
    return report


def _wants_har(item: pytest.Item, har: str) -> bool:
    """Whether a HAR file of a test that has ended is wanted by the setting."""
    return har == "on" or (har != "off" and item.stash.get(FAILED, False))


def _happened(session: Session) -> list[str]:
    """Return a line for each event of this process's tunnels since the last call."""
    from .keeper.ipc.errors import KeeperError

    try:
        return [event.message for event in session.check()]
    except KeeperError as error:
        return [str(error)]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    ours = session.config.stash[SESSION]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["synth_tunnels_used"] = ours.is_used
    if not ours.is_held:
        ours.finish()


def pytest_unconfigure(config: pytest.Config) -> None:
    session = config.stash.get(SESSION, None)
    if session is not None:
        session.close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    session = config.stash[SESSION]
    lines = []
    if config.get_verbosity() > 0 or session.has_settings():
        from .reporting import header

        lines.append(header(session.settings))
    if session.inspector_url:
        lines.append(_inspector_line(session))
    return lines


def _has_header(config: pytest.Config) -> bool:
    """Whether pytest writes its header."""
    return config.get_verbosity() >= 0 and not config.getoption("no_header", False)


def _inspector_line(session: Session) -> str:
    return f"synth tunnels inspector: {session.inspector_url}"


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    session = terminalreporter.config.stash[SESSION]
    if session.report is not None or session.trouble:
        from .reporting import summarize

        summarize(terminalreporter, session.trouble, session.report, session.secrets())


@contextmanager
def _failures_shown_plainly() -> Iterator[None]:
    """Show a user the cause alone, without the frames of this plugin."""
    from .keeper.ipc.errors import KeeperError

    try:
        yield
    except KeeperError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


@pytest.fixture(scope="session")
def synth_settings(pytestconfig: pytest.Config) -> "Settings":
    """The resolved settings of pytest-synth-tunnels, each with its source."""
    return pytestconfig.stash[SESSION].settings


@pytest.fixture(scope="session")
def exposed_port(pytestconfig: pytest.Config) -> int:
    """The local port that synth_lease exposes: bind your app to it, on 127.0.0.1."""
    with _failures_shown_plainly():
        return pytestconfig.stash[SESSION].reserve_port()


@pytest.fixture(scope="session")
def exposed_socket(exposed_port: int) -> "Iterator[socket.socket]":
    """A listening socket on exposed_port, for servers that take one."""
    from .listener import listen

    try:
        listener = listen(exposed_port)
    except OSError as error:
        pytest.fail(
            f"exposed_socket cannot listen on 127.0.0.1:{exposed_port}: {error.strerror}. Another "
            "process listens there: stop it, or do not set synth_tunnels_port",
            pytrace=False,
        )
    with listener:
        yield listener


@pytest.fixture(scope="session")
def synth_lease(request: pytest.FixtureRequest) -> "Lease":
    """The run's tunnel: its public_url forwards to exposed_port. Send its headers along."""
    from .keeper.ipc.messages import LeaseInfo, OpenLease
    from .lease import Lease

    session = request.config.stash[SESSION]
    if session.settings.app is not None:
        servers: AppServers = request.getfixturevalue("_app_servers")
        with _failures_shown_plainly():
            port = session.reserve_port()
        servers.serve(session.settings.app, port=port)
    timeout_s = session.settings.start_timeout_s
    if session.settings.command is not None:
        timeout_s += session.settings.command_timeout_s
    with _failures_shown_plainly():
        info = session.keeper.ask(OpenLease(), LeaseInfo, timeout_s)
    session.has_lease = True
    session.lease_id = info.lease_id
    return Lease(session.keeper, info)


@pytest.fixture
def synth_traffic(request: pytest.FixtureRequest) -> "Iterator[Traffic]":
    """What comes through the tunnel to this test: url(path) is an address of its own, which leads
    to exposed_port; wait_for(…), expect(…), assert_none(…) look at what came there."""
    from .synth_traffic import open_traffic

    if request.config.stash[SESSION].settings.app is not None:
        request.getfixturevalue("synth_lease")  # which serves it
    yield from _test_traffic(request, open_traffic)


@pytest.fixture
def synth_inbox(request: pytest.FixtureRequest) -> "Iterator[Inbox]":
    """The same as synth_traffic at an address that needs no app: everything is answered with 200
    and recorded; respond(…) says otherwise."""
    from .synth_inbox import open_inbox

    yield from _test_traffic(request, open_inbox)


def _test_traffic(request: pytest.FixtureRequest, open_one: "Callable[..., _T]") -> "Iterator[_T]":
    """Open an address for a test, and note the end of the test."""
    from .item_traffic import TRAFFIC
    from .keeper.ipc.errors import KeeperError
    from .traffic.masking import Masker

    session = request.config.stash[SESSION]
    settings = session.settings
    timeout_s = settings.start_timeout_s
    if settings.command is not None:
        timeout_s += settings.command_timeout_s
    with _failures_shown_plainly():
        traffic = open_one(
            session.keeper,
            request.node.nodeid,
            since_s=session.test_began_s,
            masker=Masker(settings.traffic_masked),
            timeout_s=timeout_s,
        )
    session.has_lease = True
    request.node.stash.setdefault(TRAFFIC, []).append(traffic)
    yield traffic
    with suppress(KeeperError):  # the next test that needs a tunnel says so
        traffic.end()


@pytest.fixture(scope="session")
def synth_expose(pytestconfig: pytest.Config) -> "SynthExpose":
    """synth_expose(target, *, provider, ttl_s, name, require_token, url_style, host_header,
    strip_prefix): a lease of its own for a port or a URL, also a context manager; released with
    the run if nobody closes it. What is not given is as the settings say."""
    from functools import partial

    from .lease import expose

    return partial(expose, pytestconfig.stash[SESSION].keeper)


@pytest.fixture(scope="session")
def _app_servers(pytestconfig: pytest.Config) -> "Iterator[AppServers]":
    from .serving import AppServers

    session = pytestconfig.stash[SESSION]
    servers = AppServers(
        root_path=str(pytestconfig.rootpath),
        start_timeout_s=session.settings.start_timeout_s,
        exposed_port=lambda: _port_to_serve(session),
        waits=session.app_waits(),
    )
    yield servers
    servers.stop()


def _port_to_serve(session: Session) -> int:
    """Return the exposed port, unless the settings say that something else serves it."""
    from .serving import ServeError

    settings = session.settings
    for name, value in (("command", settings.command), ("app", settings.app)):
        if value is not None:
            source = settings.sources.get(name, f"synth_tunnels_{name}")
            raise ServeError(
                "SERVE_PORT_TAKEN",
                f"the exposed port is served already: {source} is {value!r}",
                "Leave it out, or serve on a port of its own, with a lease of its own: "
                "synth_expose(synth_serve(app, port=0).port)",
            )
    return session.reserve_port()


@pytest.fixture(scope="session")
def synth_serve(_app_servers: "AppServers") -> "SynthServe":
    """synth_serve(app, *, port=None): serves an ASGI or WSGI application, the object or
    "module:attribute", on exposed_port in a thread of this process; returns a Server (url, port,
    stop(), also a context manager) when it accepts, which is stopped with the run at the
    latest."""
    return _app_servers.serve


@pytest.fixture(scope="session")
def synth_tunnels(pytestconfig: pytest.Config) -> "Iterator[TunnelsClient]":
    """A TunnelsClient for the backend in use, embedded or hosted."""
    from .keeper.ipc.messages import BackendInfo, GetBackend
    from .sdk import TunnelsClient

    with _failures_shown_plainly():
        backend = pytestconfig.stash[SESSION].keeper.ask(GetBackend(), BackendInfo)
    with TunnelsClient(api_key=backend.api_key, backend_base=backend.url) as client:
        yield client
