// What browsers have, and an older node has not: enough of EventSource for the lines of a page.
globalThis.EventSource ??= class extends EventTarget {
  #stop = new AbortController();

  constructor(url) {
    super();
    this.#read(url).catch((error) => {
      if (!this.#stop.signal.aborted) throw error;
    });
  }

  close() {
    this.#stop.abort();
  }

  async #read(url) {
    const answer = await fetch(url, { headers: { Accept: "text/event-stream" }, signal: this.#stop.signal });
    const decoder = new TextDecoder();
    let rest = "";
    for await (const chunk of answer.body) {
      const frames = (rest + decoder.decode(chunk, { stream: true })).split("\n\n");
      rest = frames.pop();
      for (const frame of frames) {
        const field = (name) => frame.match(new RegExp(`^${name}: (.*)$`, "m"))?.[1];
        if (field("event")) this.dispatchEvent(new MessageEvent(field("event"), { data: field("data") }));
      }
    }
  }
};
