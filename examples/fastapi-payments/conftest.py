"""Serves the shop, and stands for the payment service."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import pytest
from shop import Shop
from standardwebhooks.webhooks import Webhook

from pytest_synth_tunnels import SynthServe

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LIMIT = 1000


@dataclass
class FakePayments:
    """Pays up to a limit, and calls back from another thread, as a service elsewhere does."""

    callback: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    threads: list[threading.Thread] = field(default_factory=list)

    def charge(self, order: int, amount: int) -> None:
        status = "paid" if amount <= LIMIT else "refused"
        thread = threading.Thread(target=self.call_back, args=(order, status, SECRET))
        self.threads.append(thread)
        thread.start()

    def call_back(self, order: int, status: str, secret: str) -> int:
        """Tell what became of an order; return the status of the shop's answer."""
        body, now = json.dumps({"order": order, "status": status}), datetime.now(UTC)
        signed = {
            "webhook-id": f"msg_{order}",
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret).sign(f"msg_{order}", now, body),
        }
        headers = {**self.headers, **signed}
        return httpx.post(self.callback, content=body, headers=headers).status_code


@pytest.fixture(scope="session")
def shop(synth_serve: SynthServe) -> Shop:
    """The shop, served for the whole session."""
    shop = Shop(FakePayments(), SECRET)
    synth_serve(shop.app())
    return shop


@pytest.fixture
def payments(shop: Shop, synth_traffic) -> Iterator[FakePayments]:
    """The payment service, which calls back to this test's own address."""
    payments = shop.payments = FakePayments(
        synth_traffic.url("/hooks/payments"), synth_traffic.headers
    )
    yield payments
    for thread in payments.threads:
        thread.join(10)
