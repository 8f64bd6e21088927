import pytest

from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.leases.spec import (
    choose_url_style,
    is_gone,
    parse_rfc3339,
    release_requests,
)
from pytest_synth_tunnels.sdk.errors import TunnelConnectionError, from_status


@pytest.mark.parametrize(
    "moment",
    [
        "2027-01-15T09:00:00Z",
        "2027-01-15T09:00:00+00:00",
        "2027-01-15T10:00:00+01:00",
        "2027-01-15T09:00:00",
    ],
)
def test_a_moment_without_a_zone_is_utc(moment: str) -> None:
    assert parse_rfc3339(moment) == 1_800_003_600.0


@pytest.mark.parametrize("moment", ["soon", "", "None"])
def test_what_is_no_moment(moment: str) -> None:
    with pytest.raises(ValueError, match="isoformat"):
        parse_rfc3339(moment)


def test_how_a_lease_is_released() -> None:
    assert [str(request) for request in release_requests("synthtunnel", "lease_1")] == [
        "DELETE /api/v1/synthtunnel/leases/lease_1"
    ]
    assert [str(request) for request in release_requests("ngrok", "lease_1")] == [
        "POST /v1/tunnels/lease/lease_1/release",
        "DELETE /v1/tunnels/lease/lease_1",
    ]


def test_which_errors_say_that_a_lease_is_gone() -> None:
    assert is_gone(from_status(404, {}, where="DELETE"))
    assert is_gone(from_status(410, {}, where="DELETE"))
    assert not is_gone(from_status(401, {}, where="DELETE"))
    assert not is_gone(TunnelConnectionError("refused"))


@pytest.mark.parametrize(
    ("wanted", "setting", "style"),
    [
        (None, None, "root"),
        (None, "path", "path"),
        (None, "root", "root"),
        ("path", "root", "path"),
        ("root", "path", "root"),
    ],
)
def test_an_embedded_lease_has_an_origin_unless_somebody_wants_a_path(
    wanted: str | None, setting: str | None, style: str
) -> None:
    assert choose_url_style(wanted, setting, provider="synthtunnel", embedded=True) == style


def test_a_hosted_lease_has_a_path_and_refuses_an_origin() -> None:
    assert choose_url_style(None, "root", provider="synthtunnel", embedded=False) == "path"
    with pytest.raises(KeeperRequestError, match="a hosted relay gives every lease"):
        choose_url_style("root", None, provider="synthtunnel", embedded=False)


@pytest.mark.parametrize("embedded", [False, True])
def test_a_provider_s_lease_has_an_origin_only_if_somebody_wants_one(embedded: bool) -> None:
    def style(wanted: str | None, setting: str | None) -> str:
        return choose_url_style(wanted, setting, provider="cloudflared-quick", embedded=embedded)

    assert style(None, None) == style("path", "root") == "path"
    assert style("root", None) == style(None, "root") == "root"


def test_there_are_two_styles() -> None:
    with pytest.raises(ValueError, match="'root' or 'path', not 'subdomain'"):
        choose_url_style("subdomain", None, provider="synthtunnel", embedded=True)
