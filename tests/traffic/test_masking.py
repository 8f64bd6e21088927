"""What is masked when it leaves the run, and what is not."""

import gzip
import time

import pytest

from pytest_synth_tunnels.traffic.exchange import HeaderFields
from pytest_synth_tunnels.traffic.masking import Masker

from ..support.recorded import message, recorded, response

MASKER = Masker()


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            "Authorization",
            "Cookie",
            "SET-COOKIE",
            "X-Api-Key",
            "x_api_key",
            "password",
            "accessToken",
            "refresh_token",
            "X-SynthTunnel-Worker-Token",
            "client_secret",
            "Proxy-Authorization",
        ],
    )
    def test_keys(self, name: str) -> None:
        assert MASKER.is_key(name)

    @pytest.mark.parametrize(
        "name",
        ["X-Hub-Signature-256", "Stripe-Signature", "X-Secret-Signature", "id", "key", "author"],
    )
    def test_no_keys(self, name: str) -> None:
        assert not MASKER.is_key(name)

    def test_further_ones(self) -> None:
        masker = Masker(["x-internal-*", "X_Signature"])
        assert masker.is_key("X-Internal-Id")
        assert masker.is_key("x-signature")
        assert masker.is_key("password")
        assert not masker.is_key("internal")


class TestHeaders:
    def masked(self, *pairs: tuple[str, str]) -> list[tuple[str, str]]:
        return MASKER.headers(HeaderFields(pairs))

    def test_the_scheme_stays(self) -> None:
        assert self.masked(("Authorization", "Bearer abc")) == [("Authorization", "Bearer ***")]
        assert self.masked(("Authorization", "abc")) == [("Authorization", "***")]

    def test_names_of_cookies_stay(self) -> None:
        assert self.masked(("Cookie", "a=1; b=2"), ("Set-Cookie", "s=abc; Path=/; HttpOnly")) == [
            ("Cookie", "a=***; b=***"),
            ("Set-Cookie", "s=***; Path=/; HttpOnly"),
        ]

    def test_urls_in_values(self) -> None:
        assert self.masked(
            ("Location", "https://u:p@x/y?code=1&access_token=abc#token=d"), ("X-Id", "1")
        ) == [("Location", "https://***@x/y?code=1&access_token=***"), ("X-Id", "1")]


class TestQuery:
    def test_parameters(self) -> None:
        assert MASKER.query("a=1&token=abc&api%5Fkey=x&b=") == "a=1&token=***&api%5Fkey=***&b="


class TestBody:
    def masked(self, body: str, content_type: str = "application/json") -> str:
        return MASKER.body(recorded(body=body, headers=[("Content-Type", content_type)]))

    def test_json_in_its_depth(self) -> None:
        shown = self.masked('{"a": [{"password": "p"}], "token": {"x": 1}, "n": null, "secret": 5}')
        assert shown == '{"a": [{"password": "***"}], "token": "***", "n": null, "secret": "***"}'

    def test_json_without_keys_is_as_it_was_written(self) -> None:
        assert self.masked('{"a":1,\n "b": 2}') == '{"a":1,\n "b": 2}'

    @pytest.mark.parametrize(
        "body",
        [
            '{"a": 1, "password": "hid',
            '{"password": "hidden\\"en", "a',
            '{"password": "hidden"}\n{"b": 1}\n',
            '[{"password": 4711hidden, }]',
            'x {\'a\'} "password" : "hidden"',
        ],
    )
    def test_what_is_not_quite_json(self, body: str) -> None:
        shown = self.masked(body)
        assert "hid" not in shown
        assert '"***"' in shown

    def test_a_url_inside_json(self) -> None:
        assert "abc" not in self.masked('{"next": "http://x/?page=2&token=abc"}')

    def test_null_is_no_key(self) -> None:
        assert self.masked('{"token": null}') == '{"token": null}'

    def test_urlencoded_form(self) -> None:
        kind = "application/x-www-form-urlencoded"
        assert self.masked("user=x&password=p%20q&b=1", kind) == "user=x&password=***&b=1"

    def test_multipart_form(self) -> None:
        body = (
            '--X\r\nContent-Disposition: form-data; name="user"\r\n\r\nme\r\n'
            '--X\r\nContent-Disposition: form-data; name="password"\r\n'
            "Content-Type: text/plain\r\n\r\nhid\r\nden\r\n--X--\r\n"
        )
        shown = self.masked(body, "multipart/form-data; boundary=X")
        assert "den" not in shown
        assert "me\r\n" in shown
        assert "***\r\n--X--" in shown

    def test_a_field_whose_disposition_names_others_first(self) -> None:
        body = (
            '--X\r\nContent-Disposition: form-data; filename="; name=a"; name="password"\r\n\r\n'
            "hidden\r\n--X--\r\n"
        )
        assert "hidden" not in self.masked(body, "multipart/form-data; boundary=X")

    @pytest.mark.parametrize("depth", [200, 600, 900, 50_000])
    def test_deeply_nested_json(self, depth: int) -> None:
        for end in ("", "]" * depth):
            body = "[" * depth + '{"token": "hidden"}' + end
            assert "hidden" not in self.masked(body)

    @pytest.mark.parametrize("end", ["\\", "\n", "\\\n", "\\\\"])
    def test_a_value_that_was_cut_off_within_an_escape(self, end: str) -> None:
        assert "hidden" not in self.masked('{"token": "hidden' + end)

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            ("Content-Disposition: " + "name=" * 13_000, "multipart/form-data; boundary=X"),
            ("Content-Disposition:name=\n" * 2_500, "multipart/form-data; boundary=X"),
            ("Content-Disposition:" * 3_200, "multipart/form-data; boundary=X"),
            ('{"' + '\\"' * 32_000, "application/json"),
            ('{"a' + '":"' * 21_000, "application/json"),
            ('{"a":"' + "\\" * 65_000, "application/json"),
            ('{"="' + '"     :' * 9_000, "application/json"),
            ("=" + "a" * 65_000, "application/x-www-form-urlencoded"),
        ],
    )
    def test_no_text_takes_long(self, body: str, kind: str) -> None:
        began_s = time.process_time()
        self.masked(body, kind)
        assert time.process_time() - began_s < 1.0


class TestRequest:
    def test_all_of_it(self) -> None:
        request = recorded(
            "POST",
            query="token=hidden",
            headers=[("Authorization", "Bearer hidden")],
            json_body={"password": "hidden", "a": 1},
            answer=response(200, '{"token": "hidden"}', headers=[("Set-Cookie", "a=hidden")]),
            messages=[message('{"secret": "hidden"}'), message(b"\x00")],
        )
        masked = MASKER.request(request)
        texts = [masked.text, masked.query_string, masked.response.text, masked.curl()]
        texts += [str(masked.headers), str(masked.response.headers), str(masked.messages)]
        assert not any("hidden" in text for text in texts)
        assert masked.json() == {"password": "***", "a": 1}
        assert request.json()["password"] == "hidden"
        assert masked.messages[1].data == b"\x00"

    def test_a_body_without_keys_stays_byte_for_byte(self) -> None:
        request = recorded(body=bytes(range(256)))
        assert MASKER.request(request).body == bytes(range(256))

    def test_a_compressed_body(self) -> None:
        request = recorded(
            body=gzip.compress(b'{"token": "hidden"}'),
            headers=[("Content-Encoding", "gzip"), ("Content-Length", "9")],
        )
        masked = MASKER.request(request)
        assert masked.body == b'{"token": "***"}'
        assert masked.headers.pairs == [("Content-Length", "16")]

    def test_a_body_that_is_not_compressed_as_it_says(self) -> None:
        request = recorded(body=b"token=hidden", headers=[("Content-Encoding", "gzip")])
        assert MASKER.request(request).body == b"token=***"

    def test_a_compressed_body_that_grows_beyond_measure(self) -> None:
        bomb = gzip.compress(b'{"a": "' + bytes(30 << 20))
        request = recorded(
            body=bomb, headers=[("Content-Encoding", "gzip")], answer=response(body=b"x" * 70_000)
        )
        masked = MASKER.request(request)
        assert len(masked.body) <= max(65_536, 20 * len(bomb))
        assert masked.truncated
        assert not masked.response.truncated

    def test_halves_of_characters(self) -> None:
        text = '{"token": "hidden", "a": "\\ud800"}'
        masked = MASKER.request(recorded(body=text, messages=[message(text)]))
        assert masked.text == masked.messages[0].data == '{"token": "***", "a": "\\ud800"}'

    def test_without_an_answer(self) -> None:
        assert not MASKER.request(recorded(answered_by=None)).answered
