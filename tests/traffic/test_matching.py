"""Which requests a matcher means, and what it says of the others."""

import re
from typing import Any

import pytest

from pytest_synth_tunnels.traffic.exchange import TruncatedBodyError
from pytest_synth_tunnels.traffic.masking import Masker
from pytest_synth_tunnels.traffic.matching import match, nearest

from ..support.recorded import recorded

MASKER = Masker()


class AnyText:
    """Equal to every text, as the objects of dirty-equals are."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "AnyText()"


def differences(matcher: Any, request: Any) -> list[str]:
    return [str(mismatch) for mismatch in matcher.mismatches(request, MASKER)]


class TestMethodAndPath:
    def test_everything(self) -> None:
        assert match().matches(recorded())

    def test_method(self) -> None:
        assert match("post").matches(recorded("POST"))
        assert not match("POST").matches(recorded("PUT"))

    @pytest.mark.parametrize(
        ("pattern", "path", "meant"),
        [
            ("/a", "/a", True),
            ("/a", "/a/", False),
            ("/a", "/ab", False),
            ("/a.b", "/axb", False),
            ("/hooks/*", "/hooks/paid", True),
            ("/hooks/*", "/hooks/", True),
            ("/hooks/*", "/hooks/paid/1", False),
            ("/hooks/*/done", "/hooks/paid/done", True),
            ("/hooks/**", "/hooks/paid/1", True),
            ("/hooks/**", "/hooks", False),
            ("/**/done", "/a/b/done", True),
            ("**", "/any/thing", True),
            ("/v*/x", "/v2/x", True),
            ("/café", "/caf%C3%A9", True),
            ("/caf%C3%A9", "/caf%C3%A9", True),
            (re.compile(r"/items/\d+"), "/items/12", True),
            (re.compile(r"/items/\d+"), "/items/12/x", False),
        ],
    )
    def test_path(self, pattern: Any, path: str, meant: bool) -> None:
        assert match(path=pattern).matches(recorded(path=path)) is meant

    @pytest.mark.parametrize(
        ("arguments", "error", "said"),
        [
            (("PSOT",), ValueError, "'PSOT' is no HTTP method"),
            ((1,), TypeError, "method must be text"),
            ((None, "http://x/y"), ValueError, "has a host"),
            ((None, "//x/y"), ValueError, "has a host"),
            ((None, "hooks"), ValueError, "begins with '/'"),
            ((None, ""), ValueError, "begins with '/'"),
            ((None, "/a?b=1"), ValueError, "query="),
            ((None, "/a#b"), ValueError, "can match nothing"),
            ((None, 5), TypeError, "text or a compiled pattern"),
            ((None, re.compile(b"/")), TypeError, "for bytes"),
        ],
    )
    def test_what_can_match_nothing(
        self, arguments: Any, error: type[Exception], said: str
    ) -> None:
        with pytest.raises(error, match=re.escape(said)):
            match(*arguments)


class TestFields:
    def test_what_is_given_must_be_there(self) -> None:
        request = recorded(query="a=1&b=2", headers=[("X-Event", "paid"), ("X-More", "x")])
        assert match(query={"a": "1"}, headers={"x-event": "paid"}).matches(request)
        assert not match(query={"c": "1"}).matches(request)
        assert not match(headers={"x-event": "failed"}).matches(request)

    def test_repeated_ones(self) -> None:
        request = recorded(query="tag=a&tag=b", headers=[("X-T", "1"), ("x-t", "2")])
        assert match(query={"tag": "b"}, headers={"X-T": "2"}).matches(request)
        assert match(query={"tag": ["a", "b"]}, headers={"X-T": "1, 2"}).matches(request)
        assert not match(query={"tag": ["a"]}).matches(request)
        assert not match(query={"tag": ["b", "a"]}).matches(request)

    def test_objects_that_compare_themselves(self) -> None:
        assert match(query={"a": AnyText()}).matches(recorded(query="a=1"))
        assert not match(query={"b": AnyText()}).matches(recorded(query="a=1"))

    @pytest.mark.parametrize("value", [1, None, True, b"x", ["a", 2]])
    def test_values_that_no_field_has(self, value: Any) -> None:
        with pytest.raises(ValueError, match="values there are text"):
            match(query={"a": value})
        with pytest.raises(ValueError, match="values there are text"):
            match(headers={"a": value})

    def test_no_dictionary(self) -> None:
        with pytest.raises(TypeError, match="query must be a dictionary"):
            match(query="a=1")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="no text"):
            match(headers={1: "a"})  # type: ignore[dict-item]


class TestJson:
    @pytest.mark.parametrize(
        ("expected", "meant"),
        [
            ({}, True),
            ({"status": "paid"}, True),
            ({"status": "failed"}, False),
            ({"order": {"id": 7}}, True),
            ({"order": {"id": 8}}, False),
            ({"order": {"name": AnyText()}}, True),
            ({"order": {"id": AnyText()}}, False),
            ({"order": 7}, False),
            ({"missing": None}, False),
            ({"nothing": None}, True),
            ({"items": [{"n": 1}, {"n": 2}]}, True),
            ({"items": ({"n": 1}, {"n": 2})}, True),
            ({"items": [{"n": 1}]}, False),
            ({"items": [{}, {}]}, False),
            ({"items": [{"n": 2}, {"n": 1}]}, False),
            ([], False),
        ],
    )
    def test_partly(self, expected: Any, meant: bool) -> None:
        request = recorded(
            json_body={
                "status": "paid",
                "order": {"id": 7, "name": "x"},
                "items": [{"n": 1}, {"n": 2}],
                "nothing": None,
            }
        )
        assert match(json=expected).matches(request) is meant
        assert bool(differences(match(json=expected), request)) is not meant

    def test_a_list_or_a_value_as_the_whole(self) -> None:
        assert match(json=[1, 2]).matches(recorded(json_body=[1, 2]))
        assert match(json="x").matches(recorded(json_body="x"))
        assert not match(json=["x"]).matches(recorded(json_body="x"))

    def test_no_json(self) -> None:
        assert not match(json={}).matches(recorded(body="x"))
        assert differences(match(json={}), recorded(body="x")) == [
            "json: expected a body that is JSON, got 'x'"
        ]
        assert "an empty body" in differences(match(json={}), recorded())[0]

    @pytest.mark.parametrize("depth", [200, 600, 900, 5_000, 50_000])
    def test_json_of_any_depth(self, depth: int) -> None:
        deep = recorded(body="[" * depth + "]" * depth)
        assert not match(json={"a": 1}).matches(deep)
        assert len(differences(match(json={"a": 1}), deep)) == 1


class TestBody:
    def test_bytes_text_and_patterns(self) -> None:
        request = recorded(body="é=1")
        assert match(body="é=1").matches(request)
        assert match(body="é=1".encode()).matches(request)
        assert match(body=re.compile(r"=\d")).matches(request)
        assert match(body=re.compile(rb"=\d")).matches(request)
        assert not match(body="é").matches(request)
        assert not match(body=b"").matches(request)
        assert not match(body=re.compile("x")).matches(request)


class TestTruncated:
    @pytest.mark.parametrize("given", [{"json": {"a": 1}}, {"body": "x"}])
    def test_it_is_an_error_that_names_the_option(self, given: Any) -> None:
        request = recorded("POST", "/a", body="xyz", truncated=True)
        with pytest.raises(TruncatedBodyError, match="synth_tunnels_traffic_body_bytes"):
            match("POST", "/a", **given).matches(request)
        assert "synth_tunnels_traffic_body_bytes" in differences(match(**given), request)[0]

    def test_it_is_none_where_the_head_does_not_match(self) -> None:
        request = recorded("POST", "/a", body="xyz", truncated=True)
        assert not match("GET", json={"a": 1}).matches(request)
        assert match("POST").matches(request)


class TestWhere:
    def test_it_decides_after_all_else(self) -> None:
        asked = []

        def where(request: Any) -> bool:
            asked.append(request.path)
            return bool(request.path == "/b")

        matcher = match("GET", where=where)
        assert not matcher.matches(recorded("POST", "/b"))
        assert not matcher.matches(recorded("GET", "/a"))
        assert matcher.matches(recorded("GET", "/b"))
        assert asked == ["/a", "/b"]
        assert differences(matcher, recorded("GET", "/a")) == [
            "where: expected a true value, got False"
        ]

    def test_its_errors_go_on_with_a_note(self) -> None:
        def where(request: Any) -> bool:
            raise ZeroDivisionError("oh")

        with pytest.raises(ZeroDivisionError) as caught:
            match(where=where).matches(recorded("GET", "/a"))
        assert "GET /a" in caught.value.__notes__[0]
        assert "ZeroDivisionError: oh" in differences(match(where=where), recorded())[0]

    def test_not_callable(self) -> None:
        with pytest.raises(TypeError, match="where must be callable"):
            match(where=True)  # type: ignore[arg-type]


class TestDifferences:
    def test_field_by_field(self) -> None:
        matcher = match(
            "POST",
            "/hooks/*",
            query={"page": "2"},
            headers={"X-Event": "paid"},
            json={"order": {"status": "paid", "lines": [1, 2]}},
        )
        request = recorded(
            "PUT", "/x", query="page=1", json_body={"order": {"status": "new", "lines": [1, 3]}}
        )
        assert differences(matcher, request) == [
            "method: expected POST, got PUT",
            "path: expected '/hooks/*', got '/x'",
            "query.page: expected '2', got '1'",
            "headers.X-Event: expected 'paid', got nothing",
            "json.order.status: expected 'paid', got 'new'",
            "json.order.lines[1]: expected 2, got 3",
        ]

    def test_what_there_is_too_much_of_inside_a_list(self) -> None:
        request = recorded(json_body={"items": [{"a": 1, "b": 2}]})
        assert differences(match(json={"items": [{"a": 1}]}), request) == [
            "json.items[0].b: expected nothing, got 2"
        ]

    def test_keys_are_masked(self) -> None:
        matcher = match(headers={"Authorization": "Bearer a"}, json={"x": {"password": "p"}})
        request = recorded(
            headers=[("Authorization", "Bearer b")], json_body={"x": {"password": "q"}}
        )
        said = [*differences(matcher, request), repr(matcher)]
        assert not any(secret in text for text in said for secret in ("Bearer", "'p'", "'q'"))
        assert differences(match(json={"x": 1}), request) == [
            "json.x: expected 1, got {'password': '***'}"
        ]

    def test_long_values_are_shortened(self) -> None:
        (said,) = differences(match(json={"a": "x" * 1000}), recorded(json_body={"a": "y" * 1000}))
        assert len(said) < 300


class TestRepr:
    def test_it_is_the_call(self) -> None:
        assert repr(match("POST", "/a", json={"b": 1})) == "match('POST', '/a', json={'b': 1})"
        assert repr(match(path="/a", query={"q": "1"}, body=b"x")) == (
            "match(path='/a', query={'q': '1'}, body=b'x')"
        )
        assert "where=TestRepr" in repr(match(where=TestRepr.test_it_is_the_call))


class TestNearest:
    def test_the_path_counts_most_then_the_number_then_the_time(self) -> None:
        requests = [
            recorded("POST", "/a", json_body={"s": 1}, sequence=1),
            recorded("PUT", "/a", json_body={"s": 1}, sequence=2),
            recorded("POST", "/b", json_body={"s": 2}, sequence=3),
            recorded("POST", "/a", json_body={"s": 3}, sequence=4),
        ]
        found = nearest(match("POST", "/a", json={"s": 2}), requests, MASKER)
        assert [request.sequence for request, _ in found] == [4, 1, 2]
