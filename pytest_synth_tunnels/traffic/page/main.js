// The page: it brings the records, the list, the filters, the keys and the details together.

import { NO_FILTER, isShown, testName } from "./filters.js";
import { RequestList } from "./list.js";
import { showParts } from "./detail.js";
import { curlCommand, httpxCode } from "./copies.js";

const SEARCH_AFTER_MS = 200;
const SEARCH_AGAIN_AFTER_MS = 1000;
const SHOW_AFTER_MS = 100;
const REFRESH_AFTER_MS = 250;

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

const REPLAY_KEYS = [
  ["r", "replay: send it to the app again"],
  ["e", "edit and replay"],
];

const byId = (id) => document.getElementById(id);
const records = new Map();
let source = null;
let openEditorFor = null;
let slowest_s = 0;
let hasTests = false;
let filter = { ...NO_FILTER };
let shownDetail = null;

const list = new RequestList(byId("rows"), showDetail);

function say(text) {
  byId("said").textContent = text;
  byId("said-visibly").textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (byId("said-visibly").textContent = ""), 4000);
}

function show() {
  const shown = [...records.values()].filter((record) => isShown(record, filter));
  const nothing = byId("nothing");
  nothing.hidden = shown.length > 0;
  nothing.textContent = records.size
    ? "No request passes these filters."
    : source.replay
      ? "Nothing came yet. Requests show up here as they come."
      : "Nothing came in this run.";
  byId("rows").hidden = shown.length === 0;
  byId("count").textContent =
    shown.length === records.size ? `${records.size}` : `${shown.length} of ${records.size}`;
  list.show(shown);
}

let showTimer = 0;

function showSoon() {
  showTimer ||= setTimeout(() => {
    showTimer = 0;
    show();
  }, SHOW_AFTER_MS);
}

// What the source tells.

function takeRecords(changed, dropped) {
  const isFirst = records.size === 0;
  for (const record of changed) {
    const { request } = record;
    records.set(request.sequence, record);
    slowest_s = Math.max(slowest_s, request.response?.duration_s ?? 0);
    addChoice("filter-method", request.method);
    addChoice("filter-test", testName(record));
    if (record.test && !hasTests) {
      hasTests = true;
      byId("test-label").hidden = false;
    }
    if (request.sequence === shownDetail) refreshDetail();
    if (filter.numbers) searchAgainFrom(request.sequence);
  }
  for (const sequence of records.keys()) {
    if (sequence > dropped) break;
    records.delete(sequence);
  }
  if (isFirst) show();
  else showSoon();
}

function showState(text, kind) {
  byId("state").textContent = text;
  byId("state").dataset.kind = kind;
}

const choices = new Set();

function addChoice(id, value) {
  if (choices.has(`${id} ${value}`)) return;
  choices.add(`${id} ${value}`);
  const option = document.createElement("option");
  option.value = option.textContent = value;
  byId(id).append(option);
}

// Filters.

const FILTERS = ["filter-path", "filter-method", "filter-status", "filter-test"];

function readFilters() {
  filter = {
    path: byId("filter-path").value.trim(),
    method: byId("filter-method").value,
    status: byId("filter-status").value,
    test: byId("filter-test").value,
    numbers: filter.numbers,
  };
  show();
}

function dropFilters() {
  for (const id of [...FILTERS, "filter-text"]) byId(id).value = "";
  filter.numbers = null;
  readFilters();
}

// Finds the requests with the wanted text in a body; only those after a number, if the others are
// known.
async function searchBodies(after = 0) {
  const text = byId("filter-text").value;
  if (!text) {
    filter.numbers = null;
    show();
    return;
  }
  let found;
  try {
    found = await source.search(text, after);
  } catch (error) {
    say(`The search failed: ${error.message}`);
    return;
  }
  if (text !== byId("filter-text").value) return;
  const known = after && filter.numbers ? [...filter.numbers].filter((number) => number <= after) : [];
  filter.numbers = new Set([...known, ...found]);
  show();
}

let searchTimer = 0;
let searchFrom = 0;

// What has changed since the search is searched too, before long.
function searchAgainFrom(sequence) {
  searchFrom = searchFrom ? Math.min(searchFrom, sequence) : sequence;
  searchTimer ||= setTimeout(() => {
    const after = searchFrom - 1;
    searchTimer = searchFrom = 0;
    searchBodies(after);
  }, SEARCH_AGAIN_AFTER_MS);
}

byId("filter-text").addEventListener("input", () => {
  clearTimeout(searchTimer);
  searchFrom = 0;
  searchTimer = setTimeout(() => {
    searchTimer = 0;
    searchBodies();
  }, SEARCH_AFTER_MS);
});
for (const id of FILTERS) byId(id).addEventListener("input", readFilters);

// The details.

let detailRecord = null;
let detailLoaded = Promise.resolve();

function showDetail(sequence) {
  detailLoaded = loadDetail(sequence);
}

async function loadDetail(sequence) {
  const isSame = sequence === shownDetail;
  shownDetail = sequence;
  let record;
  try {
    record = await source.detail(sequence);
  } catch (error) {
    say(`The request cannot be shown: ${error.message}`);
    return;
  }
  if (sequence !== shownDetail) return;
  detailRecord = record;
  const detail = byId("detail");
  const focused = detail.contains(document.activeElement) ? document.activeElement : null;
  const { scrollTop } = detail;
  const canReplay = Boolean(source.replay) && !record.request.websocket;
  showParts(detail, record, { slowest_s, hasTests, act, canReplay });
  detail.scrollTop = isSame ? scrollTop : 0;
  if (focused && !focused.isConnected) detail.focus({ preventScroll: true });
  if (!isSame) document.body.classList.add("showing");
}

let refreshTimer = 0;

function refreshDetail() {
  refreshTimer ||= setTimeout(() => {
    refreshTimer = 0;
    if (shownDetail !== null) showDetail(shownDetail);
  }, REFRESH_AFTER_MS);
}

function backToList() {
  document.body.classList.remove("showing");
  // An empty list is hidden, and takes no focus; a field that keeps it would take the next key.
  if (byId("rows").hidden) document.activeElement.blur();
  else byId("rows").focus();
}

async function copy(text, name) {
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied as ${name}.`);
  } catch (error) {
    say(`It cannot be copied: ${error.message}`);
  }
}

async function replay(sequence, edits) {
  const again = await source.replay(sequence, edits);
  say(`Sent again, as request ${again}.`);
  await whenKnown(again);
  list.choose(again);
}

// Waits until the list knows a request: the answer to a replay may come before the event.
async function whenKnown(sequence) {
  for (let turn = 0; turn < 40 && !records.has(sequence); turn += 1) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  show();
}

async function act(name) {
  if (name === "back") {
    backToList();
    return;
  }
  // A key may come before the details of the request that was just chosen.
  await detailLoaded;
  const record = detailRecord;
  if (!record || record.request.sequence !== shownDetail) return;
  const { request } = record;
  if (name === "curl") copy(curlCommand(request), "curl");
  else if (name === "httpx") copy(httpxCode(request), "httpx code");
  else if (!source.replay) return;
  else if (request.websocket) say("A WebSocket cannot be sent again.");
  else if (name === "edit") openEditorFor(record, (edits) => replay(request.sequence, edits));
  else if (name === "replay") {
    replay(request.sequence, {}).catch((error) => say(`It was not sent again: ${error.message}`));
  }
}

async function downloadHar() {
  const link = document.createElement("a");
  link.href = await source.har();
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
  r: () => act("replay"),
  e: () => act("edit"),
  h: downloadHar,
  "?": showKeys,
};

// These belong to the list alone: elsewhere they scroll, or press a button.
const OF_THE_LIST = new Set(["ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End", "Enter"]);

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  // A dialog that was just closed may still have the focus.
  if (event.ctrlKey || event.metaKey || event.altKey || target.closest("dialog[open]")) return;
  if (target.matches("input, select, textarea") && key !== "Escape") return;
  if (OF_THE_LIST.has(key) && target !== byId("rows") && target !== document.body) return;
  const handler = HANDLERS[key];
  if (!handler) return;
  event.preventDefault();
  handler();
});

function showKeys() {
  byId("keys").showModal();
}

byId("help").addEventListener("click", showKeys);
byId("har").addEventListener("click", downloadHar);

// Begins with a source (see report.js). `openEditor` lets a person change a request before it is
// sent again.
export function start(given, { openEditor = null } = {}) {
  source = given;
  openEditorFor = openEditor;
  byId("key-list").append(
    ...[...KEYS, ...(source.replay ? REPLAY_KEYS : [])].flatMap(([keys, does]) => {
      const term = document.createElement("dt");
      term.textContent = keys;
      const meaning = document.createElement("dd");
      meaning.textContent = does;
      return [term, meaning];
    }),
  );
  show();
  source.connect({ changed: takeRecords, state: showState });
}
