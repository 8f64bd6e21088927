// Bytes and texts of recorded bodies, which records hold as base64.

export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
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
