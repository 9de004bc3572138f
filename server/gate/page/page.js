// The door, the link to the gate, and when what is drawn. Nothing is kept beyond this page's memory.
import { el, clock, focusOn } from "./base.js";
import * as parts from "./parts.js";
import * as acts from "./acts.js";

const EVERY = 4000; // ms
const PATIENCE = 10000; // ms that an answer may take
const IDLE = 30 * 60000; // ms without a person after which the key is forgotten
const $ = (id) => document.getElementById(id);

let key = null; // here alone: no storage, no address, no cookie
let view = null;
let drawn = {}; // JSON of each part as it is on the screen
let timer = 0;
let used = Date.now();
let round = 0; // of looks: what comes after a later one was begun is dropped

class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

/** JSON of the gate. Throws Refused where it answered no, and TypeError where it did not answer. */
async function call(path, body) {
  const answer = await fetch(`/v1/operator/${path}`, {
    method: body === undefined ? "GET" : "POST",
    headers: { Authorization: `Bearer ${key}`, ...(body && { "Content-Type": "application/json" }) },
    body: body && JSON.stringify(body),
    cache: "no-store",
    credentials: "omit",
    mode: "same-origin",
    redirect: "error",
    referrerPolicy: "no-referrer",
    signal: AbortSignal.timeout(PATIENCE),
  });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, told.reason ?? `the gate says ${answer.status}`);
  return told;
}

/** Do something as this key's holder, and show what came of it. Throws what `call` does. */
async function act(name, body) {
  const told = await call(name, body);
  refresh();
  return told;
}

async function refresh() {
  clearTimeout(timer);
  if (key === null) return;
  const mine = ++round;
  try {
    const told = await call("view");
    if (mine !== round) return;
    view = told;
    draw();
    say(`Live, ${clock(told.at)}`, "live");
  } catch (failed) {
    if (mine !== round) return;
    if (failed.status === 401 || failed.status === 403) return forget(`The gate says: ${failed.message}.`);
    lost(failed);
  }
  clearTimeout(timer);
  timer = setTimeout(tick, EVERY);
}

function tick() {
  if (key === null) return;
  if (Date.now() - used > IDLE) return forget("Nobody was here for half an hour: the key is forgotten.");
  if (document.hidden) timer = setTimeout(tick, EVERY);
  else refresh();
}

function lost(failed) {
  const since = view ? `; this is of ${clock(view.at)}` : "";
  const why = failed.status ? `The gate says: ${failed.message}` : "No connection to the gate";
  say(`${why}${since}. Trying again`, "lost");
  if (view === null) $("refused").textContent = `${why}.`;
}

function say(text, state) {
  const link = $("link");
  link.dataset.state = state;
  $("view").classList.toggle("stale", state === "lost");
  // Read out when it is lost and found, and not every four seconds.
  link.setAttribute("aria-live", state === link.dataset.was ? "off" : "polite");
  link.dataset.was = state;
  link.textContent = text;
}

function draw() {
  const { me, gate } = view;
  $("door").hidden = true;
  $("view").hidden = $("forget").hidden = $("me").hidden = false;
  $("model").textContent = gate.model;
  $("me").replaceChildren(`${me.role} of ${me.organisation}, `, el("code", {}, me.key));
  put("notices", parts.notices(view), [gate, view.keys, view.drift, view.requests.length]);
  put("summary", view.keys && parts.summary(view), [view.keys, view.decisions?.denied, gate.log, view.drift]);
  part("requests", acts.isOneOfTwo(me) && parts.requests(view, offer), [view.requests, me],
    acts.isOneOfTwo(me) && [button("Ask for something", () => open(acts.ask(view)))]);
  part("keys", view.keys && parts.keys(view, filters(), offer), [view.keys, me, filters(), Math.floor(view.at / 60)],
    acts.issuable(me).length > 0 && [button("Issue a key", () => open(acts.issue(view)))]);
  part("organisations", view.organisations && parts.organisations(view), view.organisations);
  part("drift", view.drift && parts.drift(view), [view.drift, Math.floor(view.at / 60)]);
  part("decisions", view.decisions && parts.decisions(view), view.decisions);
  part("log", parts.log(view), [gate, me]);
}

/** A section, hidden where this key sees none of it. */
function part(id, nodes, data, tools) {
  $(id).hidden = !nodes;
  put(`${id} .body`, nodes, data);
  if ($(id).querySelector(".tools")) put(`${id} .tools`, tools, Boolean(tools));
}

/** New content where its data are new; what had the focus has it again. */
function put(where, nodes, data) {
  const json = JSON.stringify(data);
  if (drawn[where] === json) return;
  drawn[where] = json;
  const target = document.querySelector(`#${where}`);
  const focus = target.contains(document.activeElement) && document.activeElement.dataset.focus;
  target.replaceChildren(...[nodes || []].flat());
  if (focus) focusOn(focus);
}

function filters() {
  return { find: $("find").value.trim().toLowerCase(), ended: $("ended").checked };
}

function button(label, onclick) {
  return el("button", { type: "button", onclick, "data-focus": label }, label);
}

/** What a part may offer to be done: opens the dialog of an act by its name. */
function offer(name, about) {
  open(acts[name](view, about));
}

function open(dialog) {
  acts.show($("dialog"), dialog, act);
}

function forget(reason) {
  key = view = null;
  round += 1;
  drawn = {};
  clearTimeout(timer);
  $("dialog").close();
  $("dialog").replaceChildren();
  for (const each of document.querySelectorAll("#notices, #summary, #view .body, #view .tools, #me")) each.replaceChildren();
  $("find").value = "";
  $("model").textContent = "Operators";
  $("view").hidden = $("forget").hidden = $("me").hidden = true;
  $("door").hidden = false;
  $("refused").textContent = reason;
  say("", "away");
  $("key").focus();
}

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  $("key").value = "";
  $("refused").textContent = "";
  if (/^[\x21-\x7e]+$/.test(key)) refresh();
  else forget("No valid key.");
});
$("dialog").addEventListener("close", () => { if (key !== null) acts.closed($("dialog")); });
$("forget").addEventListener("click", () => forget("The key is forgotten."));
$("find").addEventListener("input", () => draw());
$("ended").addEventListener("change", () => draw());
for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, () => { used = Date.now(); });
addEventListener("pagehide", () => { if (key !== null) forget(""); }); // nor in the browser's back-forward cache
document.addEventListener("visibilitychange", () => { if (!document.hidden) tick(); });
