"""Takes the pictures of the documentation: ``PYTHONPATH=. python docs/images/take_screenshots.py``

The inspector and the report are the real ones, over traffic that is made up here. Needs Chromium
in the PATH (or its path as the first argument), and the extra ``dev``.
"""

import json
import sys
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, Page, sync_playwright

from pytest_synth_tunnels.traffic.page import page as report_page
from tests.support.inspector_world import InspectorWorld, inspector_world

HERE = Path(__file__).parent
JSON = ("Content-Type", "application/json")
SIZE = {"width": 1180, "height": 700}
PHONE = {"width": 390, "height": 700}


def fill(world: InspectorWorld) -> None:
    """Have the traffic of a small web shop's tests come."""
    caller = [("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)"), ("Accept", "*/*")]
    world.begin_test("tests/test_payments.py::test_paid_order_is_shipped", "gw0")
    world.begin_test("tests/test_chat.py::test_two_people_talk", "gw1", "t2")
    event = {
        "id": "evt_1Pq8",
        "type": "payment_intent.succeeded",
        "livemode": False,
        "data": {
            "object": {
                "amount": 4200,
                "currency": "eur",
                "client_secret": "pi_secret_9",
                "metadata": {"order": "2024-117"},
            }
        },
    }
    world.come(
        path="/hooks/stripe?attempt=1",
        body=json.dumps(event),
        headers=[*caller, JSON, ("Stripe-Signature", "t=1700000001,v1=5257a869e7ec")],
        answer='{"received": true}',
        answer_headers=[JSON],
        took_s=0.0421,
    )
    world.come(
        "GET", "/orders/2024-117", headers=caller, answer_headers=[JSON], answer="{}", took_s=0.0083
    )
    world.come(path="/login", body="user=ada&password=x", status=303, took_s=0.1316)
    world.come("GET", "/orders/unknown", status=404, answer="no such order", took_s=0.0057)
    world.come(
        path="/hooks/stripe?attempt=2",
        body="{}",
        headers=[*caller, JSON],
        status=500,
        took_s=0.2138,
    )
    chat = world.open_websocket("/chat/room-7", "t2")
    world.say(chat, "caller", '{"type": "join", "name": "ada"}')
    world.say(chat, "app", '{"type": "joined", "people": ["ada", "grace"]}')
    world.say(chat, "app", '{"type": "said", "by": "grace", "text": "Good morning!"}')
    world.come(
        "GET",
        "/chat/history?room=7",
        address="t2",
        answer="[]",
        answer_headers=[JSON],
        took_s=0.0129,
    )
    for number in range(1, 7):
        world.come("GET", f"/static/part-{number}.js", address="t2", took_s=0.003 + number / 900)
    world.come(path="/upload", body=b"\x89PNG\r\n\x1a\n" * 40, status=None, address="t2")


def open_request(page: Page, path: str) -> None:
    page.locator("[role=option]", has_text=path).first.click()
    page.locator("#detail h2").wait_for()


def take(browser: Browser, world: InspectorWorld, report: Path, scheme: str) -> None:
    """Take all pictures in a colour scheme, ``light`` or ``dark``."""

    def shoot(page: Page, name: str) -> None:
        page.wait_for_timeout(300)  # until what was drawn last is seen
        path = HERE / f"{name}-{scheme}.png"
        page.screenshot(path=path)

    context = browser.new_context(viewport=SIZE, color_scheme=scheme)
    page = context.new_page()
    page.goto(world.url)
    page.locator("[role=option]").first.wait_for()
    shoot(page, "inspector-list")
    open_request(page, "/hooks/stripe?attempt=1")
    shoot(page, "inspector-detail")
    if scheme == "light":
        page.keyboard.press("e")
        page.locator("dialog.editor").wait_for()
        shoot(page, "inspector-edit")
        page.keyboard.press("Escape")
        open_request(page, "/chat/room-7")
        page.locator(".messages").scroll_into_view_if_needed()
        shoot(page, "inspector-websocket")
        page.set_viewport_size(PHONE)
        shoot(page, "inspector-phone")
        page.set_viewport_size(SIZE)
    page.goto(report.as_uri())
    open_request(page, "/orders/unknown")
    shoot(page, "report")
    context.close()


def main() -> None:
    chromium = sys.argv[1] if len(sys.argv) > 1 else which("chromium")
    with (
        inspector_world() as world,
        TemporaryDirectory() as folder,
        sync_playwright() as playwright,
    ):
        world.open()
        fill(world)
        log = world.traffic.log
        view = world.inspector._view
        records = [world.call(view.detail, log.find(n + 1)) for n in range(log.last_sequence)]
        report = Path(folder) / "traffic.html"
        title = f"{len(records)} requests, pytest-synth-tunnels"
        report.write_text(report_page(title, records, {"log": {}}), "utf-8")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            take(browser, world, report, scheme)
        browser.close()


if __name__ == "__main__":
    main()
