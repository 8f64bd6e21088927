"""What people read: lines, failures, the section of a failing test."""

import re
from collections.abc import Sequence

import pytest

from pytest_synth_tunnels.traffic.exchange import InboundRequest
from pytest_synth_tunnels.traffic.masking import Masker
from pytest_synth_tunnels.traffic.matching import Matcher, match
from pytest_synth_tunnels.traffic.text import Came, failure, line, section

from ..support.recorded import message, recorded, response

MASKER = Masker()
URL = "http://127.0.0.1:9/s/x/~t1"


def refused(path: str = "/", sequence: int = 9) -> InboundRequest:
    return recorded(
        "POST",
        path,
        sequence=sequence,
        answered_by="tunnel",
        answer=response(401),
        error="TUNNEL_AUTH_REQUIRED: this tunnel wants the worker token",
    )


def failed(
    matcher: Matcher,
    requests: Sequence[InboundRequest] = (),
    *,
    lease_requests: Sequence[InboundRequest] = (),
    returned: Sequence[InboundRequest] = (),
    dropped: int = 0,
    waited_s: float = 10.0,
) -> str:
    came = Came(URL, requests, lease_requests, returned, dropped, ["is the app running?"])
    return failure(f"no request matched {matcher!r}", [matcher], waited_s, came, MASKER)


class TestLine:
    def test_an_answer(self) -> None:
        request = recorded("POST", "/a", query="b=1&token=x", answer=response(201))
        assert re.fullmatch(
            r"\d\d:\d\d:\d\d\.\d{3}  POST /a\?b=1&token=\*\*\*  201  5 ms  by the app",
            line(request, MASKER),
        )

    def test_no_answer(self) -> None:
        assert line(recorded(answered_by=None, over=False), MASKER).endswith("not answered yet")
        gone = recorded(answered_by=None, error="the caller went away")
        assert line(gone, MASKER).endswith("not answered: the caller went away")

    def test_why_the_tunnel_answered(self) -> None:
        assert "401  5 ms  by the tunnel: TUNNEL_AUTH_REQUIRED" in line(refused(), MASKER)

    @pytest.mark.parametrize(("number", "shown"), [(1, "1 message"), (2, "2 messages")])
    def test_a_websocket(self, number: int, shown: str) -> None:
        request = recorded(websocket=True, messages=[message("x")] * number)
        assert line(request, MASKER).endswith(f"WebSocket, {shown}")

    def test_a_long_path_is_shortened(self) -> None:
        assert len(line(recorded(path="/" + "x" * 10_000), MASKER)) < 700


class TestFailure:
    def test_what_came_and_what_differed(self) -> None:
        request = recorded("POST", "/hooks/paid", json_body={"status": "new"})
        said = failed(match("POST", "/hooks/paid", json={"status": "paid"}), [request])
        assert said.startswith("no request matched match('POST', '/hooks/paid', json=")
        assert "(waited 10 s)" in said
        assert f"What came to {URL}:" in said
        assert "POST /hooks/paid  200" in said
        assert "    json.status: expected 'paid', got 'new'" in said
        assert "Check:" not in said

    def test_nothing_came(self) -> None:
        said = failed(match("GET"), waited_s=0)
        assert "(without waiting)" in said
        assert f"No request reached the app at {URL}." in said
        assert "Check:\n  - is the app running?" in said

    def test_what_the_tunnel_answered_itself(self) -> None:
        said = failed(match("POST"), [refused()])
        assert "No request reached the app" in said
        assert "What the tunnel answered itself:" in said
        assert "TUNNEL_AUTH_REQUIRED: this tunnel wants the worker token" in said

    def test_what_came_to_the_lease_itself(self) -> None:
        said = failed(match("POST"), lease_requests=[recorded("POST"), recorded("GET")])
        assert "2 requests came to the lease's own URL, 1 of them matching" in said
        assert "include_lease=True" in said

    def test_why_one_that_matches_was_not_meant(self) -> None:
        waiting = recorded("POST", "/a", answered_by=None, over=False, sequence=2)
        given = recorded("POST", "/a", sequence=1)
        said = failed(match("POST", "/a"), [given, waiting], returned=[given])
        assert "matches, and was returned by an earlier call" in said
        assert 'the app has not answered it: until="received"' in said

    def test_what_was_dropped(self) -> None:
        assert "The oldest 7 requests of this run are no longer recorded" in failed(
            match("POST"), dropped=7
        )

    def test_many_requests(self) -> None:
        said = failed(match("GET"), [recorded("POST", f"/{i}", sequence=i) for i in range(50)])
        assert "(30 earlier ones)" in said
        assert "POST /49" in said
        assert "POST /29 " not in said

    def test_many_differences(self) -> None:
        wanted = {f"k{i}": i for i in range(20)}
        said = failed(match(json=wanted), [recorded(json_body={})])
        assert "and 12 more differences" in said

    def test_a_predicate_that_fails(self) -> None:
        def where(request: InboundRequest) -> bool:
            return request.response.status == 200

        waiting = recorded(answered_by=None, over=False)
        said = failed(match(where=where), [waiting], lease_requests=[waiting])
        assert "where: expected a true value, got RuntimeError: GET / had no answer" in said

    def test_no_keys(self) -> None:
        request = recorded(
            "POST", headers=[("Authorization", "Bearer hidden")], body="token=hidden"
        )
        said = failed(match(headers={"Authorization": "Bearer other"}, body="x"), [request])
        assert "hidden" not in said
        assert "other" not in said


class TestSection:
    def test_nothing_came(self) -> None:
        assert section([], MASKER) == ""

    def test_what_went_well_is_a_line(self) -> None:
        assert len(section([recorded(), recorded()], MASKER).splitlines()) == 2

    def test_what_failed_has_bodies_and_a_command(self) -> None:
        request = recorded(
            "POST",
            "/a",
            json_body={"password": "hidden"},
            answer=response(500, "oh\nno " + "x" * 1000),
        )
        said = section([request], MASKER)
        assert '    it sent: {"password": "***"}' in said
        assert "    it got: oh\n      no xxx" in said
        assert "… (1006 characters)" in said
        assert "    curl --globoff -X POST" in said
        assert "hidden" not in said

    def test_an_inbox_has_no_command(self) -> None:
        request = recorded(answered_by="inbox", answer=response(500), local_url="")
        assert "curl" not in section([request], MASKER)

    def test_bytes(self) -> None:
        request = recorded(
            body=b"\x00\xff" * 10, headers=[("Content-Type", "image/png")], answer=response(500)
        )
        assert "it sent 20 bytes of image/png" in section([request], MASKER)

    def test_many(self) -> None:
        assert section([recorded()] * 30, MASKER).startswith("(10 earlier ones)")
