// Which records are shown. A filter is plain data; `isShown` is asked for each record.

export const NO_FILTER = { path: "", method: "", status: "", test: "", numbers: null };

export const NO_TEST = "no test";

export function testName(record) {
  return record.test || NO_TEST;
}

export function groupName(record) {
  return record.worker ? `${testName(record)} — ${record.worker}` : testName(record);
}

// Whether nobody answered, the tunnel answered itself, or the answer is an error.
export function hasFailed(request) {
  if (request.answered_by === "tunnel" || request.error) return true;
  if (!request.response) return request.over;
  return request.response.status >= 400;
}

export function isShown(record, filter) {
  const { request } = record;
  const target = request.query ? `${request.path}?${request.query}` : request.path;
  if (filter.path && !target.toLowerCase().includes(filter.path.toLowerCase())) return false;
  if (filter.method && request.method !== filter.method) return false;
  if (filter.test && testName(record) !== filter.test) return false;
  if (filter.numbers && !filter.numbers.has(request.sequence)) return false;
  if (filter.status === "failed") return hasFailed(request);
  if (filter.status === "open") return !request.response && !request.over;
  if (filter.status) return String(request.response?.status ?? "").startsWith(filter.status);
  return true;
}
