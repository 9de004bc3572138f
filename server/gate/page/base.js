// Pieces of pages, as nodes. Every text goes in as text: strangers choose some of them.

/** An element. `set` are attributes, but for functions, which listen: onclick. */
export function el(name, set = {}, ...inside) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(set)) {
    if (typeof value === "function") made.addEventListener(attribute.slice(2), value);
    else if (value === true) made.setAttribute(attribute, "");
    else if (value !== false && value != null) made.setAttribute(attribute, value);
  }
  made.append(...inside.flat().filter((each) => each != null && each !== false));
  return made;
}

/** What has this name for it, or the page where nothing has it any more. */
export function focusOn(name) {
  const found = [...document.querySelectorAll("[data-focus]")].find((each) => each.dataset.focus === name);
  (found ?? document.querySelector("#main")).focus({ preventScroll: true });
}

const pad = (number) => String(number).padStart(2, "0");
export const count = (number) => number.toLocaleString("en");
export const many = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;
export const share = (of) => `${Math.round(100 * of)}\u00a0%`;

export function clock(at) {
  const time = new Date(at * 1000);
  return [time.getHours(), time.getMinutes(), time.getSeconds()].map(pad).join(":");
}

export function day(at) {
  const time = new Date(at * 1000);
  return `${time.getFullYear()}-${pad(time.getMonth() + 1)}-${pad(time.getDate())}`;
}

export function when(at) {
  return el("time", { datetime: new Date(at * 1000).toISOString() }, `${day(at)} ${clock(at).slice(0, 5)}`);
}

export function until(at, now) {
  const days = Math.round((at - now) / 86400);
  if (at <= now) return `ended ${day(at)}`;
  return days > 1 ? `in ${count(days)} days` : `${day(at)} ${clock(at).slice(0, 5)}`;
}

export const code = (text) => el("code", {}, text);
export const empty = (text) => el("p", { class: "empty" }, text);
export const badge = (state) => el("span", { class: `badge ${state}` }, state);

/** How much of something is gone. The number beside it says the same. */
export function bar(label, value, of, kind) {
  const full = of > 0 ? Math.min(1, value / of) : Number(value > 0);
  const level = kind ?? (full >= 0.9 ? "bad" : full >= 0.6 ? "warm" : "calm");
  const made = el("div", {
    class: `bar ${level}`, role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(100 * full),
  }, el("div"));
  made.firstChild.style.width = `${100 * full}%`;
  return made;
}

export function table(heads, rows, name, caption) {
  return el("table", { class: name },
    caption && el("caption", {}, caption),
    el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, i) =>
      el(i ? "td" : "th", { "data-head": heads[i], scope: i ? null : "row", class: cell === null && "none" }, cell))))));
}

