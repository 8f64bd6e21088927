// The selected request: what it was, what answered it, and what can be done with it.

import { bodyElement, contentElement, note, tableElement } from "./bodies.js";
import { bytesOf } from "./source.js";
import { duration, statusClass } from "./list.js";

const ACTIONS = [
  ["curl", "Copy as curl"],
  ["httpx", "Copy as httpx"],
];

// Gives the elements that show a record.
//
// `slowest_s` is the longest duration among all requests: the bar of this one is drawn against it.
// `act` does what a button says, by its name.
export function detailElements(record, { slowest_s, act }) {
  const { request } = record;
  const parts = [backButton(act), headline(request)];
  if (request.error) parts.push(paragraph("why", request.error));
  if (record.late) parts.push(paragraph("why", "This came after its test had ended."));
  parts.push(facts(record), buttons(act));
  if (request.response) parts.push(timing(request, slowest_s));
  parts.push(section("Request headers", tableElement(request.headers)));
  if (request.query) {
    parts.push(section("Query", tableElement([...new URLSearchParams(request.query)])));
  }
  parts.push(section("Request body", bodyElement(request)));
  if (request.response) {
    parts.push(section("Response headers", tableElement(request.response.headers)));
    if (!request.websocket) parts.push(section("Response body", bodyElement(request.response)));
  }
  if (request.websocket) parts.push(section("Messages", messagesElement(request)));
  return parts;
}

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

function facts(record) {
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
  add("Test", record.test || "none: it came to the lease's own address outside any test");
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

function buttons(act) {
  const element = document.createElement("div");
  element.className = "buttons";
  for (const [name, label] of ACTIONS) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
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
  const words = note(`${duration(request.response.duration_s)} until the end of the answer; the slowest of this run took ${duration(slowest_s)}.`);
  return section("Timing", bar, words);
}

function section(title, ...content) {
  const element = document.createElement("section");
  const heading = document.createElement("h3");
  heading.textContent = title;
  element.append(heading, ...content);
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
