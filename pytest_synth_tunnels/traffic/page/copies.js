// A request as a command or as code, for the local app past the tunnel.

import { bytesOf, bodyText } from "./text.js";

const OWN = ["x-forwarded-", "x-synthtunnel-"];
const BY_CLIENT = new Set(["host", "content-length", "connection", "transfer-encoding"]);

function sentHeaders(request) {
  return request.headers.filter(([name]) => {
    const lower = name.toLowerCase();
    return !BY_CLIENT.has(lower) && !OWN.some((prefix) => lower.startsWith(prefix));
  });
}

function urlOf(request) {
  const target = request.query ? `${request.path}?${request.query}` : request.path;
  return `${request.local_url || "http://127.0.0.1"}${target}`;
}

function isText(request) {
  const bytes = bytesOf(request.body);
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return false;
  }
  return !bytes.includes(0);
}

function shellQuoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
}

export function curlCommand(request) {
  const parts = ["curl", "--globoff", "-X", request.method];
  for (const [name, value] of sentHeaders(request)) {
    parts.push("-H", value ? `${name}: ${value}` : `${name};`);
  }
  let before = "";
  if (request.body && isText(request)) {
    parts.push("--data-raw", bodyText(request.body));
  } else if (request.body) {
    before = `echo ${request.body} | base64 -d | `;
    parts.push("--data-binary", "@-");
  }
  parts.push(urlOf(request));
  return before + parts.map(shellQuoted).join(" ");
}

// A Python literal: every string that JSON.stringify writes is one.
function pythonText(text) {
  return JSON.stringify(text);
}

export function httpxCode(request) {
  const lines = ["import base64", "", "import httpx", "", "response = httpx.request("];
  lines.push(`    ${pythonText(request.method)},`, `    ${pythonText(urlOf(request))},`);
  const headers = sentHeaders(request);
  if (headers.length) {
    lines.push("    headers=[");
    for (const [name, value] of headers) lines.push(`        (${pythonText(name)}, ${pythonText(value)}),`);
    lines.push("    ],");
  }
  let usesBase64 = false;
  if (request.body && isText(request)) {
    lines.push(`    content=${pythonText(bodyText(request.body))}.encode(),`);
  } else if (request.body) {
    usesBase64 = true;
    lines.push(`    content=base64.b64decode(${pythonText(request.body)}),`);
  }
  lines.push(")", "print(response.status_code, response.text)");
  return (usesBase64 ? lines : lines.slice(2)).join("\n");
}
