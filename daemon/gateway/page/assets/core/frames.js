/** The frames of a `text/event-stream`, and the order of their ids. */

/**
 * Each frame of a stream; a comment is a frame without an event. `onBytes` is called for whatever comes.
 * @param {ReadableStream} body @param {() => void} onBytes
 * @returns {AsyncGenerator<{id: string, event: string, data: string}>}
 */
export async function* frames(body, onBytes) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    onBytes();
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) yield frameOf(part);
  }
}

/** Whether one event id is later than another; an empty one is earlier than all. */
export function isLater(one, other) {
  const [a, b] = [one, other].map((id) => (id || "0-0").split("-").map(Number));
  return a[0] > b[0] || (a[0] === b[0] && a[1] > b[1]);
}

function frameOf(part) {
  const frame = { id: "", event: "", data: "" };
  for (const line of part.split("\n")) {
    const colon = line.indexOf(": ");
    if (colon > 0) frame[line.slice(0, colon)] = line.slice(colon + 2);
  }
  return frame;
}
