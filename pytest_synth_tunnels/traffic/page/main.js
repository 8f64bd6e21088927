// The page: it brings the records, the list, the filters, the keys and the details together.

import { readData, search } from "./source.js";
import { NO_FILTER, isShown, testName } from "./filters.js";
import { RequestList } from "./list.js";
import { detailElements } from "./detail.js";
import { curlCommand, httpxCode } from "./copies.js";

const SEARCH_AFTER_MS = 200;

const KEYS = [
  ["↓ ↑ or j k", "the next or the previous request"],
  ["Page Down, Page Up, Home, End", "further, or to either end"],
  ["Enter", "go to the details"],
  ["Escape", "back to the list"],
  ["/", "filter by path"],
  ["b", "search in bodies"],
  ["m, s, t", "filter by method, status, test"],
  ["x", "drop all filters"],
  ["c", "copy as curl"],
  ["p", "copy as httpx code"],
  ["h", "download as HAR"],
  ["?", "show these keys"],
];

const byId = (id) => document.getElementById(id);
const data = readData();
const records = new Map(data.records.map((record) => [record.request.sequence, record]));
const slowest_s = Math.max(0, ...data.records.map(({ request }) => request.response?.duration_s ?? 0));
let filter = { ...NO_FILTER };
let shownDetail = null;

const list = new RequestList(byId("rows"), showDetail);

function say(text) {
  byId("said").textContent = text;
}

function show() {
  const shown = data.records.filter((record) => isShown(record, filter));
  const nothing = byId("nothing");
  nothing.hidden = shown.length > 0;
  nothing.textContent = records.size ? "No request passes these filters." : "Nothing came in this run.";
  byId("rows").hidden = shown.length === 0;
  byId("count").textContent =
    shown.length === records.size ? `${records.size}` : `${shown.length} of ${records.size}`;
  list.show(shown);
}

function addChoices(id, values) {
  for (const value of new Set(values)) {
    const option = document.createElement("option");
    option.value = option.textContent = value;
    byId(id).append(option);
  }
}

// Filters.

const FILTERS = ["filter-path", "filter-method", "filter-status", "filter-test"];

function readFilters() {
  const text = byId("filter-text").value;
  filter = {
    path: byId("filter-path").value.trim(),
    method: byId("filter-method").value,
    status: byId("filter-status").value,
    test: byId("filter-test").value,
    numbers: text ? search(data.records, text) : null,
  };
  show();
}

function dropFilters() {
  for (const id of [...FILTERS, "filter-text"]) byId(id).value = "";
  readFilters();
}

let searchTimer = 0;
byId("filter-text").addEventListener("input", () => {
  clearTimeout(searchTimer);
  searchTimer = setTimeout(readFilters, SEARCH_AFTER_MS);
});
for (const id of FILTERS) byId(id).addEventListener("input", readFilters);

// The details.

function showDetail(sequence) {
  shownDetail = sequence;
  const detail = byId("detail");
  detail.replaceChildren(...detailElements(records.get(sequence), { slowest_s, act }));
  detail.scrollTop = 0;
  document.body.classList.add("showing");
}

function backToList() {
  document.body.classList.remove("showing");
  byId("rows").focus();
}

async function copy(text, name) {
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied as ${name}.`);
  } catch (error) {
    say(`It cannot be copied: ${error.message}`);
  }
}

function act(name) {
  if (name === "back") {
    backToList();
    return;
  }
  const record = records.get(shownDetail);
  if (!record) return;
  if (name === "curl") copy(curlCommand(record.request), "curl");
  else if (name === "httpx") copy(httpxCode(record.request), "httpx code");
}

function downloadHar() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(data.har)], { type: "application/json" }));
  link.download = "synth-tunnels.har";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Keys.

const HANDLERS = {
  j: () => list.move(1),
  k: () => list.move(-1),
  ArrowDown: () => list.move(1),
  ArrowUp: () => list.move(-1),
  PageDown: () => list.move(list.page),
  PageUp: () => list.move(-list.page),
  Home: () => list.first(),
  End: () => list.last(),
  Enter: () => byId("detail").focus(),
  Escape: backToList,
  "/": () => byId("filter-path").focus(),
  b: () => byId("filter-text").focus(),
  m: () => byId("filter-method").focus(),
  s: () => byId("filter-status").focus(),
  t: () => byId("filter-test").focus(),
  x: dropFilters,
  c: () => act("curl"),
  p: () => act("httpx"),
  h: downloadHar,
  "?": showKeys,
};

// These belong to the list alone: elsewhere they scroll, or press a button.
const OF_THE_LIST = new Set(["ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End", "Enter"]);

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || target.closest("dialog")) return;
  if (target.matches("input, select") && key !== "Escape") return;
  if (OF_THE_LIST.has(key) && target !== byId("rows") && target !== document.body) return;
  const handler = HANDLERS[key];
  if (!handler) return;
  event.preventDefault();
  handler();
});

function showKeys() {
  byId("keys").showModal();
}

byId("key-list").append(
  ...KEYS.flatMap(([keys, does]) => {
    const term = document.createElement("dt");
    term.textContent = keys;
    const meaning = document.createElement("dd");
    meaning.textContent = does;
    return [term, meaning];
  }),
);
byId("help").addEventListener("click", showKeys);
byId("har").addEventListener("click", downloadHar);
byId("state").textContent = data.title;
addChoices("filter-method", data.records.map(({ request }) => request.method));
addChoices("filter-test", data.records.map(testName));
show();
