// A server of short links. It tells a webhook when a link is made.
import { createServer } from "node:http";

const links = new Map();

async function read(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return JSON.parse(Buffer.concat(parts).toString());
}

async function make(request, response) {
  const { target, webhook, headers } = await read(request);
  const name = String(links.size + 1);
  links.set(name, target);
  const link = `${process.env.SYNTH_PUBLIC_URL}/${name}`;
  response.writeHead(201, { "Content-Type": "application/json" });
  response.end(JSON.stringify({ link }));
  if (webhook) {
    await fetch(webhook, { method: "POST", headers, body: JSON.stringify({ link, target }) });
  }
}

const server = createServer((request, response) => {
  const target = links.get(request.url.slice(1));
  if (request.method === "POST") {
    make(request, response).catch((error) => console.error(error));
  } else if (target) {
    response.writeHead(302, { Location: target });
    response.end();
  } else {
    response.writeHead(404);
    response.end();
  }
});

server.listen(Number(process.argv[2]), "127.0.0.1");
