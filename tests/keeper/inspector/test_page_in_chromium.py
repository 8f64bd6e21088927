"""The inspector's page in a real browser."""

import json
import re
from collections.abc import Iterator
from gzip import compress
from pathlib import Path
from shutil import which

import pytest

from pytest_synth_tunnels.traffic.har import HarRecord, har_log

from ...support.inspector_world import InspectorWorld, inspector_world
from ...support.recorded import recorded, response

playwright_api = pytest.importorskip("playwright.sync_api")
axe_api = pytest.importorskip("axe_playwright_python.sync_playwright")

from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

CHROMIUM = which("chromium")

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium in the PATH"),
]

HOSTILE = (
    '<!doctype html></script><script>window.owned = 1; document.title = "owned"</script>'
    '<img src="http://127.0.0.1:1/leak" onerror="window.owned = 1">'
    '<meta http-equiv="refresh" content="0;url=http://127.0.0.1:1/gone">'
)
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" onload="window.owned = 1">'
    "<script>owned()</script></svg>"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def world() -> Iterator[InspectorWorld]:
    with inspector_world(body_bytes=200_000) as world:
        world.open()
        yield world


class Watched:
    """A page, with what it did that it must not do."""

    def __init__(self, browser: Browser, url: str, **context: object) -> None:
        self.context = browser.new_context(viewport={"width": 1200, "height": 800}, **context)  # type: ignore[arg-type]
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: self.faults.append(dialog.message))
        self.page.on("console", lambda said: self._hear(said.type, said.text))
        self.page.on("request", lambda request: self._note(request.url, url))
        self.page.goto(url)

    def _hear(self, kind: str, text: str) -> None:
        # That the inspector refused something is said there, too; the page says it in its own way.
        if kind == "error" and not text.startswith("Failed to load resource"):
            self.faults.append(text)

    def _note(self, asked: str, own: str) -> None:
        if not asked.startswith((own, "blob:", "data:")):
            self.faults.append(f"fetched {asked}")


@pytest.fixture
def watched(browser: Browser, world: InspectorWorld) -> Iterator[Watched]:
    watched = Watched(browser, world.url)
    expect(watched.page.locator("#state")).to_have_text("live")
    yield watched
    watched.context.close()
    assert watched.faults == []


@pytest.fixture
def page(watched: Watched) -> Page:
    return watched.page


def rows(page: Page) -> list[str]:
    """Return the rows in view: method, path and status."""
    return [
        " ".join(row.locator("span").all_inner_texts()[1:4])
        for row in page.locator("[role=option]").all()
    ]


def expect_rows(page: Page, *wanted: str) -> None:
    expect(page.locator("[role=option]")).to_have_count(len(wanted))
    assert rows(page) == list(wanted)


def detail(page: Page) -> str:
    return page.locator("#detail").inner_text()


def test_the_list_fills_by_test_and_worker(world: InspectorWorld, page: Page) -> None:
    expect(page.locator("#nothing")).to_contain_text("Nothing came yet")
    world.begin_test("test_a.py::test_paid", "gw0")
    world.begin_test("test_b.py::test_sent", "gw1", "t2")
    world.come("POST", "/hooks/paid")
    open_request = world.come("GET", "/slow", status=None, address="t2")
    world.come("GET", "/", status=404)
    expect(page.locator("[role=option]")).to_have_count(3)
    groups = page.locator(".row.group").all_inner_texts()
    assert groups == ["test_a.py::test_paid — gw0 (2)", "test_b.py::test_sent — gw1 (1)"]
    assert rows(page) == ["POST /hooks/paid 200", "GET / 404", "GET /slow …"]
    page.get_by_text("/slow").click()
    expect(page.locator("#detail")).to_contain_text("not answered yet")
    expect(page.locator("#detail")).to_contain_text("test_b.py::test_sent")
    world.call(lambda: open_request.refused(502, "X", "nothing listens"))
    expect(page.locator("#detail")).to_contain_text("X: nothing listens")
    assert rows(page)[2] == "GET /slow 502"

    world.end()
    expect(page.locator("#state")).to_contain_text("the run has ended")
    expect(page.locator("[role=option]")).to_have_count(3)


def test_where_there_are_no_tests_nothing_speaks_of_them(world: InspectorWorld, page: Page) -> None:
    world.come("GET", "/a")
    page.get_by_text("/a").click()
    expect(page.locator("#detail h2")).to_have_text("GET /a")
    expect(page.locator(".row.group")).to_have_count(0)
    expect(page.locator("#filter-test")).to_be_hidden()
    assert "Test" not in detail(page)
    world.begin_test("test_a", address="t2")
    world.come("GET", "/b", address="t2")
    expect(page.locator(".row.group")).to_have_text(["no test (1)", "test_a (1)"])
    expect(page.locator("#filter-test")).to_be_visible()


def test_filters_and_a_search_in_bodies(world: InspectorWorld, page: Page) -> None:
    world.begin_test("test_a", "gw0")
    world.begin_test("test_b", "gw1", "t2")
    world.come("POST", "/hooks/paid", "an Invoice")
    world.come("GET", "/hooks/seen?id=7", status=500, answer="oh dear, INVOICES", address="t2")
    world.come("PUT", "/other", status=None)
    expect(page.locator("[role=option]")).to_have_count(3)
    page.get_by_label("Path").fill("hooks")
    expect_rows(page, "POST /hooks/paid 200", "GET /hooks/seen?id=7 500")
    expect(page.locator("#count")).to_have_text("2 of 3")
    page.locator("#filter-status").select_option("failed")
    expect_rows(page, "GET /hooks/seen?id=7 500")
    page.locator("#filter-status").select_option("")
    page.locator("#filter-method").select_option("POST")
    expect_rows(page, "POST /hooks/paid 200")
    page.locator("#filter-method").select_option("")
    page.locator("#filter-test").select_option("test_b")
    expect_rows(page, "GET /hooks/seen?id=7 500")
    page.locator("#rows").press("x")
    expect(page.locator("[role=option]")).to_have_count(3)
    page.get_by_label("In bodies").fill("invoice")
    expect_rows(page, "POST /hooks/paid 200", "GET /hooks/seen?id=7 500")
    world.come("POST", "/later", "one more invoice")
    expect(page.locator("[role=option]")).to_have_count(3)
    page.get_by_label("Path").fill("no such path")
    expect(page.locator("#nothing")).to_have_text("No request passes these filters.")


def test_the_keyboard_does_everything(world: InspectorWorld, page: Page) -> None:
    world.begin_test("test_a", "gw0")
    for number in range(4):
        world.come("GET", f"/{number}")
    expect(page.locator("[role=option]")).to_have_count(4)
    chosen = page.locator("[role=option][aria-selected=true] .path")
    press = page.keyboard.press
    for key, path in (("j", "/0"), ("j", "/1"), ("ArrowDown", "/2"), ("End", "/3"), ("k", "/2")):
        press(key)
        expect(chosen).to_have_text(path)
        expect(page.locator("#detail h2")).to_have_text(f"GET {path}")
    press("Home")
    expect(chosen).to_have_text("/0")
    expect(page.locator("#rows")).to_have_attribute("aria-activedescendant", "row-1")
    press("Enter")
    expect(page.locator("#detail")).to_be_focused()
    press("Escape")
    expect(page.locator("#rows")).to_be_focused()
    for key, name in (
        ("/", "path"),
        ("b", "text"),
        ("m", "method"),
        ("s", "status"),
        ("t", "test"),
    ):
        press(key)
        expect(page.locator(f"#filter-{name}")).to_be_focused()
        press("Escape")
    press("/")
    page.keyboard.type("jk3")
    assert page.get_by_label("Path").input_value() == "jk3", "in a field, keys are text"
    press("Escape")
    press("x")
    press("?")
    expect(page.get_by_role("dialog")).to_contain_text("edit and replay")
    press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    press("r")
    expect(page.locator("[role=option]")).to_have_count(5)
    press("Home")
    press("j")
    press("r")  # before its details can be there
    expect(page.locator("[role=option]")).to_have_count(6)
    assert [seen.target for seen in world.seen] == ["/0", "/1"]


def test_replay_and_edit_and_replay(world: InspectorWorld, page: Page) -> None:
    world.begin_test("test_a", "gw0")
    world.come(
        "POST",
        "/login?token=k1",
        '{"user": "ada", "password": "pw-1"}',
        headers=[("Content-Type", "application/json"), ("Authorization", "Bearer k2")],
    )
    page.get_by_text("/login").click()
    page.get_by_role("button", name="Replay", exact=True).click()
    expect(page.locator("[role=option]")).to_have_count(2)
    expect(page.locator("#detail")).to_contain_text("201 Created")
    page.keyboard.press("e")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Path")).to_be_focused()
    assert dialog.get_by_label("Query").input_value() == "token=***"
    assert "pw-1" not in page.content()
    dialog.get_by_label("Path").fill("wrong")
    dialog.get_by_role("button", name="Send").click()
    expect(dialog.get_by_role("alert")).to_contain_text("the path must begin with /")
    dialog.get_by_label("Path").fill("/signup")
    body = dialog.get_by_label("Body")
    body.fill(body.input_value().replace("ada", "grace"))
    body.press("Control+Enter")
    expect(dialog).to_have_count(0)
    expect(page.locator("#detail h2")).to_contain_text("POST /signup")
    assert [seen.target for seen in world.seen] == ["/login?token=k1", "/signup?token=k1"]
    assert json.loads(world.seen[1].body) == {"user": "grace", "password": "pw-1"}
    assert world.seen[1].headers["Authorization"] == "Bearer k2"
    texts = page.locator("[role=option] .path").all_inner_texts()
    assert texts == ["/login?token=***"] * 2 + ["/signup?token=***"]

    form = (
        '--b\r\nContent-Disposition: form-data; name="user"\r\n\r\nada\r\n'
        '--b\r\nContent-Disposition: form-data; name="token"\r\n\r\nk3\r\n--b--\r\n'
    )
    kind = [("Content-Type", "multipart/form-data; boundary=b")]
    world.come("POST", "/form", form, headers=kind)
    page.get_by_text("/form").click()
    page.get_by_role("button", name="Edit and replay").click()
    body.fill(body.input_value().replace("ada", "grace"))
    body.press("Control+Enter")
    expect(dialog).to_have_count(0)
    assert world.seen[2].body.decode() == form.replace("ada", "grace"), "a form's own line ends"


def test_messages_of_a_websocket_come_as_they_pass(world: InspectorWorld, page: Page) -> None:
    websocket = world.open_websocket("/chat")
    world.say(websocket, "caller", '{"hello": {"deep": [1, 2]}}')
    page.get_by_text("/chat").click()
    messages = page.locator(".messages li")
    expect(messages).to_have_count(1)
    expect(page.get_by_role("button", name="Replay", exact=True)).to_have_count(0)
    headers = page.locator("#detail section", has_text="Request headers")
    headers.evaluate("element => { element.mark = 1 }")
    world.say(websocket, "app", "good day")
    world.say(websocket, "app", b"\x00\x01")
    expect(messages).to_have_count(3)
    assert re.match(r"app \+\d+\.\d\d s\s+good day", messages.nth(1).inner_text())
    assert "00 01" in messages.nth(2).inner_text()
    assert headers.evaluate("element => element.mark") == 1, "what has not changed stays"
    world.call(websocket.close)


def test_a_har_file_is_downloaded(world: InspectorWorld, page: Page) -> None:
    world.come("GET", "/a?token=k1")
    expect(page.locator("[role=option]")).to_have_count(1)
    with page.expect_download() as download:
        page.keyboard.press("h")
    assert download.value.suggested_filename == "synth-tunnels.har"
    text = download.value.path().read_text("utf-8")
    assert json.loads(text)["log"]["version"] == "1.2"
    assert "k1" not in text


def test_bodies_are_shown_and_never_run(world: InspectorWorld, page: Page) -> None:
    html, json_type, form = "text/html", "application/json", "application/x-www-form-urlencoded"
    shown = {
        "/html": (html, HOSTILE, "window.owned = 1"),
        "/svg": ("image/svg+xml", SVG, "onload"),
        "/json": (json_type, '{"__proto__": {"owned": 1}, "a": "<b>"}', '"<b>"'),
        "/form": (form, "a=1&b=%3Cscript%3E", "<script>"),
        "/parts": (
            'multipart/form-data; boundary="b 1"',
            b'--b 1\r\nContent-Disposition: form-data; name="who"\r\n\r\n<i>ada</i>\r\n'
            b'--b 1\r\nContent-Disposition: form-data; name="up"; filename="<b>.png"\r\n'
            b"Content-Type: image/svg+xml\r\n\r\n%b\r\n--b 1--\r\n" % SVG.encode(),
            "up (file <b>.png)",
        ),
        "/no-parts": ("multipart/form-data; boundary=b", "--b\r\nno end", "no end"),
        "/bytes": ("application/octet-stream", b"\x00\xff", "00 ff"),
        "/png": ("image/png", b"\x89PNG\r\n not at all", ""),
        "/cut": (json_type, '{"a": [1, 2', '{"a": [1, 2'),
        "/long": (json_type, json.dumps([*range(300)]), "200 more"),
        "/text": ("text/plain", "x" * 150_000, "50000 more characters"),
    }
    for path, (kind, body, _) in shown.items():
        kinds = [("Content-Type", kind), ("X-Hostile", "<img src=x onerror=owned=1>")]
        world.come("POST", path, body, headers=kinds, answer=body, answer_headers=kinds)
    world.come("GET", "/<script>owned=1</script>?<img src=x onerror=owned=1>")
    expect(page.locator("[role=option]")).to_have_count(len(shown) + 1)
    for path, (_, _, text) in shown.items():
        page.locator("[role=option]", has_text=path).click()
        expect(page.locator("#detail h2")).to_have_text(f"POST {path}")
        expect(page.locator("#detail")).to_contain_text(text)
    page.keyboard.press("End")
    expect(page.locator("#detail h2")).to_contain_text("<script>owned=1</script>")
    assert page.title() == "synth tunnels"
    assert page.evaluate("window.owned === undefined && ({}).owned === undefined")
    assert page.locator("script:not([src]), iframe, object, embed, svg").count() == 0


def test_copies_as_curl_and_httpx(browser: Browser, world: InspectorWorld) -> None:
    world.come("POST", "/a?token=k1", "it's", headers=[("X-A", "1")])
    watched = Watched(browser, world.url, permissions=["clipboard-read", "clipboard-write"])
    page = watched.page
    page.get_by_text("/a?token").click()
    expect(page.locator("#detail h2")).to_be_visible()
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.locator("#said")).to_have_text("Copied as curl.")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith("curl --globoff -X POST -H 'X-A: 1' --data-raw ")
    assert "k1" not in command
    page.keyboard.press("p")
    expect(page.locator("#said")).to_have_text("Copied as httpx code.")
    compile(page.evaluate("navigator.clipboard.readText()"), "copied", "exec")
    watched.context.close()
    assert watched.faults == []


def test_a_wrong_secret_shows_nothing(browser: Browser, world: InspectorWorld) -> None:
    world.come("GET", "/private")
    context = browser.new_context()
    page = context.new_page()
    answer = page.goto(world.url[:-2] + "/")
    assert answer is not None
    assert answer.status == 404
    assert "there is nothing here" in page.content()
    assert "/private" not in page.content()
    context.close()


def test_on_a_phone_list_and_details_take_turns(browser: Browser, world: InspectorWorld) -> None:
    world.begin_test("test_shop.py::test_with_a_name_that_is_rather_long[parameter]", "gw0")
    world.come("POST", "/hooks/" + "x" * 200, headers=[("X-Long", "y" * 300)])
    watched = Watched(browser, world.url)
    page = watched.page
    page.set_viewport_size({"width": 360, "height": 640})
    width = "document.scrollingElement.scrollWidth"
    row = page.locator("[role=option]")
    expect(row).to_be_visible()
    assert page.evaluate(width) <= 360
    row.click()
    expect(page.locator("#detail h2")).to_be_visible()
    expect(row).to_be_hidden()
    assert page.evaluate(width) <= 360
    page.get_by_role("button", name="All requests").click()
    expect(row).to_be_visible()
    expect(page.locator("#rows")).to_be_focused()
    watched.context.close()
    assert watched.faults == []


def test_five_thousand_requests_stay_smooth(world: InspectorWorld, page: Page) -> None:
    world.come_many(5_000, "/many/")
    expect(page.locator("#count")).to_have_text("5000")
    assert page.locator(".row").count() < 200
    gaps = page.evaluate(
        """async () => {
          const list = document.getElementById("rows");
          const gaps = [];
          let before = await new Promise(requestAnimationFrame);
          for (let turn = 0; turn < 60; turn += 1) {
            list.scrollTop = (turn * 2371) % list.scrollHeight;
            const now = await new Promise(requestAnimationFrame);
            gaps.push(now - before);
            before = now;
          }
          return gaps.sort((a, b) => a - b);
        }"""
    )
    assert gaps[len(gaps) // 2] < 100, "half of the frames take less than that many milliseconds"
    page.keyboard.press("End")
    expect(page.locator("#detail h2")).to_have_text("GET /many/4999")
    page.get_by_label("Path").fill("/many/42")
    expect(page.locator("#count")).to_have_text("111 of 5000")


def test_axe_finds_nothing_serious_in_light_and_dark(world: InspectorWorld, page: Page) -> None:
    world.begin_test("test_a", "gw0")
    body = '{"a": [1, "two", null], "b": {"c": true}}'
    kinds = [("Content-Type", "application/json")]
    for status in (200, 302, 404, None):
        world.come("POST", f"/{status}?q=1", body, headers=kinds, status=status, answer=body)
    world.say(websocket := world.open_websocket(), "app", "hello")
    axe = axe_api.Axe()

    def check(what: str) -> None:
        for scheme, options in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == (scheme == "dark")
            serious = [
                (one["id"], [node["html"] for node in one["nodes"]])
                for one in axe.run(page, options=options).response["violations"]
                if one["impact"] in ("serious", "critical")
            ]
            assert serious == [], f"{what}, {scheme}"

    expect(page.locator("[role=option]")).to_have_count(5)
    page.get_by_text("/200").click()
    expect(page.locator("#detail h2")).to_be_visible()
    check("list and details")
    page.get_by_text("/ws").click()
    expect(page.locator(".messages")).to_be_visible()
    check("messages")
    page.get_by_text("/404").click()
    expect(page.locator("#detail h2")).to_contain_text("/404")
    page.keyboard.press("e")
    expect(page.get_by_role("dialog")).to_be_visible()
    check("the editor")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Keys")
    check("the keys")
    world.call(websocket.close)


def test_playwright_answers_a_page_from_a_har_file(browser: Browser, tmp_path: Path) -> None:
    host = [("Host", "shop.test")]
    text = [("Content-Type", "text/plain; charset=utf-8")]
    page_type = [("Content-Type", "text/html")]
    packed = [*text, ("Content-Encoding", "gzip")]
    requests = [
        recorded(
            "GET", "/", headers=host, answer=response(body="<h1>shop</h1>", headers=page_type)
        ),
        recorded("GET", "/old", headers=host, answer=response(302, headers=[("Location", "/new")])),
        recorded("GET", "/new", headers=host, answer=response(body="schön", headers=text)),
        recorded("GET", "/bytes", headers=host, answer=response(body=b"\xff\x00\xfe")),
        recorded("GET", "/none", headers=host, answer=response(404)),
        recorded("GET", "/gz", headers=host, answer=response(body=compress(b"a"), headers=packed)),
        *(
            recorded("POST", "/paid", headers=host, body=body, answer=response(status))
            for body, status in (("order=1", 201), ("order=2", 409))
        ),
    ]
    content = har_log(map(HarRecord, requests), version="1.0", comment="a test", run_id="run-1")
    har = tmp_path / "shop.har"
    har.write_text(json.dumps(content), "utf-8")

    context = browser.new_context()
    context.route_from_har(har, not_found="abort")
    page = context.new_page()
    page.goto("http://shop.test/")
    assert page.locator("h1").inner_text() == "shop"
    found = page.evaluate(
        """async () => {
            const ask = async (path, options) => {
                const answer = await fetch(path, options);
                return [answer.status, [...new Uint8Array(await answer.arrayBuffer())]];
            };
            return [
                await ask("/old"), await ask("/bytes"), await ask("/none"), await ask("/gz"),
                await ask("/paid", {method: "POST", body: "order=2"}),
                await ask("/paid", {method: "POST", body: "order=1"}),
                await ask("/unknown").catch(() => "aborted"),
            ];
        }"""
    )
    context.close()
    assert found == [
        [200, list("schön".encode())],
        [200, [0xFF, 0x00, 0xFE]],
        [404, []],
        [200, list(b"a")],
        [409, []],
        [201, []],
        "aborted",
    ]
