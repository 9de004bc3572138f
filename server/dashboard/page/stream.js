// Server-sent events by fetch: EventSource cannot send a token, and an address must not hold one.
const PATIENCE = 40000; // ms without a word after which a connection counts as lost

/**
 * Follow a stream until `stop`. `on` has: told(data) for each event, here() while it is open,
 * lost(why) when it is not, and refused(why) where a token is wanted, after which nothing is tried.
 */
export function follow(path, token, on) {
  let last = "", wait = 1000, ended = false, abort = new AbortController();

  async function once() {
    abort = new AbortController();
    let timer = 0;
    const alive = () => { clearTimeout(timer); timer = setTimeout(() => abort.abort(), PATIENCE); };
    alive();
    try {
      const answer = await fetch(path, {
        headers: { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }), ...(token && { Authorization: `Bearer ${token}` }) },
        cache: "no-store", credentials: "omit", mode: "same-origin", redirect: "error", referrerPolicy: "no-referrer", signal: abort.signal,
      });
      if (!answer.ok) {
        const { reason } = await answer.json().catch(() => ({}));
        const why = reason ?? `the dashboard says ${answer.status}`;
        if (answer.status === 401) { ended = true; on.refused(why); return; }
        throw new Error(why);
      }
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let buffer = ""; ;) {
        const { done, value } = await reader.read();
        if (done || ended) return;
        alive();
        const blocks = (buffer + value).split("\n\n");
        buffer = blocks.pop();
        blocks.forEach(hear);
        wait = 1000;
        on.here();
      }
    } finally {
      clearTimeout(timer);
    }
  }

  function hear(block) {
    for (const line of block.split("\n")) {
      if (line.startsWith("id: ")) last = line.slice(4);
      else if (line.startsWith("data: ")) on.told(JSON.parse(line.slice(6)));
    }
  }

  async function again() {
    while (!ended) {
      let why = "The connection ended";
      try {
        await once();
      } catch (failed) {
        if (failed instanceof Error && failed.name !== "AbortError" && failed.name !== "TypeError") why = failed.message;
        else why = "No connection to the dashboard";
      }
      if (ended) return;
      on.lost(why);
      await new Promise((go) => setTimeout(go, wait));
      wait = Math.min(2 * wait, 15000);
    }
  }

  again();
  return () => { ended = true; abort.abort(); };
}
