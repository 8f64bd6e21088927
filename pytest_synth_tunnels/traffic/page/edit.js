// The dialog in which a request is changed before it is sent again.
//
// Only what was changed is sent. So a value that is masked here is sent as it was recorded, as long
// as it stays as it is.

import { plainBytes } from "./bodies.js";
import { textOf } from "./text.js";

// Shows the dialog for a record. `send` is given the changes; it may throw why they cannot be sent.
export async function openEditor({ request }, send) {
  const bytes = await plainBytes(request).catch(() => null);
  const text = bytes && !request.truncated ? textOf(bytes) : null;
  const before = {
    method: request.method,
    path: request.path,
    query: request.query,
    headers: request.headers.map(([name, value]) => `${name}: ${value}`).join("\n"),
    body: text ?? "",
  };
  const dialog = document.createElement("dialog");
  dialog.className = "editor";
  dialog.setAttribute("aria-labelledby", "editor-title");
  const form = document.createElement("form");
  const title = document.createElement("h2");
  title.id = "editor-title";
  title.textContent = "Edit and replay";
  const fields = {
    method: field("Method", "input", before.method),
    path: field("Path", "input", before.path),
    query: field("Query", "input", before.query),
    headers: field("Headers, one on each line", "textarea", before.headers, 8),
    body: field("Body", "textarea", before.body, 10),
  };
  const hint = document.createElement("p");
  hint.className = "note";
  hint.textContent = "What is masked as *** is sent as it was recorded, unless you change it.";
  const error = document.createElement("p");
  error.className = "why";
  error.setAttribute("role", "alert");
  const buttons = document.createElement("div");
  buttons.className = "buttons";
  const submit = button("Send", "submit");
  submit.className = "main";
  const cancel = button("Cancel", "button");
  buttons.append(submit, cancel);
  form.append(title, ...Object.values(fields).map(({ label }) => label));
  if (text === null) {
    const why = request.truncated ? "was recorded only in part" : "is no text";
    fields.body.label.append(note(`The body ${why}. Left empty, it is sent as it was recorded.`));
  }
  form.append(hint, error, buttons);
  dialog.append(form);
  document.body.append(dialog);

  const sendNow = async () => {
    submit.disabled = true;
    error.textContent = "";
    try {
      await send(changes(fields, before));
      dialog.close();
    } catch (failure) {
      error.textContent = failure.message;
    } finally {
      submit.disabled = false;
    }
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sendNow();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      sendNow();
    }
  });
  cancel.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
  fields.path.control.focus();
}

function changes(fields, before) {
  const edits = {};
  for (const [name, { control }] of Object.entries(fields)) {
    // A text field has its line ends in its own way, and the parts of a form need theirs.
    const hasOwnEnds = /\r\n/.test(before[name]) && !/(^|[^\r])\n/.test(before[name]);
    const value = hasOwnEnds ? control.value.replaceAll("\n", "\r\n") : control.value;
    if (control.value === before[name].replaceAll("\r\n", "\n")) continue;
    edits[name] = name === "headers" ? headerPairs(value) : value;
  }
  return edits;
}

function headerPairs(text) {
  const lines = text.split("\n").filter((line) => line.trim());
  return lines.map((line) => {
    const colon = line.indexOf(":");
    if (colon < 1) throw new Error(`“${line}” is no header: it must be a name, a colon and a value`);
    return [line.slice(0, colon).trim(), line.slice(colon + 1).trim()];
  });
}

function field(name, kind, value, rows = 0) {
  const label = document.createElement("label");
  const control = document.createElement(kind);
  control.spellcheck = false;
  control.autocomplete = "off";
  if (rows) control.rows = rows;
  control.value = value;
  label.append(name, control);
  return { label, control };
}

function note(text) {
  const element = document.createElement("span");
  element.className = "note";
  element.textContent = text;
  return element;
}

function button(text, type) {
  const element = document.createElement("button");
  element.type = type;
  element.textContent = text;
  return element;
}
