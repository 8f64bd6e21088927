// The selected request: what it was, what answered it, and what can be done with it.

import { bodyElement, contentElement, note, tableElement } from "./bodies.js";
import { bytesOf } from "./text.js";
import { duration, statusClass } from "./list.js";

const ACTIONS = [
  ["replay", "Replay"],
  ["edit", "Edit and replay"],
  ["curl", "Copy as curl"],
  ["httpx", "Copy as httpx"],
];

// Shows a record in an element.
//
// A part that shows the same as before stays as it is, with what a person has unfolded, selected or
// focused in it: a request that goes on is shown again and again.
//
// `slowest_s` is the longest duration among all requests: the bar of this one is drawn against it.
// `hasTests` is whether any request belongs to a test. `act` does what a button says, by its name;
// `canReplay` is whether it can send this one again.
export function showParts(element, record, { slowest_s, hasTests, act, canReplay }) {
  const { request } = record;
  const { sequence, response } = request;
  const parts = [];
  const add = (shows, make) => parts.push([JSON.stringify([sequence, ...shows]), make]);
  const addSection = (title, shows, make) => add([title, shows], () => section(title, make()));
  add(["back"], () => backButton(act));
  add(["headline"], () => headline(request));
  if (request.error) add([request.error], () => paragraph("why", request.error));
  if (record.late) add(["late"], () => paragraph("why", "This came after its test had ended."));
  add(["facts", hasTests, response?.status, response?.complete, request.over], () =>
    facts(record, hasTests),
  );
  add(["buttons"], () => buttons(act, canReplay));
  if (response) {
    addSection("Timing", [response.duration_s, slowest_s], () => timing(request, slowest_s));
  }
  addSection("Request headers", request.headers, () => tableElement(request.headers));
  if (request.query) {
    addSection("Query", [], () => tableElement([...new URLSearchParams(request.query)]));
  }
  if (!request.websocket) {
    addSection("Request body", [request.body, request.size_bytes], () => bodyElement(request));
  }
  if (response) {
    addSection("Response headers", response.headers, () => tableElement(response.headers));
  }
  if (response && !request.websocket) {
    addSection("Response body", [response.body, response.size_bytes], () => bodyElement(response));
  }
  if (request.websocket) {
    const { messages, messages_dropped } = request;
    addSection("Messages", [messages, messages_dropped], () => messagesElement(request));
  }
  const before = new Map([...element.children].map((child) => [shownBy.get(child), child]));
  const shown = parts.map(([shows, make]) => {
    const part = before.get(shows) ?? make();
    before.delete(shows);
    shownBy.set(part, shows);
    return part;
  });
  for (const part of before.values()) part.remove();
  // A part in its place is not touched: moved, it would lose focus, selection and scroll position.
  let next = element.firstChild;
  for (const part of shown) {
    if (part === next) next = next.nextSibling;
    else element.insertBefore(part, next);
  }
}

// What the parts in the document show.
const shownBy = new WeakMap();

function paragraph(className, text) {
  const element = document.createElement("p");
  element.className = className;
  element.textContent = text;
  return element;
}

function headline(request) {
  const element = document.createElement("h2");
  element.className = "headline";
  element.textContent = `${request.method} ${request.path}${request.query ? `?${request.query}` : ""}`;
  return element;
}

function facts(record, hasTests) {
  const { request } = record;
  const { response } = request;
  const list = document.createElement("dl");
  list.className = "facts";
  const add = (name, text, className = "") => {
    const term = document.createElement("dt");
    term.textContent = name;
    const value = document.createElement("dd");
    value.textContent = text;
    value.className = className;
    list.append(term, value);
  };
  if (response) {
    const end = response.complete || !request.over ? "" : " (cut off)";
    add("Status", `${response.status} ${response.reason}${end}`, `status ${statusClass(request)}`);
  } else {
    add("Status", request.over ? "ended without an answer" : "not answered yet");
  }
  if (request.answered_by) add("Answered by", `the ${request.answered_by}`);
  if (hasTests) {
    add("Test", record.test || "none: it came to the lease's own address outside any test");
  }
  if (record.worker) add("Worker", record.worker);
  add("Received", new Date(request.received_at * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" }));
  if (request.client) add("Caller", request.client);
  if (request.local_url) add("App", request.local_url);
  return list;
}

function backButton(act) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "back";
  button.textContent = "← All requests";
  button.addEventListener("click", () => act("back"));
  return button;
}

function buttons(act, canReplay) {
  const element = document.createElement("div");
  element.className = "buttons";
  for (const [name, label] of ACTIONS) {
    if (!canReplay && (name === "replay" || name === "edit")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.dataset.act = name;
    button.addEventListener("click", () => act(name));
    element.append(button);
  }
  return element;
}

function timing(request, slowest_s) {
  const bar = document.createElement("div");
  bar.className = "timing";
  const filled = document.createElement("span");
  filled.style.width = `${Math.min((request.response.duration_s / (slowest_s || 1)) * 100, 100)}%`;
  bar.append(filled);
  const until = request.websocket ? "until it was open" : "until the end of the answer";
  const words = note(`${duration(request.response.duration_s)} ${until}; the slowest of this run took ${duration(slowest_s)}.`);
  const element = document.createElement("div");
  element.append(bar, words);
  return element;
}

function section(title, content) {
  const element = document.createElement("section");
  const heading = document.createElement("h3");
  heading.textContent = title;
  element.append(heading, content);
  return element;
}

function messagesElement(request) {
  if (request.messages.length === 0) return note("None so far.");
  const list = document.createElement("ol");
  list.className = "messages";
  for (const message of request.messages) {
    const item = document.createElement("li");
    const after_s = message.at - request.received_at;
    const from = paragraph("from", `${message.sender} +${after_s.toFixed(2)} s`);
    const content = document.createElement("div");
    content.append(contentElement(bytesOf(message.data), message.text ? "text/plain" : ""));
    if (message.truncated) content.append(note(`The first part of ${message.size_bytes} bytes.`));
    item.append(from, content);
    list.append(item);
  }
  if (!request.messages_dropped) return list;
  const element = document.createElement("div");
  element.append(list, note(`${request.messages_dropped} more were not recorded.`));
  return element;
}
