// The list: one row a request, under a heading for each test and worker.
//
// Only the rows in view (and a few around them) are in the document, so that thousands of requests
// stay smooth. The list itself has the focus, and names its chosen row by `aria-activedescendant`.

import { NO_TEST, groupName, hasFailed } from "./filters.js";

const ROW_PX = 28;
const SPARE_ROWS = 12;

export class RequestList {
  constructor(element, onChoose) {
    this.element = element;
    this.space = document.createElement("div");
    this.space.className = "space";
    this.space.setAttribute("role", "presentation");
    element.append(this.space);
    this.onChoose = onChoose;
    this.chosen = null;
    this.rows = [];
    this.positions = new Map();
    // The elements of the rows in view, by their requests' numbers, and the groups' by their names.
    this.drawn = new Map();
    this.filledWith = new WeakMap();
    this.waiting = false;
    element.addEventListener("scroll", () => this.#drawSoon());
    new ResizeObserver(() => this.#drawSoon()).observe(element);
    this.space.addEventListener("click", (event) => {
      const row = event.target.closest("[data-sequence]");
      if (row) this.choose(Number(row.dataset.sequence));
    });
  }

  // Shows these records, in the order in which they came, grouped by test and worker. A list that
  // stands at its end stays there.
  show(records) {
    const { scrollTop, scrollHeight, clientHeight } = this.element;
    const follows = scrollTop > 0 && scrollTop + clientHeight >= scrollHeight - 2;
    const groups = new Map();
    for (const record of records) {
      const name = groupName(record);
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(record);
    }
    this.rows = [];
    this.positions = new Map();
    this.size = records.length;
    let place = 0;
    for (const [name, members] of groups) {
      // Where there are no tests, a heading would say nothing.
      if (groups.size > 1 || name !== NO_TEST) this.rows.push({ group: name, count: members.length });
      for (const record of members) {
        place += 1;
        this.positions.set(record.request.sequence, this.rows.length);
        this.rows.push({ record, place });
      }
    }
    this.space.style.height = `${this.rows.length * ROW_PX}px`;
    if (follows) this.element.scrollTop = this.rows.length * ROW_PX;
    this.#draw();
  }

  choose(sequence) {
    this.chosen = sequence;
    this.#reveal(this.positions.get(sequence));
    this.#draw();
    this.onChoose(sequence);
  }

  // Chooses the row that many rows further down (or up, if negative).
  move(step) {
    const from = this.positions.get(this.chosen) ?? (step > 0 ? -1 : this.rows.length);
    let index = Math.min(Math.max(from + step, 0), this.rows.length - 1);
    const onward = Math.sign(step);
    while (this.rows[index] && !this.rows[index].record) index += onward;
    const row = this.rows[index];
    if (row?.record) this.choose(row.record.request.sequence);
  }

  first() {
    this.chosen = null;
    this.move(1);
  }

  last() {
    this.chosen = null;
    this.move(-1);
  }

  get page() {
    return Math.max(Math.floor(this.element.clientHeight / ROW_PX) - 1, 1);
  }

  #reveal(index) {
    if (index === undefined) return;
    const top = index * ROW_PX;
    const { scrollTop, clientHeight } = this.element;
    // The heading above the first row of a group is shown with it.
    if (top - ROW_PX < scrollTop) this.element.scrollTop = top - ROW_PX;
    else if (top + ROW_PX > scrollTop + clientHeight) {
      this.element.scrollTop = top + ROW_PX - clientHeight;
    }
  }

  #drawSoon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.#draw();
    });
  }

  #draw() {
    const first = Math.max(Math.floor(this.element.scrollTop / ROW_PX) - SPARE_ROWS, 0);
    const shown = Math.ceil(this.element.clientHeight / ROW_PX) + 2 * SPARE_ROWS;
    const last = Math.min(first + shown, this.rows.length);
    // A row that is drawn already is only brought up to date: it may just be pressed.
    const before = this.drawn;
    this.drawn = new Map();
    let previous = null;
    for (let index = first; index < last; index += 1) {
      const row = this.rows[index];
      const key = row.record ? row.record.request.sequence : row.group;
      const element = before.get(key) ?? newRow(row);
      before.delete(key);
      this.drawn.set(key, element);
      this.#fill(element, row, index);
      if (!element.parentNode || element.previousSibling !== previous) {
        this.space.insertBefore(element, previous ? previous.nextSibling : this.space.firstChild);
      }
      previous = element;
    }
    for (const element of before.values()) element.remove();
    const position = this.positions.get(this.chosen);
    if (position !== undefined && this.drawn.has(this.chosen)) {
      this.element.setAttribute("aria-activedescendant", `row-${this.chosen}`);
    } else {
      this.element.removeAttribute("aria-activedescendant");
    }
  }

  #fill(element, row, index) {
    element.style.top = `${index * ROW_PX}px`;
    if (!row.record) {
      // A heading is no choice, and the number of its rows is said with each row's place.
      element.setAttribute("role", "presentation");
      element.textContent = `${row.group} (${row.count})`;
      element.title = row.group;
      return;
    }
    const { request } = row.record;
    element.setAttribute("aria-selected", String(request.sequence === this.chosen));
    element.setAttribute("aria-setsize", String(this.size));
    element.setAttribute("aria-posinset", String(row.place));
    if (this.filledWith.get(element) === row.record) return;
    this.filledWith.set(element, row.record);
    element.id = `row-${request.sequence}`;
    element.dataset.sequence = request.sequence;
    element.setAttribute("role", "option");
    element.setAttribute("aria-label", spokenRow(row.record));
    element.replaceChildren(
      cell("time", clock(request.received_at)),
      cell("method", request.websocket ? "WS" : request.method),
      cell("path", request.query ? `${request.path}?${request.query}` : request.path),
      cell(`status ${statusClass(request)}`, statusText(request)),
      cell("took", request.response ? duration(request.response.duration_s) : ""),
    );
  }
}

function newRow(row) {
  const element = document.createElement("div");
  element.className = row.record ? "row" : "row group";
  return element;
}

// What a screen reader says of a row: the heading above it is not heard with it.
function spokenRow(record) {
  const { request } = record;
  const took = request.response ? `, ${duration(request.response.duration_s)}` : "";
  const answer = statusText(request) === "…" ? "not answered yet" : statusText(request);
  const method = request.websocket ? "WebSocket" : request.method;
  return `${method} ${request.path}, ${answer}${took}, ${groupName(record)}`;
}

function cell(className, text) {
  const element = document.createElement("span");
  element.className = className;
  element.textContent = text;
  return element;
}

export function statusText(request) {
  if (request.response) return String(request.response.status);
  return request.over ? "lost" : "…";
}

export function statusClass(request) {
  if (request.response) return `s${String(request.response.status)[0]}`;
  return hasFailed(request) ? "failed" : "";
}

// The time of day of a moment, given in Unix seconds.
export function clock(moment_s) {
  const date = new Date(moment_s * 1000);
  const two = (number) => String(number).padStart(2, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

export function duration(seconds) {
  if (seconds >= 1) return `${seconds.toFixed(2)} s`;
  const milliseconds = seconds * 1000;
  return `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
}
