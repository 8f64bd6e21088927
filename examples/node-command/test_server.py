import httpx


def make_link(lease, **asked):
    return httpx.post(lease.url("/"), json=asked, headers=lease.headers).json()["link"]


def test_a_link_is_public(synth_lease):
    link = make_link(synth_lease, target="https://example.org/a/long/path")

    assert link.startswith(synth_lease.public_url)
    answer = httpx.get(link, headers=synth_lease.headers)
    assert answer.headers["Location"] == "https://example.org/a/long/path"


def test_a_webhook_is_told_of_a_link(synth_lease, synth_inbox):
    link = make_link(
        synth_lease,
        target="https://example.org/",
        webhook=synth_inbox.url("/made"),
        headers=dict(synth_inbox.headers),
    )

    told = synth_inbox.wait_for("POST", "/made", json={"target": "https://example.org/"})
    assert told.json()["link"] == link
