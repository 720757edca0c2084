// Small helpers: making elements, and numbers as people read them.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

// An element with attributes and children; text is never read as markup.
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

// Set an element's text only if it is another one, so that nothing is read out twice.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit && count < 100 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) return `${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.round(hours / 24)} days`;
}

// A run's name in an address: it may hold slashes, and what else a folder's name may.
export const address = (name) => name.split("/").map(encodeURIComponent).join("/");

export const share = (value) => (typeof value === "number" ? value.toFixed(3) : "–");

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

export const digest = (text) => (text.match(/.{1,4}/g) ?? []).join(" ");

const CLOCK = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const DAY = new Intl.DateTimeFormat([], { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hour12: false });

export function clock(date) {
  const today = new Date().toDateString() === date.toDateString();
  return today ? CLOCK.format(date) : DAY.format(date);
}

export const time = (seconds) => {
  const date = new Date(seconds * 1000);
  return make("time", { datetime: date.toISOString() }, clock(date));
};
