// The traffic of a run that goes on, as the keeper tells it (the interface is in report.js).
//
// The list comes as events, without headers and bodies; those are asked for one request at a time.

export class LiveSource {
  #events = null;
  #again = 0;
  #hasEnded = false;

  connect(told) {
    const listen = () => this.#listenIfSeen(told);
    // A browser has six connections to a server, and a page that nobody sees needs none.
    document.addEventListener("visibilitychange", listen);
    listen();
  }

  #listenIfSeen({ changed, state }) {
    clearTimeout(this.#again);
    this.#events?.close();
    this.#events = null;
    if (this.#hasEnded || document.visibilityState === "hidden") return;
    state("connecting …", "waiting");
    const events = new EventSource("events");
    this.#events = events;
    events.addEventListener("open", () => state("live", "live"));
    events.addEventListener("records", ({ data }) => {
      const { records, dropped } = JSON.parse(data);
      changed(records, dropped);
    });
    events.addEventListener("ended", () => {
      events.close();
      this.#hasEnded = true;
      state("the run has ended; details are no longer there", "ended");
    });
    events.addEventListener("error", () => {
      state("the run does not answer, trying again …", "waiting");
      // The browser gives up where it gets no stream; a page too many gets its turn later.
      if (events.readyState === EventSource.CLOSED) {
        this.#again = setTimeout(() => this.#listenIfSeen({ changed, state }), 3000);
      }
    });
  }

  async detail(sequence) {
    return await ask(`requests/${sequence}`);
  }

  async search(text, after) {
    const { numbers } = await ask(`search?${new URLSearchParams({ text, after })}`);
    return numbers;
  }

  async har() {
    return "har";
  }

  async replay(sequence, edits) {
    const found = await ask(`requests/${sequence}/replay`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(edits),
    });
    return found.sequence;
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the run does not answer; it may have ended");
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.message);
  return found;
}
