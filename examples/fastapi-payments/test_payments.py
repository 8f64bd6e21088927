import base64

import httpx
import pytest


@pytest.mark.parametrize(("number", "amount", "status"), [(1, 20, "paid"), (2, 5000, "refused")])
def test_the_shop_learns_what_became_of_an_order(
    shop, payments, synth_lease, synth_traffic, number, amount, status
):
    answer = httpx.post(
        synth_lease.url(f"/orders/{number}?amount={amount}"), headers=synth_lease.headers
    )
    assert answer.json() == {"status": "waiting"}

    call = synth_traffic.wait_for("POST", "/hooks/payments", json={"order": number})

    assert call.response.status == 204
    assert shop.orders[number] == status


def test_a_stranger_cannot_pay_an_order(shop, payments, synth_traffic):
    shop.orders[3] = "waiting"
    wrong_secret = "whsec_" + base64.b64encode(b"another secret, 24 bytes").decode()

    assert payments.call_back(3, "paid", wrong_secret) == 401

    assert shop.orders[3] == "waiting"
    refused = synth_traffic.wait_for("POST", "/hooks/payments", json={"order": 3})
    assert refused.response.status == 401
