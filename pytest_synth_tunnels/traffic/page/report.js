// The page of a run that is over: its data is in the page.
//
// A source gives the page its records of {request, test, worker, late}. It has:
// - connect({ changed, state }): calls `changed` with records that are new or have changed, in the
//   order in which they came, and the number up to which older ones are gone; and `state` with what
//   is to be said of the source;
// - detail(sequence): the whole record, with headers and bodies;
// - search(text, after): the numbers above `after` of those that hold a text in a body or a message;
// - har(): all of them as a HAR file's URL;
// - replay(sequence, edits), where a request can be sent again: the number of the new one.

import { bodyText } from "./text.js";
import { start } from "./main.js";

class ReportSource {
  constructor() {
    this.data = JSON.parse(document.getElementById("data").textContent);
    this.records = new Map(this.data.records.map((record) => [record.request.sequence, record]));
  }

  connect({ changed, state }) {
    state(this.data.title, "");
    changed(this.data.records, 0);
  }

  async detail(sequence) {
    return this.records.get(sequence);
  }

  async search(text, after) {
    const wanted = text.toLowerCase();
    const holds = (body) => Boolean(body) && bodyText(body).toLowerCase().includes(wanted);
    const found = this.data.records.filter(
      ({ request }) =>
        request.sequence > after &&
        (holds(request.body) ||
          holds(request.response?.body) ||
          request.messages.some((message) => holds(message.data))),
    );
    return found.map(({ request }) => request.sequence);
  }

  async har() {
    const blob = new Blob([JSON.stringify(this.data.har)], { type: "application/json" });
    return URL.createObjectURL(blob);
  }
}

start(new ReportSource());
