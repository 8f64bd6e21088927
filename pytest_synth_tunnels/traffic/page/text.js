// Bytes and texts of recorded bodies, which records hold as base64.

export function bytesOf(base64) {
  return binaryBytes(atob(base64));
}

// The bytes of a text that has one character for each.
export function binaryBytes(text) {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

// Bytes as a text that has one character for each.
export function binaryText(bytes) {
  const pieces = [];
  for (let start = 0; start < bytes.length; start += 8192) {
    pieces.push(String.fromCharCode(...bytes.subarray(start, start + 8192)));
  }
  return pieces.join("");
}

export function bodyText(base64) {
  return new TextDecoder().decode(bytesOf(base64));
}

// The bytes as text, or null if they are none.
export function textOf(bytes) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return /[\0-\x08\x0e-\x1f]/.test(text) ? null : text;
  } catch {
    return null;
  }
}
