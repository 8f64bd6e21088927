// What people do with Node's fetch, through a tunnel. Usage: node_fetch.mjs PUBLIC_URL WORKER_TOKEN
import assert from "node:assert/strict";

const [url, token] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${token}` };
const SIZE = 5_000_000;

const ask = (path, options = {}) =>
  fetch(url + path, { ...options, headers: { ...headers, ...options.headers } });
const json = async (...call) => (await ask(...call)).json();

assert.equal((await json("/echo?a=1%202")).target, "/echo?a=1%202");
assert.equal((await json("/echo", { method: "POST", body: "häh" })).body, "häh");

const numbers = [...Array(50).keys()];
const echoes = await Promise.all(
  numbers.map((n) => json(`/echo?${n}`, { method: "POST", body: `${n}` })),
);
assert.deepEqual(echoes.map((told) => told.body), numbers.map(String));

const pieces = new ReadableStream({
  async start(controller) {
    for (let n = 0; n < 3; n++) {
      controller.enqueue(new TextEncoder().encode("ab"));
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    controller.close();
  },
});
const streamed = await json("/echo", { method: "POST", body: pieces, duplex: "half" });
assert.equal(streamed.body, "ababab");

assert.equal(await (await ask("/gzip")).text(), "compressed ".repeat(100));
assert.equal((await (await ask(`/bytes/${SIZE}`)).arrayBuffer()).byteLength, SIZE);
const count = await ask("/count", { method: "PUT", body: new Uint8Array(SIZE) });
assert.equal(await count.text(), `${SIZE}`);
assert.equal((await ask("/bytes/7", { method: "HEAD" })).headers.get("content-length"), "7");
assert.equal((await ask("/status/204")).status, 204);
assert.equal((await ask("/redirect")).url, `${url}/echo?redirected`);
const form = new FormData();
form.set("file", new Blob(["content"]), "name.txt");
assert.match((await json("/echo", { method: "POST", body: form })).body, /content/);

const events = [];
const decoder = new TextDecoder();
for await (const piece of (await ask("/events")).body) events.push(decoder.decode(piece));
assert.equal(events.join(""), "data: 0\n\ndata: 1\n\ndata: 2\n\n");

const leaving = new AbortController();
const hanging = ask("/hang", { signal: leaving.signal });
setTimeout(() => leaving.abort(), 50);
await assert.rejects(hanging, { name: "AbortError" });
await assert.rejects(async () => (await ask("/cut")).text());
assert.equal((await fetch(`${url}/echo`)).status, 401);
console.log("fetch");
