// What is drawn of the gate, part by part.
import { badge, bar, clock, code, count, day, el, empty, many, share, table, until, when } from "./base.js";

/** What somebody should know before anything else. */
export function notices({ gate, keys, drift, requests }) {
  const said = [];
  const notice = (text, kind) => said.push(el("p", { class: `notice ${kind}` }, text));
  if (gate.fault) notice(`The file of networks is not as it should be: ${gate.fault}`, "bad");
  const shown = keys ? keys.shown : [];
  const degraded = shown.filter((each) => each.state === "degraded").length;
  const suspended = shown.filter((each) => each.state === "suspended").length;
  if (degraded) notice(`${many(degraded, "key is", "keys are")} degraded: labels alone, and half the budget, until a person looks.`, "warm");
  if (suspended) notice(`${many(suspended, "key is", "keys are")} suspended, and answered nothing.`, "warm");
  if (drift?.told[0]?.moved === "world") notice("Most keys have moved: see Drift.", "warm");
  const others = requests.filter((each) => !each.is_mine).length;
  if (others) notice(`${many(others, "request waits", "requests wait")} for a second person: you, for one.`, "calm");
  return said;
}

export function summary({ keys, organisations, decisions, gate, drift }) {
  const living = keys.shown.filter((each) => !["revoked", "expired"].includes(each.state));
  const denied = Object.values(decisions.denied).reduce((sum, each) => sum + each, 0);
  const fact = (name, value, more) => el("div", {}, el("dt", {}, name), el("dd", {}, value), el("dd", { class: "hint" }, more));
  return [el("dl", { class: "facts" },
    fact("Keys in use", count(living.length), `of ${many(organisations.length, "organisation")}`),
    fact("Highest risk", living.length ? Math.max(...living.map((each) => each.risk)).toFixed(2) : "none", "of a key in use"),
    fact("Requests denied", count(denied), `since ${day(decisions.since)} ${clock(decisions.since).slice(0, 5)}`),
    fact("Drift", drift.is_watched ? share(drift.share) : "not watched", drift.is_watched ? "of the keys seen lately are off" : "this gate has no baseline"),
    fact("Log", many(gate.log.size, "entry", "entries"), `root ${gate.log.root.slice(0, 12)}`))];
}

export function keys({ keys, me, at }, { find, ended }, offer) {
  const hasEnded = (each) => ["revoked", "expired"].includes(each.state);
  const found = keys.shown.filter((each) => (ended || !hasEnded(each)) &&
    `${each.key} ${each.organisation} ${each.role} ${each.state}`.toLowerCase().includes(find));
  const rows = found.map((each) => [
    [el("span", { class: "name" }, each.organisation), code(each.key)],
    each.role,
    badge(each.state),
    budget(each),
    risk(each),
    [until(each.expires, at), each.networks.length > 0 && el("span", { class: "hint" }, `from ${each.networks.join(", ")}`)],
    tools(each, me, offer),
  ]);
  const more = keys.all - keys.shown.length;
  return [
    rows.length ? table(["Key", "Role", "State", "Budget spent", "Risk", "Ends", "Acts"], rows, "keys")
      : empty(keys.shown.some((each) => !hasEnded(each)) || ended ? "No key is like that." : "No key is in use. Issue one for each organisation that is to ask the model."),
    more > 0 && empty(`${many(more, "key")} more, of less interest, are not shown: tacit gate key list has all of them.`),
  ].filter(Boolean);
}

function budget(each) {
  if (each.role !== "client") return null; // it asks nothing
  const short = each.left < each.allowed - each.spent;
  return el("div", { class: "budget" },
    el("span", {}, each.allowed ? `${count(each.spent)} of ${count(each.allowed)}` : `${count(each.spent)}, and none is allowed`),
    bar(`budget of ${each.key} that is spent`, each.spent, each.allowed),
    el("span", { class: "hint" }, short ? `${count(each.left)} left, for its organisation has no more` : `${count(each.left)} left`,
      each.trust > 1 && `, trust ${each.trust}`));
}

const FIGURES = {
  distance: "far from honest queries", shift: "mean is elsewhere", near: "near-duplicates",
  coverage: "labels unlike usual", unsure: "model is unsure", prada: "distances not normal (PRADA)",
};

function risk(each) {
  if (each.role !== "client") return null;
  const value = el("span", { class: each.risk >= 0.5 ? "number warm" : "number" }, each.risk.toFixed(2));
  if (!each.seen) return el("div", {}, value, el("span", { class: "hint" }, "too little seen"));
  const rows = each.seen.figures.map(({ name, value: of, excess }) => [
    FIGURES[name] ?? name, of === null ? "beyond measure" : of.toFixed(3), excess === null ? "beyond" : share(Math.max(0, excess))]);
  return el("details", { "data-open": `risk ${each.key}`, open: opened.has(`risk ${each.key}`), ontoggle: toggled },
    el("summary", { "data-focus": `risk ${each.key}` }, value, el("span", { class: "hint" }, each.seen.is_flagged ? "beyond honest use" : "figures")),
    el("p", { class: "hint" }, `Last window: risk ${each.seen.risk.toFixed(2)}. The key's own only rises, until a person restores it.`),
    table(["Figure", "Value", "Of limit"], rows, "figures"));
}

const opened = new Set(); // details that are open, so that they are so after a redraw

function toggled(event) {
  const name = event.target.dataset.open;
  if (event.target.open) opened.add(name);
  else opened.delete(name);
}

function tools(each, me, offer) {
  const led = ["client", "viewer"].includes(each.role);
  const issues = me.may.includes(led ? "issue keys" : "appoint");
  const judges = me.may.includes(led ? "judge keys" : "appoint");
  const tool = (name, label) => el("button", {
    type: "button", class: "small", "data-focus": `${name} ${each.key}`, "aria-label": `${label} the key ${each.key} of ${each.organisation}`,
    onclick: () => offer(name, each),
  }, label);
  if (each.state === "revoked") return null;
  const made = [
    judges && each.state !== "suspended" && tool("suspend", "Suspend"),
    judges && (each.state !== "ok" || each.risk > 0) && tool("restore", "Restore"),
    issues && tool("rotate", "Rotate"),
    issues && tool("revoke", "Revoke"),
    me.may.includes("raise budgets") && each.role === "client" && tool("ask", "Raise"),
  ].filter(Boolean);
  return made.length ? el("div", { class: "tools" }, made) : null;
}

export function organisations({ organisations: all }) {
  if (!all.length) return empty("No organisation has a key.");
  return table(["Organisation", "Keys", "Budget spent"], all.map((each) => [
    el("span", { class: "name" }, each.organisation), count(each.keys),
    el("div", { class: "budget" }, el("span", {}, `${count(each.spent)} of ${count(each.allowed)}`),
      bar(`budget of ${each.organisation} that is spent`, each.spent, each.allowed)),
  ]), "organisations");
}

export function requests({ requests: all, me, at }, offer) {
  const codes = me.has_codes ? [] : [empty("You cannot approve anything yet, for your key has no one-time codes: tacit gate totp enrol sets them up.")];
  if (!all.length) return [empty("Nothing waits."), ...codes];
  return [el("ul", { class: "list" }, all.map((each) => el("li", {},
    el("div", {}, el("strong", {}, each.deed), " of ", code(each.subject), each.amount > 0 && `, ${count(each.amount)} answers`,
      el("span", { class: "hint" }, "asked by ", code(each.asked_by), `, waits until ${day(each.ends)} ${clock(each.ends).slice(0, 5)}`)),
    each.is_mine ? el("span", { class: "soft" }, "yours: another person has to approve")
      : el("button", { type: "button", "data-focus": `approve ${each.number}`, disabled: !me.has_codes, onclick: () => offer("approve", each) }, "Approve")))), ...codes];
}

export function drift({ drift: it }) {
  if (!it.is_watched) return empty("This gate has no baseline of honest use, so nobody watches for drift.");
  const now = el("p", {}, `Of the keys seen in the last day ${share(it.share)} are off.`);
  if (!it.told.length) return [now, empty("Nothing has moved since the gate was opened.")];
  return [now, el("ul", { class: "list" }, it.told.map((each) => el("li", {}, el("div", {},
    el("strong", {}, each.moved === "world" ? "Most keys moved" : "One key moved"), " ", when(each.at),
    el("p", {}, `${each.advice}.`),
    el("p", { class: "hint" }, each.moved === "world" ? `${share(each.share)} of the keys: ` : "", each.keys.flatMap((key) => [code(key), " "]),
      each.change && `mean confidence of all answers ${each.change[0].toFixed(2)}, then ${each.change[1].toFixed(2)}`)))))];
}

const STAGES = {
  key: "no good key, or not from there", scope: "more than the key may", budget: "more than is left",
  validate: "no good request", model: "the model was busy or failed", log: "the log could not be kept", records: "the records could not be kept",
};

const who = (by) => (by === "gate" ? "the gate" : code(by));

function words(line) {
  switch (line.event) {
    case "Judged": return [badge(line.now), " ", code(line.key), `, which was ${line.was}, by `, who(line.by), `: ${line.reason}`];
    case "KeyIssued": return ["Key ", code(line.key), ` for ${line.organisation}, ${line.role}, by `, who(line.by)];
    case "KeyRenewed": return ["Key ", code(line.key), ` has a new ${line.what === "totp" ? "seed of codes" : line.what}, by `, who(line.by)];
    case "KeyRevoked": return [badge("revoked"), " ", code(line.key), " by ", who(line.by)];
    case "Approved": return [el("strong", {}, line.act), " of ", code(line.subject), ", asked by ", code(line.asked), ", approved by ", code(line.by)];
    case "GateOpened": return ["The gate was opened for ", code(line.digest.slice(0, 16)), `, and tells ${line.detail}`];
    default: return [line.event];
  }
}

export function decisions({ decisions: { since, denied, denials, lately } }) {
  const stages = Object.entries(denied).sort((a, b) => b[1] - a[1]);
  const most = Math.max(...stages.map(([, requests]) => requests), 1);
  const from = `since ${day(since)} ${clock(since).slice(0, 5)}`;
  return el("div", { class: "two" },
    el("div", {}, el("h3", {}, "Judgements and keys"), lately.length
      ? el("ol", { class: "events" }, lately.map((line) => el("li", {}, when(line.at), el("span", {}, words(line)))))
      : empty(`Nothing was decided ${from}.`)),
    el("div", {}, el("h3", {}, `Requests denied ${from}`), stages.length
      ? table(["Stage", "Requests"], stages.map(([stage, requests]) => [
        [stage, el("span", { class: "hint" }, STAGES[stage] ?? "")],
        el("div", { class: "budget" }, el("span", {}, count(requests)), bar(`share of ${stage}`, requests, most, "plain"))]), "stages")
      : empty(`No request was denied ${from}.`),
    denials.length > 0 && el("ol", { class: "events" }, denials.slice(0, 8).map((line) => el("li", {}, when(line.at), el("span", {},
      `${many(line.requests, "request")} at ${line.stage}, `, line.key ? code(line.key) : "without a good key"))))));
}

export function log({ gate, me }) {
  const fact = (name, ...value) => [el("dt", {}, name), el("dd", {}, value)];
  return el("dl", { class: "statement" },
    fact("Entries", count(gate.log.size)), fact("Root", code(gate.log.root)), fact("Name", code(gate.log.name)),
    fact("Model", code(gate.digest), `, tells ${gate.reveal} to who was not granted more`),
    fact("Your key", code(me.key), `, until ${day(me.expires)}`),
    el("dt", {}, "Check"), el("dd", {}, code("tacit log verify"), ", against a head that was kept elsewhere"));
}
