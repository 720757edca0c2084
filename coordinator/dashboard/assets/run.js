// One run's page: keeps what the server sent, and draws again what has changed.

import { Bars, Curves, Cursor } from "./charts.js";
import { LogPanel } from "./log.js";
import { address, byId } from "./page.js";
import { PHASES, showAlarms, showBytes, showKey, showLeft, showMetricsTable, showSites, showTest, showTimes, showTop } from "./sections.js";
import { follow } from "./stream.js";

const SINGLE = ["study", "now"];
const name = byId("main").dataset.name;
const log = new LogPanel(name);
const cursor = new Cursor(byId("round"), byId("round-shown"));
const times = new Bars("Time of a round by phase", "seconds, at the median site", cursor);
const walls = new Bars("Time from start to end of a round", "seconds", cursor);
byId("times").append(times.figure, walls.figure);

let run = empty();
let ahead = 0; // seconds by which the server's clock is ahead of this one
let drawing = false;
const changed = new Set();
let curves = [];

function empty() {
  return { study: {}, now: { state: "not begun" }, sites: {}, rounds: {}, validation: {}, test: {}, alarms: {}, journal: { read: 1 }, report: false };
}

follow(`/events/${address(name)}`, (message) => {
  if (message.reset) run = empty();
  ahead = message.time - Date.now() / 1000;
  run.journal = message.journal;
  run.report = message.report;
  for (const [section, value] of Object.entries(message.parts)) {
    if (SINGLE.includes(section)) run[section] = value;
    else Object.assign(run[section], value);
  }
  const sections = message.reset ? Object.keys(run) : Object.keys(message.parts);
  for (const section of sections) changed.add(section);
  log.grow(run.journal.lines, message.reset);
  soon();
});

setInterval(() => {
  if (run.now.state === "running") changed.add("clock");
  soon();
}, 1000);
byId("as-table").addEventListener("toggle", () => {
  changed.add("validation");
  soon();
});

function soon() {
  if (drawing || !changed.size) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const parts = new Set(changed);
    changed.clear();
    paint(parts);
  });
}

function paint(parts) {
  const has = (...sections) => sections.some((section) => parts.has(section));
  const clock = Date.now() / 1000 + ahead;
  const names = run.study.sites ?? Object.keys(run.sites);
  showTop(run, clock);
  if (has("sites", "clock", "study")) showSites(run, names, clock);
  if (has("alarms")) showAlarms(run);
  if (has("study")) {
    showKey(run);
    log.sites(names);
    curves = makeCurves(run.study.classes ?? []);
  }
  if (has("sites", "study")) {
    showTimes(run, names);
    showBytes(run, names);
    showLeft(run, names);
  }
  if (has("rounds", "validation", "study")) showCharts();
  if (has("test", "study")) showTest(run);
  if (has("validation", "study") && byId("as-table").open) showMetricsTable(run);
}

// One chart for each group of metrics that belong together; a class has one colour everywhere.
function makeCurves(classes) {
  cursor.charts = [times, walls];
  const chart = (title, unit, own, ofClass, options) => {
    const made = new Curves(title, unit, cursor, options);
    const series = own.map(([label, key], n) => ({ label, look: n, pick: (metrics) => metrics[key] }));
    const pick = (label) => (metrics) => metrics.classes?.[label]?.[ofClass];
    const each = ofClass ? classes.map((label, n) => ({ label, look: lookOf(n), pick: pick(label) })) : [];
    return { made, series: [...series, ...each] };
  };
  const unit = "share, 0 to 1";
  const found = [
    chart("AUROC", unit, [["mean of classes", "macro_auroc"]], "auroc", { top: 1 }),
    chart("Accuracy", unit, [["accuracy", "accuracy"], ["balanced", "balanced_accuracy"]], "", { top: 1 }),
    chart("Sensitivity", unit, [], "sensitivity", { top: 1 }),
    chart("Specificity", unit, [], "specificity", { top: 1 }),
    chart("Loss", "nats", [["cross-entropy", "loss"]], ""),
    chart("Calibration", "share, 0 to 1; Brier score 0 to 2", [["expected error", "ece"], ["Brier score", "brier"]], ""),
  ];
  byId("curves").replaceChildren(...found.map(({ made }) => made.figure));
  return found;
}

// The first colour is that of the mean.
const lookOf = (n) => 1 + (n % 7) + 8 * Math.floor(n / 7);

function showCharts() {
  const newest = (rows) => Object.keys(rows).reduce((most, round) => Math.max(most, Number(round)), 0);
  cursor.extend(Math.max(newest(run.rounds), newest(run.validation)), newest(run.validation));
  for (const { made, series } of curves) {
    made.show(series.map(({ label, look, pick }) => ({ name: label, look, values: byRound(run.validation, pick) })));
  }
  times.show(PHASES.map((phase, n) => ({ name: phase, look: n, values: byRound(run.rounds, (row) => row.seconds[phase]) })));
  walls.show([{ name: "from asking to the total", look: 0, values: byRound(run.rounds, (row) => row.total) }]);
}

function byRound(rows, pick) {
  const values = [];
  for (const [round, row] of Object.entries(rows)) values[round] = pick(row) ?? null;
  return values;
}
