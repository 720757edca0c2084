// The log: what passes the filter, the newest first; new lines come by themselves.

import { address, byId, clock, make, plural, say } from "./page.js";

const MOST_ROWS = 2000;
const WAIT_MS = 250; // gathers keystrokes, and events that come together

export class LogPanel {
  constructor(name) {
    this.address = `/log/${address(name)}`;
    this.form = byId("filter");
    this.rows = byId("log-rows");
    this.older = byId("older");
    [this.last, this.oldest, this.asked, this.anew] = [0, 0, 0, true];
    this.form.addEventListener("input", () => this.refresh(true));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.older.addEventListener("click", () => this.load({ before: this.oldest }));
  }

  // The journal has so many lines now; `reset`: it is another one.
  grow(lines, reset) {
    if (reset || lines > this.last) this.refresh(reset);
  }

  sites(names) {
    const select = this.form.elements.site;
    if (select.options.length - 1 === names.length) return;
    const chosen = select.value;
    const option = (name) => make("option", { value: name }, name);
    select.replaceChildren(make("option", { value: "" }, "all"), ...names.map(option));
    select.value = names.includes(chosen) ? chosen : "";
  }

  // Look for new lines soon; `anew`: for all that pass the filter.
  refresh(anew) {
    this.anew ||= anew;
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      this.load(this.anew ? {} : { after: this.last });
      this.anew = false;
    }, WAIT_MS);
  }

  async load(part) {
    const asked = (this.asked += 1);
    const query = new URLSearchParams({ ...Object.fromEntries(new FormData(this.form)), ...part });
    const answer = await fetch(`${this.address}?${query}`).catch(() => null);
    if (!answer?.ok) return; // the stream says that there is no connection, and comes back
    const page = await answer.json();
    if (asked !== this.asked) {
      // a later answer is on its way; what this one would have added must not be missed
      this.anew = true;
      this.refresh(true);
      return;
    }
    if (part.after !== undefined && page.more) return this.refresh(true); // too many to add
    this.put(page, part);
  }

  put(page, part) {
    const rows = page.entries.map(row);
    if (part.before !== undefined) this.rows.append(...rows);
    else if (part.after !== undefined) this.rows.prepend(...rows);
    else this.rows.replaceChildren(...rows);
    while (this.rows.children.length > MOST_ROWS && part.before === undefined) this.rows.lastChild.remove();
    if (part.before === undefined) this.last = page.last;
    if (part.after === undefined) this.older.hidden = !page.more;
    this.oldest = Number(this.rows.lastChild?.dataset.line ?? 0);
    const count = this.rows.children.length;
    const shown = count ? `${plural(count, "line")}${this.older.hidden ? "" : ", and older ones"}` : "nothing passes this filter";
    const kept = page.kept > 1 && this.older.hidden ? `; lines before ${page.kept} are in journal.jsonl only` : "";
    say(byId("log-found"), shown + kept);
  }
}

function row({ number, time, kind, round, site, text }) {
  const when = new Date(time);
  return make(
    "tr",
    { class: `kind-${kind}`, "data-line": number },
    make("td", {}, make("time", { datetime: time, title: `line ${number}` }, clock(when))),
    make("td", { class: "n" }, round === null ? "" : String(round)),
    make("td", {}, site),
    make("td", {}, text),
  );
}
