// The door, the stream, and when what is drawn. What is told lies in `boards`, as the server has it.
import { clock } from "./base.js";
import * as parts from "./parts.js";
import { follow } from "./stream.js";

const $ = (id) => document.getElementById(id);

let token = ""; // here alone: no storage, no address, no cookie
let boards = { house: {}, run: {} };
let drawn = {}; // JSON of each part as it is on the screen
let chosen = decodeURIComponent(location.hash.slice(1));
let shown = ""; // the run that is followed
let stop = () => {};
let heard = 0;
let spoken = "";

function start() {
  stop();
  stop = follow(`/v1/live?run=${encodeURIComponent(shown)}`, token, { told, here, lost, refused });
}

/** A new run is followed from its beginning, and the old one's numbers go at once. */
function show(name) {
  if (name === shown) return;
  shown = name;
  boards.run = {};
  start();
}

function told(parts) {
  for (const [name, { anew, values }] of Object.entries(parts)) boards[name] = anew ? values : { ...boards[name], ...values };
  heard = Date.now() / 1000;
  choose();
  requestAnimationFrame(draw);
}

/** The run that was asked for, else one that goes on, else the last. */
function choose() {
  const runs = boards.house.runs?.shown ?? [];
  const known = (name) => runs.some((each) => each.name === name);
  if (chosen && known(chosen)) show(chosen);
  else if (!known(shown) && runs.length) show((runs.find((each) => each.status === "running") ?? runs[0]).name);
}

function here() {
  heard = Date.now() / 1000;
  say(`Live, ${clock(heard)}`, "live");
}

function lost(why) {
  say(`${why}${heard ? `; this is of ${clock(heard)}` : ""}. Trying again`, "lost");
}

function refused(why) {
  $("refused").textContent = token ? `The dashboard says: ${why}.` : "";
  token = "";
  boards = { house: {}, run: {} };
  drawn = {};
  shown = "";
  document.querySelectorAll("#view .body, #notices").forEach((each) => each.replaceChildren());
  $("view").hidden = true;
  $("door").hidden = false;
  $("house").textContent = "dashboard";
  $("run").textContent = "Dashboard";
  say("", "away");
  $("token").focus();
}

function say(text, state) {
  const link = $("link");
  // Read out when it is lost and found, and not with every round.
  link.setAttribute("aria-live", state === link.dataset.state ? "off" : "polite");
  link.dataset.state = state;
  $("view").classList.toggle("stale", state === "lost");
  link.textContent = text;
}

function draw() {
  if (!boards.house.runs) return;
  $("door").hidden = true;
  $("view").hidden = false;
  const { house } = boards;
  const run = shown && boards.run.now ? parts.read(boards.run) : null;
  $("house").textContent = house.name;
  $("run").textContent = run?.name ?? "No run yet";
  document.title = run ? `${run.name} ${parts.progress(run.now)}, Tacit` : "Tacit dashboard";
  put("notices", parts.notices(house, run), [run?.now.status, run?.now.ended, run?.log.fault, house.server?.logs, house.server?.processes, house.server?.troubles]);
  part("runs", (house.server || house.runs.all > 1) && parts.runs(house.runs, shown), [house.runs, shown]);
  part("summary", run && parts.summary(run), [run?.now, run?.rows.at(-1), run?.privacy, run?.log]);
  part("learning", run && parts.learning(run), [run?.rows, run?.now.rounds, run?.privacy.budget]);
  part("devices", run && parts.devices(run, columns()), [run?.rows, run?.now.left_out, columns()]);
  part("privacy", run && parts.privacy(run), run?.privacy);
  part("rounds", run?.rows.length && parts.rounds(run), run?.rows);
  part("refusals", run && parts.refusals(run), run?.refusals);
  part("server", house.server && parts.server(house.server), house.server);
  part("log", parts.log(house, run), [run?.log, house.server?.logs]);
  speak(run);
}

/** A section, hidden where there is nothing to it. */
function part(id, nodes, data) {
  $(id).hidden = !nodes;
  put(`${id} .body`, nodes, data);
}

/** New content where its data are new; what had the focus has it again. */
function put(where, nodes, data) {
  const json = JSON.stringify(data);
  if (drawn[where] === json) return;
  drawn[where] = json;
  const target = document.querySelector(`#${where}`);
  const focus = target.contains(document.activeElement) && document.activeElement.dataset.focus;
  target.replaceChildren(...[nodes || []].flat().filter(Boolean));
  if (focus) [...document.querySelectorAll("[data-focus]")].find((each) => each.dataset.focus === focus)?.focus({ preventScroll: true });
}

/** Each round is told once to who listens, in one sentence. */
function speak(run) {
  const text = run ? parts.sentence(run) : "";
  if (text !== spoken) $("spoken").textContent = spoken = text;
}

/** Rounds that the strip of devices has room for. */
function columns() {
  return Math.max(8, Math.min(60, Math.floor(($("main").clientWidth - 150) / 19)));
}

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  $("refused").textContent = "";
  if (/^[\x21-\x7e]+$/.test(token)) start();
  else refused("no valid token");
});
addEventListener("hashchange", () => {
  chosen = decodeURIComponent(location.hash.slice(1));
  choose();
  draw();
});
addEventListener("resize", () => requestAnimationFrame(draw));
start();
