"""What an error looks like to a caller."""

import json

from pytest_synth_tunnels.http.errors import error_response


def test_error_response():
    status, headers, body = error_response(
        503, "A", "m", "r-1", detail="d", headers=[("Retry-After", "1")], extra=7
    )
    assert status == 503
    assert dict(headers)["Content-Type"] == "application/json"
    assert dict(headers)["Retry-After"] == "1"
    assert json.loads(body) == {
        "code": "A",
        "detail": "d",
        "message": "m",
        "request_id": "r-1",
        "extra": 7,
    }
    assert json.loads(error_response(400, "A", "m")[2])["detail"] == "m"
