"""What the relay knows of one lease."""

from pytest_synth_tunnels.relay.route import Route


def route(**options):
    return Route(
        lease_id="l",
        route_token="rt_1",
        agent_token="at_secret",
        worker_token="wt_secret",
        **options,
    )


def test_tokens_do_not_show():
    assert "secret" not in repr(route())


def test_the_public_url_and_what_the_app_is_told_of_it():
    found = route(public_base_url="https://relay.example/base")
    assert found.public_url == "https://relay.example/base/s/rt_1"
    assert found.forwarded == [
        ("x-forwarded-prefix", "/base/s/rt_1"),
        ("x-synthtunnel-lease-id", "l"),
    ]


def test_a_route_whose_app_sees_the_whole_path_has_no_prefix_to_tell():
    found = Route(lease_id="l", route_token="", agent_token="a", prefix="/m/r_1", whole_path=True)
    assert found.public_url == "/m/r_1"
    assert found.forwarded == [("x-synthtunnel-lease-id", "l")]
