// Server-sent events, and what to do when they end: say so, and come back.

import { byId, say } from "./page.js";

const AGAIN_MS = 2000;

// Call `take` with each message's content. The browser itself comes back after a broken line and
// tells the server what it has; it gives up when it is refused, for instance without a session.
export function follow(address, take) {
  const link = byId("link");
  const show = (text, kind) => {
    say(link, text);
    link.className = `link ${kind}`;
  };
  const source = new EventSource(address);
  source.onmessage = (event) => {
    show("live", "on");
    take(JSON.parse(event.data));
  };
  source.onopen = () => show("live", "on");
  source.onerror = async () => {
    show("no connection, trying again", "off");
    if (source.readyState !== EventSource.CLOSED) return;
    setTimeout(() => follow(address, take), AGAIN_MS);
    const answer = await fetch(location.pathname, { redirect: "manual" }).catch(() => null);
    if (answer?.type === "opaqueredirect" || answer?.status === 401) location.assign("/login");
  };
  addEventListener("pagehide", () => source.close());
}
