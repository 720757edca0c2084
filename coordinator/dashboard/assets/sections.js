// The sections of a run's page that are text and tables.

import { filled, swatch } from "./charts.js";
import { estimate, timeLeft } from "./estimate.js";
import { byId, bytes, digest, draw, duration, make, plural, say, share, time } from "./page.js";

const STATES = {
  "not begun": "not begun",
  running: "running",
  silent: "nothing heard for longer than a round may take",
  stopped: "stopped early",
  closed: "closed",
};

export function showTop(run, clock) {
  const { study, now, journal } = run;
  const state = journal.trouble ? "damaged" : now.state;
  document.title = `${now.state === "running" ? `Round ${now.round} · ` : ""}${study.study ?? byId("main").dataset.name} – ppfl`;
  if (study.study) say(byId("study"), study.study);
  byId("state").className = `state ${state}`;
  say(byId("state"), STATES[now.state]);
  byId("report").hidden = !run.report;
  say(byId("sentence"), sentence(run));
  byId("complete").value = study.rounds ? (now.complete ?? 0) / study.rounds : 0;
  say(byId("time"), timing(run, clock));
  notes(run);
  figures(run);
}

function sentence({ study, now, journal }) {
  if (!study.study) return "The study has not begun: its journal says nothing of it yet.";
  if (now.state === "closed") return `All ${plural(study.rounds, "round")} are complete; the sites hold the model.`;
  if (now.state === "stopped") return `Ended after ${now.complete} of ${plural(study.rounds, "round")}: ${now.failure}`;
  if (now.round === now.complete && now.complete >= study.rounds) return `All ${study.rounds} rounds are complete; the sites open and test the last model.`;
  if (!now.asked) return `The sites are enrolling; ${plural(study.rounds, "round")} to come.`;
  if (now.round === now.complete) return `Round ${now.round} of ${study.rounds} is complete; the next one begins.`;
  const failed = now.failed ? `, ${now.failed} failed` : "";
  return `Round ${now.round} of ${study.rounds}: ${now.answered} of ${plural(now.asked, "site")} have answered${failed}.`;
}

function timing({ study, now, sites }, clock) {
  if (!now.last) return "";
  if (now.state === "closed") return `It took ${duration(now.seconds)}.`;
  const ago = `The last event came ${duration(Math.max(clock - now.last, 0))} ago.`;
  if (now.state !== "running") return ago;
  const left = timeLeft(Object.values(sites), { ...now, rounds: study.rounds }, clock);
  if (left.round === null) return ago;
  const all = left.all === null ? "" : `, ${duration(left.all)} in all`;
  return `About ${duration(left.round)} left in this round${all}. ${ago}`;
}

function notes({ study, journal }) {
  const found = [];
  if (journal.read < 1) found.push(`${Math.floor(100 * journal.read)} % of the journal was read. Until it is 100 %, counts, curves and past alarms are of its last lines only.`);
  if (journal.trouble) found.push(`The journal cannot be read to its end. ${journal.trouble}.`);
  if (journal.torn) found.push(`${plural(journal.torn, "line")} of the journal, torn by a crash, ${journal.torn === 1 ? "was" : "were"} left out.`);
  if (study.earlier_runs) found.push(`This journal holds ${study.earlier_runs + 1} runs; the last one is shown, and all are in the log.`);
  if (study.resumed_after) found.push(`The run went on after round ${study.resumed_after}.`);
  if (study.protection === "none") found.push("Nothing is encrypted in this run: it is for comparison only.");
  const box = byId("notes");
  if (box.dataset.said === found.join()) return;
  box.dataset.said = found.join();
  box.replaceChildren(...found.map((text) => make("p", { class: "note" }, text)));
}

function figures({ study, now, validation, sites }) {
  const round = Math.max(...Object.keys(validation).map(Number), -1);
  const last = validation[round];
  const where = round < 0 ? "after the first rounds" : round ? `after round ${round}` : "before training";
  const up = Object.values(sites).map((site) => site.up);
  const rows = [
    ["Accuracy", share(last?.accuracy), where],
    ["Mean AUROC", share(last?.macro_auroc), where],
    ["Rounds complete", study.rounds ? `${now.complete} of ${study.rounds}` : "–", now.round_s ? `${duration(now.round_s)} each of late` : ""],
    ["Sites", study.sites ? String(study.sites.length) : "–", study.sites ? `at least ${study.minimum_sites} in each round` : ""],
    ["Sent by each site", up.length ? bytes(Math.max(...up)) : "–", study.study_bytes_up ? `of ${bytes(study.study_bytes_up)} in all` : ""],
  ];
  const list = byId("figures");
  if (!list.children.length) {
    list.append(...rows.map(([label]) => make("div", {}, make("dt", {}, label), make("dd", {}, make("span"), make("small")))));
  }
  rows.forEach(([, value, about], n) => {
    say(list.children[n].querySelector("span"), value);
    say(list.children[n].querySelector("small"), about);
  });
}

export function showSites(run, names, clock) {
  const body = byId("site-rows");
  fit(body, names, (name) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, make("span"), make("small")), make("td"), make("td", { class: "n" }), make("td", { class: "n extra" }), make("td", { class: "n extra" })),
  );
  names.forEach((name, n) => {
    const site = run.sites[name];
    if (!site) return;
    const [, phase, progress, left, took, updates] = body.children[n].children;
    const found = estimate(site, clock);
    phase.firstChild.className = ["lost", "late", "refused", "stopped"].includes(found.phase) ? "bad" : "";
    say(phase.firstChild, found.phase);
    const over = found.over ? `${duration(found.over)} longer than last time` : "";
    say(phase.lastChild, site.note || (site.sent === null ? over : `${bytes(site.sent)} have come in`));
    if (found.part === null) progress.replaceChildren();
    else {
      if (!progress.firstChild) progress.append(make("progress", { max: 1, "aria-label": `${name} in round ${site.round}` }));
      progress.firstChild.value = found.part;
    }
    say(left, found.left === null ? "" : duration(found.left));
    say(took, site.left.updates[0] ? duration(site.seconds) : "–");
    say(updates, String(site.left.updates[0]));
  });
}

export function showAlarms(run) {
  const alarms = Object.values(run.alarms).sort((a, b) => b.time - a.time);
  const [active, past] = [alarms.filter((alarm) => alarm.active), alarms.filter((alarm) => !alarm.active)];
  byId("quiet").hidden = active.length > 0;
  byId("alarms").replaceChildren(...active.map(alarmRow));
  byId("past").hidden = past.length === 0;
  byId("past-alarms").replaceChildren(...past.slice(0, 100).map(alarmRow));
  say(byId("past").querySelector("summary"), plural(past.length, "past alarm"));
  say(byId("spoken"), active.length ? `${plural(active.length, "alarm")}. ${active[0].sentence}` : "");
}

const ALARMS = {
  quorum: "Quorum at risk",
  ended: "Ended early",
  clipping: "Clipping",
  "site-lost": "Site lost",
  "site-late": "Site late",
  "site-refused": "Site refuses",
  "metrics-disagree": "Metrics disagree",
  "model-disagrees": "Models disagree",
  "mean-xrays-disagree": "Mean X-rays disagree",
  "images-disagree": "Numbers of images disagree",
  "not-countersigned": "Not countersigned",
};

function alarmRow({ code, first, last, times, sentence: text, time: when }) {
  const rounds = first === last ? `round ${last}` : `rounds ${first} to ${last}`;
  const place = `${last ? `${rounds}, ` : ""}${times > 1 ? `${times} times, the last ` : ""}`;
  return make("li", {}, make("b", {}, ALARMS[code]), `: ${text}`, make("time", {}, place, time(when).textContent));
}

// Parts of a round that follow one another, in the order of their looks.
export const PHASES = ["open", "evaluate", "train", "seal", "add"];

export function showTimes(run, names) {
  const legend = byId("time-legend");
  fit(legend, PHASES, (phase, n) => make("li", {}, swatch(n), phase));
  const rows = names.map((name) => PHASES.map((phase) => run.sites[name]?.phase_seconds[phase] ?? 0));
  showStacks(byId("site-times"), names, rows, (row) => duration(row.reduce((sum, part) => sum + part, 0)));
}

export function showBytes(run, names) {
  fit(byId("byte-legend"), ["sent", "received"], (what, n) => make("li", {}, swatch(n), what));
  const rows = names.map((name) => [run.sites[name]?.up ?? 0, run.sites[name]?.down ?? 0]);
  showStacks(byId("bytes"), names, rows, ([up, down]) => `${bytes(up)} / ${bytes(down)}`);
}

// A bar for each name, of as many parts as its row has numbers.
function showStacks(list, names, rows, tell) {
  const part = (_, look) => draw("g", {}, ...filled(look, (paint) => draw("rect", { height: "100%", ...paint })));
  fit(list, names, (name, n) => make("li", {}, make("span", {}, name), draw("svg", { "aria-hidden": "true" }, ...rows[n].map(part)), make("span")));
  const most = Math.max(1e-3, ...rows.map((row) => row.reduce((sum, size) => sum + size, 0)));
  rows.forEach((row, n) => {
    let begin = 0;
    row.forEach((size, k) => {
      for (const rect of list.children[n].querySelector("svg").children[k].children) {
        rect.setAttribute("x", `${(100 * begin) / most}%`);
        rect.setAttribute("width", `${(100 * size) / most}%`);
      }
      begin += size;
    });
    say(list.children[n].lastChild, tell(row));
  });
}

export function showLeft(run, names) {
  const { study } = run;
  const sealed = study.protection === "none" ? "Nothing was encrypted in this run." : `How many times, and how many bytes; all but what is in the clear is sealed with ${study.protection}, so that the coordinator cannot open it.`;
  say(byId("left-what"), study.study ? `${sealed} No X-ray leaves a hospital.` : "");
  const body = byId("left-rows");
  fit(body, names, (name) => make("tr", {}, make("th", { scope: "row" }, name), ...["n", "n", "n", "n", "n extra"].map((kind) => make("td", { class: kind }))));
  names.forEach((name, n) => {
    const site = run.sites[name];
    if (!site) return;
    const cells = [...body.children[n].children].slice(1);
    [site.left.enrolments, site.left.updates, site.left.mean_xrays].forEach(([count, size], k) => {
      say(cells[k], count ? `${count} · ${bytes(size)}` : "–");
    });
    say(cells[3], site.left.clear ? bytes(site.left.clear) : "–");
    say(cells[4], bytes(site.up + site.left.clear));
  });
}

export function showKey(run) {
  const { study } = run;
  if (!study.study) return;
  const custody = { shared: "shared: every site holds the private key, the coordinator does not", threshold: "threshold: only several sites together can open a sum" };
  const versions = Object.entries(study.versions).map(([name, version]) => `${name} ${version}`).join(", ");
  const rows = [
    ["Key", study.key_bits ? make("code", {}, digest(study.key_fingerprint)) : "none"],
    ["Custody", custody[study.custody] ?? study.custody],
    ["Protection", study.protection],
    ["Study", make("code", {}, digest(study.study_fingerprint))],
    ["Classes", study.classes.join(", ")],
    ["An update", `${study.values.toLocaleString("en")} integers, ${bytes(study.update_bytes)}`],
    ["A round's deadline", duration(study.deadline_s)],
    ["Begun", time(study.begun)],
    ["Versions", versions],
  ];
  if (run.now.model_sha256) rows.push(["Model", make("code", {}, digest(run.now.model_sha256))]);
  byId("key-rows").replaceChildren(...rows.flatMap(([label, value]) => [make("dt", {}, label), make("dd", {}, value)]));
}

export function showTest(run) {
  const rounds = Object.keys(run.test);
  const box = byId("test");
  if (!rounds.length) return box.replaceChildren();
  const metrics = run.test[rounds.at(-1)];
  const head = ["Class", "Images", "AUROC", "Sensitivity", "Specificity"].map((text, n) => make("th", { scope: "col", class: n ? "n" : "" }, text));
  const rows = Object.entries(metrics.classes).map(([name, row]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "n" }, String(row.images ?? "–")), ...["auroc", "sensitivity", "specificity"].map((key) => make("td", { class: "n" }, share(row[key])))),
  );
  const about = `The model on ${metrics.images} test images of all sites, of patients it was not trained on: accuracy ${share(metrics.accuracy)}, mean AUROC ${share(metrics.macro_auroc)}.`;
  box.replaceChildren(make("h3", {}, "Test"), make("p", {}, about), make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "test by class" }, make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows))));
}

export function showMetricsTable(run) {
  const classes = run.study.classes ?? [];
  const head = ["Round", "Accuracy", "Balanced", "Mean AUROC", "Loss", ...classes.map((name) => `AUROC ${name}`)];
  const rows = Object.entries(run.validation).map(([round, metrics]) => {
    const values = [metrics.accuracy, metrics.balanced_accuracy, metrics.macro_auroc, metrics.loss, ...classes.map((name) => metrics.classes[name]?.auroc)];
    return make("tr", {}, make("th", { scope: "row" }, round), ...values.map((value) => make("td", { class: "n" }, share(value))));
  });
  byId("metrics-table").replaceChildren(make("thead", {}, make("tr", {}, ...head.map((text, n) => make("th", { scope: "col", class: n ? "n" : "" }, text)))), make("tbody", {}, ...rows));
}

// One child for each name, made when the names change.
function fit(list, names, create) {
  const key = names.join("\n");
  if (list.dataset.names === key) return;
  list.dataset.names = key;
  list.replaceChildren(...names.map(create));
}
