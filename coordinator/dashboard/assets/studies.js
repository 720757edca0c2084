// The list of studies.

import { address, byId, make, share, time } from "./page.js";
import { follow } from "./stream.js";

follow("/events", (runs) => {
  byId("none").hidden = runs.length > 0;
  byId("list").hidden = runs.length === 0;
  byId("studies").replaceChildren(...runs.sort((a, b) => b.last - a.last).map(row));
});

function row(run) {
  const state = run.trouble ? "damaged" : run.state;
  const reading = run.read < 1 ? ` (read ${Math.floor(100 * run.read)} %)` : "";
  const link = make("a", { href: `/runs/${address(run.name)}` }, run.study || run.name);
  const where = run.study && run.study !== run.name ? make("small", {}, run.name) : "";
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, link, where),
    make("td", {}, make("span", { class: `state ${state}` }, state + reading), run.trouble ? make("small", {}, run.trouble) : ""),
    make("td", { class: "n" }, run.rounds ? `${run.complete} of ${run.rounds}` : "–"),
    make("td", { class: "n extra" }, run.sites ? String(run.sites) : "–"),
    make("td", { class: "n" }, share(run.accuracy)),
    make("td", { class: run.alarms ? "n bad" : "n" }, String(run.alarms)),
    make("td", { class: "extra" }, run.last ? time(run.last) : "–"),
  );
}
