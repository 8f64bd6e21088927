import hashlib
import hmac
import json

import httpx
import pytest
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from pushes.models import Push

pytestmark = pytest.mark.django_db(transaction=True)

EVENT = {"after": "a" * 40, "repository": {"full_name": "octo/hello"}}


@pytest.fixture(scope="session", autouse=True)
def served_project(synth_serve):
    return synth_serve(get_wsgi_application())


def deliver(traffic, secret=settings.GITHUB_SECRET, delivery="72d3162e"):
    """Deliver an event as GitHub does."""
    body = json.dumps(EVENT).encode()
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Delivery": delivery,
        "X-GitHub-Event": "push",
        "X-Hub-Signature-256": f"sha256={digest}",
        **traffic.headers,
    }
    httpx.post(traffic.url("/hooks/github"), content=body, headers=headers)


def test_a_push_is_noted(synth_traffic):
    deliver(synth_traffic)

    call = synth_traffic.wait_for("POST", "/hooks/github", headers={"X-GitHub-Event": "push"})

    assert call.response.status == 204
    assert Push.objects.get().repository == "octo/hello"


def test_a_wrong_signature_is_refused(synth_traffic):
    deliver(synth_traffic, secret="guessed")

    assert synth_traffic.wait_for("POST", "/hooks/github").response.status == 403
    assert not Push.objects.exists()


def test_a_delivery_that_comes_twice_is_noted_once(synth_traffic):
    with synth_traffic.expect("POST", "/hooks/github", times=2):
        deliver(synth_traffic)
        deliver(synth_traffic)

    assert Push.objects.count() == 1
