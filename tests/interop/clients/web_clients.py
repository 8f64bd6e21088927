"""What people do with requests and aiohttp, through a tunnel. Runs where those two are.

Usage: ``web_clients.py PUBLIC_URL WORKER_TOKEN``. Prints a line for each client once it is happy.
"""

import asyncio
import sys

import aiohttp
import requests

SIZE = 5_000_000


def with_requests(url: str, headers: dict[str, str]) -> None:
    with requests.Session() as session:
        session.headers.update(headers)
        answer = session.get(f"{url}/echo", params={"a": "1 2"})
        assert answer.json()["target"] == "/echo?a=1+2", answer.text
        answer = session.post(f"{url}/echo", json={"x": 1})
        assert answer.json()["body"] == '{"x": 1}', answer.text
        answer = session.post(f"{url}/echo", data=(b"ab" for _ in range(3)))
        assert answer.json()["body"] == "ababab", answer.text
        assert session.get(f"{url}/gzip").text == "compressed " * 100
        answer = session.get(f"{url}/redirect")
        assert answer.history[0].status_code == 302
        assert answer.json()["target"] == "/echo?redirected"
        session.get(f"{url}/cookie")
        assert session.get(f"{url}/echo").json()["headers"]["cookie"] == "a=b"
        with session.get(f"{url}/bytes/{SIZE}", stream=True) as answer:
            assert sum(map(len, answer.iter_content(100_000))) == SIZE
        assert session.put(f"{url}/count", data=bytes(SIZE)).text == str(SIZE)
        assert session.head(f"{url}/bytes/7").headers["content-length"] == "7"
        assert session.get(f"{url}/status/204").status_code == 204
        answer = session.post(f"{url}/echo", files={"file": ("name.txt", b"content")})
        assert "content" in answer.json()["body"]
    try:
        requests.get(f"{url}/cut", headers=headers, timeout=10)
    except requests.exceptions.RequestException:
        pass
    else:
        raise AssertionError("an answer that was cut off looks whole")


async def with_aiohttp(url: str, headers: dict[str, str]) -> None:
    async def body():
        for _ in range(3):
            yield b"ab"
            await asyncio.sleep(0)

    async with aiohttp.ClientSession(headers=headers) as session:

        async def echo(number: int) -> None:
            async with session.post(f"{url}/echo?{number}", data=str(number)) as answer:
                told = await answer.json()
                assert (told["target"], told["body"]) == (f"/echo?{number}", str(number))

        await asyncio.gather(*map(echo, range(50)))
        async with session.post(f"{url}/echo", data=body()) as answer:
            assert (await answer.json())["body"] == "ababab"
        async with session.post(f"{url}/echo", data=b"x" * 100, expect100=True) as answer:
            assert (await answer.json())["body"] == "x" * 100
        async with session.get(f"{url}/gzip") as answer:
            assert await answer.text() == "compressed " * 100
        async with session.get(f"{url}/bytes/{SIZE}") as answer:
            assert len(await answer.read()) == SIZE
        async with session.put(f"{url}/count", data=bytes(SIZE)) as answer:
            assert await answer.text() == str(SIZE)
        async with session.get(f"{url}/redirect") as answer:
            assert (await answer.json())["target"] == "/echo?redirected"
        async with session.get(f"{url}/events") as answer:
            events = [line async for line in answer.content if line.startswith(b"data")]
            assert events == [b"data: %d\n" % number for number in range(3)], events
        try:
            async with session.get(f"{url}/cut") as answer:
                await answer.read()
        except aiohttp.ClientPayloadError:
            pass
        else:
            raise AssertionError("an answer that was cut off looks whole")


if __name__ == "__main__":
    public_url, token = sys.argv[1:]
    shown = {"Authorization": f"Bearer {token}"}
    with_requests(public_url, shown)
    print("requests")
    asyncio.run(with_aiohttp(public_url, shown))
    print("aiohttp")
