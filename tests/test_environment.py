from pytest_synth_tunnels.environment import allowed_environment

ENVIRON = {
    "PATH": "/bin",
    "LC_ALL": "C",
    "HTTPS_PROXY": "http://p",
    "SYNTH_API_KEY": "sk",
    "NGROK_AUTHTOKEN": "ng",
    "TUNNEL_TOKEN": "tt",
    "PYTHONPATH": "/x",
    "LCD_TOKEN": "none of the locale's",
}


def test_no_key_of_the_user_s_gets_through() -> None:
    assert allowed_environment(ENVIRON) == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "HTTPS_PROXY": "http://p",
    }


def test_what_is_allowed_besides() -> None:
    assert allowed_environment({"TUNNEL_TOKEN": "tt", "A": "b"}, {"A", "B"}) == {"A": "b"}
