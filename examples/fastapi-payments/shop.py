"""A shop: it charges orders at a payment service, which calls back."""

from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import FastAPI, Header, HTTPException, Request
from standardwebhooks.webhooks import Webhook, WebhookVerificationError


class Payments(Protocol):
    """The payment service's client."""

    def charge(self, order: int, amount: int) -> None:
        """Ask for money; the answer comes as a callback."""


@dataclass
class Shop:
    """The shop's state and its app."""

    payments: Payments
    secret: str
    orders: dict[int, str] = field(default_factory=dict)

    def app(self) -> FastAPI:
        """Return the app that serves the shop."""
        app = FastAPI()

        @app.post("/orders/{number}", status_code=202)
        def order(number: int, amount: int) -> dict[str, str]:
            self.orders[number] = "waiting"
            self.payments.charge(number, amount)
            return {"status": self.orders[number]}

        @app.post("/hooks/payments", status_code=204)
        async def called_back(request: Request, webhook_id: Annotated[str, Header()] = "") -> None:
            body = await request.body()
            try:
                event = Webhook(self.secret).verify(body, dict(request.headers))
            except WebhookVerificationError as error:
                raise HTTPException(401, f"{webhook_id or 'a call'}: {error}") from None
            self.orders[event["order"]] = event["status"]

        return app
