// The page's data: records of {request, test, worker, late}, in the order in which the requests
// came. `request` is a recorded request as the Python side writes it, with its bodies as base64.

export function readData() {
  return JSON.parse(document.getElementById("data").textContent);
}

// The numbers of the requests that hold a text in a body or a message.
export function search(records, text) {
  const wanted = text.toLowerCase();
  const holds = (body) => Boolean(body) && bodyText(body).toLowerCase().includes(wanted);
  const found = records.filter(
    ({ request }) =>
      holds(request.body) ||
      holds(request.response?.body) ||
      request.messages.some((message) => holds(message.data)),
  );
  return new Set(found.map(({ request }) => request.sequence));
}

export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

export function bodyText(base64) {
  return new TextDecoder().decode(bytesOf(base64));
}
