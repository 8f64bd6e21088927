// How a body is shown. It is always data: text goes into text nodes, and an image is drawn from a
// blob with a fixed image type, so that nothing in a body is ever run or fetched.

import { binaryBytes, binaryText, bytesOf, textOf } from "./text.js";

const IMAGE_TYPES = new Set(["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp"]);
const HEX_BYTES = 4096;
const OPEN_CHARACTERS = 100_000;
const OPEN_MEMBERS = 100;
const DEEPEST = 64;

// Shows the body of a request or a response; gives an element.
export function bodyElement(message) {
  const element = document.createElement("div");
  const bytes = bytesOf(message.body);
  if (message.truncated) {
    element.append(note(`Only the first ${bytes.length} of ${message.size_bytes} bytes were recorded.`));
  }
  if (bytes.length === 0) {
    element.append(note(message.size_bytes ? `${message.size_bytes} bytes` : "No body."));
    return element;
  }
  const type = headerValue(message.headers, "content-type").trim();
  const coded = codingOf(message);
  if (coded) {
    plainBytes(message).then(
      (plain) => element.append(contentElement(plain, type)),
      () => element.append(note(`Compressed with ${coded}.`), hexElement(bytes)),
    );
  } else {
    element.append(contentElement(bytes, type));
  }
  return element;
}

function codingOf(message) {
  const coded = headerValue(message.headers, "content-encoding").trim().toLowerCase();
  return coded === "identity" ? "" : coded;
}

// The bytes of a body without its content coding.
export async function plainBytes(message) {
  const bytes = bytesOf(message.body);
  const coding = codingOf(message);
  if (!coding || bytes.length === 0) return bytes;
  const format = { gzip: "gzip", "x-gzip": "gzip", deflate: "deflate" }[coding];
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Shows bytes as what their content type says, or as what they look like; gives an element.
export function contentElement(bytes, contentType) {
  const type = contentType.split(";")[0].trim().toLowerCase();
  if (type === "multipart/form-data") {
    const parts = formParts(bytes, contentType);
    if (parts) return partsElement(parts);
  }
  if (IMAGE_TYPES.has(type)) return imageElement(bytes, type);
  const text = textOf(bytes);
  if (text === null) return hexElement(bytes);
  if (type === "application/x-www-form-urlencoded") return tableElement([...new URLSearchParams(text)]);
  const json = /[{[]/.test(text.trimStart()[0] ?? "") ? parsed(text) : undefined;
  return json === undefined ? textElement(text) : jsonElement(json);
}

// The parts of a multipart form as [headers, bytes] pairs, or null if it is malformed.
function formParts(bytes, contentType) {
  const [, quoted, plain] = /;\s*boundary=(?:"([^"]+)"|([^\s;]+))/i.exec(contentType) ?? [];
  const boundary = quoted ?? plain;
  if (!boundary) return null;
  // One character for each byte, so that places in the text are places in the bytes.
  const text = `\r\n${binaryText(bytes)}`;
  const pieces = text.split(`\r\n--${boundary}`);
  if (pieces.length < 2 || pieces.length > OPEN_MEMBERS || pieces[0].trim()) return null;
  const parts = [];
  for (const piece of pieces.slice(1)) {
    if (piece.startsWith("--")) break;
    const end = piece.indexOf("\r\n\r\n");
    if (end < 0) return null;
    const head = new TextDecoder().decode(binaryBytes(piece.slice(2, end)));
    const headers = head.split("\r\n").map((line) => {
      const [name, ...value] = line.split(":");
      return [name, value.join(":").trim()];
    });
    parts.push([headers, binaryBytes(piece.slice(end + 4))]);
  }
  return parts;
}

function partsElement(parts) {
  const list = document.createElement("dl");
  list.className = "parts";
  for (const [headers, bytes] of parts) {
    const name = document.createElement("dt");
    const disposition = headerValue(headers, "content-disposition");
    const [, field] = /;\s*name="([^"]*)"/i.exec(disposition) ?? [];
    const [, file] = /;\s*filename="([^"]*)"/i.exec(disposition) ?? [];
    name.textContent = file === undefined ? (field ?? "") : `${field} (file ${file})`;
    const value = document.createElement("dd");
    value.append(bytes.length ? contentElement(bytes, headerValue(headers, "content-type")) : note("Empty."));
    list.append(name, value);
  }
  return list;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export function headerValue(headers, wanted) {
  const found = headers.find(([name]) => name.toLowerCase() === wanted);
  return found ? found[1] : "";
}

export function note(text) {
  const element = document.createElement("p");
  element.className = "note";
  element.textContent = text;
  return element;
}

// A text; of a very long one the beginning, and the rest when it is asked for.
function textElement(text) {
  const element = document.createElement("pre");
  element.tabIndex = 0;
  if (text.length <= OPEN_CHARACTERS) {
    element.textContent = text;
    return element;
  }
  element.textContent = text.slice(0, OPEN_CHARACTERS);
  const rest = document.createElement("button");
  rest.type = "button";
  rest.textContent = `${text.length - OPEN_CHARACTERS} more characters`;
  rest.addEventListener("click", () => {
    rest.remove();
    element.textContent = text;
    element.focus();
  });
  const both = document.createElement("div");
  both.append(element, rest);
  return both;
}

function imageElement(bytes, type) {
  const image = document.createElement("img");
  image.alt = `The body, an image of ${bytes.length} bytes`;
  image.src = URL.createObjectURL(new Blob([bytes], { type }));
  image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  return image;
}

export function tableElement(pairs) {
  if (pairs.length === 0) return note("None.");
  const table = document.createElement("table");
  const body = table.createTBody();
  for (const [name, value] of pairs) {
    const row = body.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head);
    row.insertCell().textContent = value;
  }
  return table;
}

function hexElement(bytes) {
  const lines = [];
  for (let start = 0; start < Math.min(bytes.length, HEX_BYTES); start += 16) {
    const part = [...bytes.subarray(start, start + 16)];
    const hex = part.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const shown = part.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${start.toString(16).padStart(6, "0")}  ${hex.padEnd(47)}  ${shown}`);
  }
  if (bytes.length > HEX_BYTES) lines.push(`… ${bytes.length - HEX_BYTES} more bytes`);
  return textElement(lines.join("\n"));
}

// A value of JSON, folded: an object or a list is a <details>, filled when it is first opened.
export function jsonElement(value) {
  const element = document.createElement("div");
  element.className = "json";
  element.tabIndex = 0;
  element.append(jsonNode(value, 0, true));
  return element;
}

function jsonNode(value, depth, open) {
  if (value === null || typeof value !== "object") return jsonLeaf(value);
  const isList = Array.isArray(value);
  const entries = Object.entries(value);
  if (entries.length === 0) return document.createTextNode(isList ? "[]" : "{}");
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  const size = document.createElement("span");
  size.className = "size";
  const one = isList ? "item" : "member";
  size.textContent = ` ${entries.length} ${entries.length === 1 ? one : `${one}s`}`;
  summary.append(isList ? "[…]" : "{…}", size);
  details.append(summary);
  let filled = false;
  const fill = () => {
    if (filled || !details.open) return;
    filled = true;
    addMembers(details, entries, 0, isList, depth);
  };
  details.addEventListener("toggle", fill);
  details.open = open && depth < DEEPEST;
  fill();
  return details;
}

function addMembers(details, entries, from, isList, depth) {
  for (const [name, member] of entries.slice(from, from + OPEN_MEMBERS)) {
    const line = document.createElement("div");
    line.className = "member";
    const label = document.createElement("span");
    label.className = "name";
    label.textContent = isList ? name : JSON.stringify(name);
    line.append(label, ": ", jsonNode(member, depth + 1, depth < 2 && entries.length <= OPEN_MEMBERS));
    details.append(line);
  }
  const next = from + OPEN_MEMBERS;
  if (next >= entries.length) return;
  const more = document.createElement("button");
  more.type = "button";
  more.textContent = `${entries.length - next} more`;
  more.addEventListener("click", () => {
    more.remove();
    addMembers(details, entries, next, isList, depth);
  });
  details.append(more);
}

function jsonLeaf(value) {
  const element = document.createElement("span");
  const kinds = { string: "string", number: "number" };
  element.className = kinds[typeof value] ?? "word";
  element.textContent = JSON.stringify(value);
  return element;
}
