from pytest_synth_tunnels.sdk.hinted_error import HintedError


def test_it_reads_as_two_sentences() -> None:
    error = HintedError("A_CODE", "it failed.", "Try again")

    assert str(error) == "it failed. Try again"
    assert (error.code, error.message, error.hint) == ("A_CODE", "it failed.", "Try again")


def test_without_a_hint_the_message_is_all() -> None:
    assert str(HintedError("A_CODE", "it failed")) == "it failed"
