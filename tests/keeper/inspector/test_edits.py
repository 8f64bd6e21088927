"""Changes to a request whose keys the person does not see."""

import json

import pytest

from pytest_synth_tunnels.keeper.inspector.edits import apply_edits
from pytest_synth_tunnels.traffic.exchange import InboundRequest
from pytest_synth_tunnels.traffic.masking import Masker

from ...support.recorded import recorded


def shown(real: InboundRequest) -> InboundRequest:
    return Masker().request(real)


def test_without_changes_all_is_as_recorded() -> None:
    real = recorded("POST", "/a", query="token=k", headers=[("Cookie", "sid=k")], body="x")
    assert apply_edits({}, shown(real), real) == (
        *("POST", "/a", "token=k"),
        [("Cookie", "sid=k")],
        b"x",
    )


def test_a_key_that_was_retyped_is_sent_as_typed() -> None:
    real = recorded(headers=[("Authorization", "Bearer k"), ("X", "1")], query="token=k&a=1")
    *_, query, headers, _ = apply_edits(
        {"headers": [["Authorization", "Bearer mine"], ["X", "1"]], "query": "token=mine&a=1"},
        shown(real),
        real,
    )
    assert query == "token=mine&a=1"
    assert headers == [("Authorization", "Bearer mine"), ("X", "1")]


def test_a_header_that_was_taken_out_is_not_sent() -> None:
    real = recorded(headers=[("Authorization", "Bearer k"), ("X", "1")])
    headers = apply_edits({"headers": [["X", "1"]]}, shown(real), real)[3]
    assert headers == [("X", "1")]


def test_two_headers_of_one_name_keep_their_values() -> None:
    real = recorded(headers=[("Cookie", "a=1"), ("Cookie", "b=2")])
    pairs = [list(pair) for pair in shown(real).headers.pairs]
    headers = apply_edits({"headers": pairs}, shown(real), real)[3]
    assert headers == [("Cookie", "a=1"), ("Cookie", "b=2")]


@pytest.mark.parametrize("count", [1, 3])
def test_masked_members_of_json_are_as_recorded(count: int) -> None:
    real = recorded(json_body={"users": [{"token": f"k{n}", "n": n} for n in range(count)]})
    body = json.loads(shown(real).text)
    assert {user["token"] for user in body["users"]} == {"***"}
    body["users"][0]["n"] = 9
    body["users"].append({"token": "***"})
    sent = json.loads(apply_edits({"body": json.dumps(body)}, shown(real), real)[4])
    assert [user["token"] for user in sent["users"]] == [*(f"k{n}" for n in range(count)), "***"]
    assert sent["users"][0]["n"] == 9


def test_masked_fields_of_a_form_are_as_recorded() -> None:
    form = [("Content-Type", "application/x-www-form-urlencoded")]
    real = recorded("POST", headers=form, body="user=ada&password=k")
    assert shown(real).text == "user=ada&password=***"
    edits = {"body": "user=grace&password=***"}
    assert apply_edits(edits, shown(real), real)[4] == b"user=grace&password=k"


def test_masked_parts_of_a_form_are_as_recorded() -> None:
    body = "".join(
        f'--b--\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (("user", "ada"), ("password", "k"), ("token", "t"))
    )
    kind = [("Content-Type", 'multipart/form-data; boundary="b--"')]
    real = recorded("POST", headers=kind, body=f"{body}--b----\r\n")
    edited = shown(real).text.replace("ada", "grace")
    assert edited.count("***") == 2
    sent = apply_edits({"body": edited}, shown(real), real)[4]
    assert sent == real.body.replace(b"ada", b"grace")


def test_json_of_great_depth_is_sent_as_given() -> None:
    real = recorded("POST", json_body={"token": "k"})
    body = "[" * 900 + '"***"' + "]" * 900
    assert apply_edits({"body": body}, real, real)[4] == body.encode()


def test_bytes_are_sent_as_they_are() -> None:
    real = recorded("POST", body="x", headers=[("Content-Encoding", "gzip")])
    _, _, _, headers, body = apply_edits({"body_base64": "AP8="}, shown(real), real)
    assert body == b"\x00\xff"
    assert headers == [], "what was given is not compressed"


def test_a_body_that_was_cut_must_be_given() -> None:
    real = recorded("POST", body="x", truncated=True)
    with pytest.raises(ValueError, match="not recorded as a whole"):
        apply_edits({"path": "/b"}, shown(real), real)
    assert apply_edits({"body": "all"}, shown(real), real)[4] == b"all"
