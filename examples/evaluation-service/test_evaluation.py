import container
import httpx
import pytest
from service import evaluate


@pytest.fixture(scope="session", autouse=True)
def served_container(synth_serve, synth_lease):
    synth_serve(container.app)
    synth_lease.wait_ready(timeout_s=30)


@pytest.mark.parametrize(("prompt", "score"), [("add them", 1.0), ("multiply them", 0.0)])
def test_a_prompt_is_scored(synth_lease, prompt, score):
    result = evaluate(synth_lease.public_url, synth_lease.headers, prompt)

    assert result == {"score": score, "rollouts": 4}


def test_each_example_is_tried_once(synth_traffic):
    with synth_traffic.expect("POST", "/rollout", json={"prompt": "add"}, times=4) as rollouts:
        evaluate(synth_traffic.url("/"), synth_traffic.headers, "add")

    assert sorted(call.json()["seed"] for call in rollouts.requests) == [0, 1, 2, 3]


def test_a_container_that_fails_is_told(synth_traffic, monkeypatch):
    monkeypatch.setattr(container, "SUMS", [(1, 1), ("not", "numbers")])

    with pytest.raises(httpx.HTTPStatusError, match="500"):
        evaluate(synth_traffic.url("/"), synth_traffic.headers, "multiply")

    failed = synth_traffic.wait_for("POST", "/rollout", json={"seed": 1})
    assert failed.response.status == 500


def test_nobody_without_the_token_gets_through(synth_lease):
    answer = httpx.post(synth_lease.url("/rollout"), json={"seed": 0, "prompt": "add"})

    assert answer.status_code == 401
