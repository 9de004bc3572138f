// What is drawn of a run and of a server, part by part.
import { badge, bar, clock, code, count, el, empty, many, share, table, when } from "./base.js";
import { chart, short } from "./chart.js";

const MOST_DEVICES = 24, MOST_LISTED = 12;
const STAGES = { // one letter each, for colour alone says nothing to many
  enrol: ["E", "did not enrol"], encapsulate: ["C", "post-quantum keys, offered"], decapsulate: ["D", "post-quantum keys, taken up"], deal: ["L", "shares were dealt"],
  key: ["K", "keys were agreed on"], report: ["R", "the masked update"], attest: ["A", "the cohort was confirmed"], reveal: ["V", "the sum was opened"], filter: ["F", "its reply was refused"],
};
const letter = (stage) => STAGES[stage]?.[0] ?? "?";
const kind = (stage) => (stage in STAGES ? `stage-${stage}` : "stage-other");
const percent = (value) => `${(100 * value).toFixed(1)}\u00a0%`;
const seconds = (value) => (value >= 120 ? `${Math.floor(value / 60)} min ${Math.round(value % 60)} s` : `${value.toFixed(value < 10 ? 2 : 0)} s`);
const UNITS = { client: "each device", record: "each example" };
const AGAINST = { server: "against the server", outsider: "against whoever gets the model" };
const STATES = { running: "ok", finished: "ok", queued: "expired", interrupted: "degraded", failed: "suspended" };
const state = (status) => el("span", { class: `badge ${STATES[status] ?? "expired"}` }, status);

/** A run's board as the other parts take it: rows in order. */
export function read(board) {
  const rows = Object.entries(board).filter(([name]) => name.startsWith("round ")).map(([, row]) => row).sort((a, b) => a.number - b.number);
  return { ...board, rows, name: board.about.name, settings: board.about.settings, latest: rows.findLast((row) => row.seconds !== null) };
}

export const progress = ({ round, rounds }) => (rounds ? `${round}/${rounds}` : String(round));

/** What happened last, for who listens. */
export function sentence({ latest, now }) {
  if (!latest) return "";
  const told = [`Round ${latest.number} of ${now.rounds ?? "?"}`];
  if (latest.state === "lost") told.push("no sum");
  if (latest.accuracy !== null) told.push(`accuracy ${percent(latest.accuracy)}`);
  if (latest.survivors !== null) told.push(`${latest.survivors} of ${latest.cohort} devices counted`);
  return `${told.join(", ")}.`;
}

/** What somebody should know before anything else. */
export function notices(house, run) {
  const said = [];
  const notice = (text, kind) => said.push(el("p", { class: `notice ${kind}` }, text));
  for (const [name, { fault }] of Object.entries(house.server?.logs ?? {})) if (fault) notice(`The ${name}'s audit log is not what it was: ${fault}.`, "bad");
  for (const [name, { is_up, how, starts }] of Object.entries(house.server?.processes ?? {})) {
    if (!is_up && starts > 1) notice(`${name} is down, after ${many(starts, "start")}: it ended with ${how}.`, "bad");
  }
  for (const trouble of house.server?.troubles ?? []) notice(`${trouble[0].toUpperCase()}${trouble.slice(1)}.`, "warm");
  if (!run) return said;
  if (run.log.fault) notice(`The run's audit log is not what it was: ${run.log.fault}.`, "bad");
  if (run.now.status === "failed") notice("The run failed. It can be gone on with from its checkpoint.", "bad");
  if (run.now.status === "interrupted") notice("The run was interrupted. It can be gone on with from its checkpoint.", "warm");
  if (run.now.ended) notice(`The run ended before its last round: ${run.now.ended}.`, "warm");
  return said;
}

export function runs({ all, shown }, chosen) {
  if (!shown.length) return empty("No run is here yet. The page shows one as soon as there is.");
  const rows = shown.map((each) => [
    el("a", { class: "name", href: `#${encodeURIComponent(each.name)}`, "aria-current": each.name === chosen && "true", "data-focus": `run ${each.name}` }, each.name),
    state(each.status), progress(each), each.accuracy === null ? "" : percent(each.accuracy), when(each.changed)]);
  return [table(["Run", "State", "Round", "Accuracy", "Last heard"], rows, "keys runs", "Runs, the last to change first"),
    all > shown.length && empty(`${many(all - shown.length, "run")} more, older, are not shown.`)];
}

export function summary({ now, latest, privacy, log, rows, settings }) {
  const fact = (name, value, more) => el("div", {}, el("dt", {}, name), el("dd", {}, value), more && el("dd", { class: "hint" }, more));
  const worst = Math.max(...privacy.spent.map((each) => each.epsilon ?? Infinity), 0);
  const lost = rows.filter((row) => row.state === "lost").length;
  const where = [settings.data?.name, settings.model?.name, settings.strategy?.name, settings.secure?.protocol].filter(Boolean).join(", ");
  return el("dl", { class: "facts" },
    fact("Round", now.rounds ? `${now.round} of ${now.rounds}` : String(now.round), [state(now.status), " ", where]),
    latest?.accuracy != null && fact("Accuracy", percent(latest.accuracy), latest.loss === null ? "" : `loss ${short(latest.loss)}`),
    latest?.survivors != null && fact("Devices counted", `${count(latest.survivors)} of ${count(latest.cohort)}`, lost ? `${many(lost, "round")} without a sum` : "in the last round"),
    privacy.budget != null && fact("Epsilon", Number.isFinite(worst) ? `${worst.toFixed(2)} of ${short(privacy.budget)}` : "no bound", "of who spent most"),
    latest && fact("Last round took", seconds(latest.seconds), now.seconds ? `the run ${seconds(now.seconds)}` : `last heard ${clock(now.changed)}`),
    fact("Audit log", many(log.size, "entry", "entries"), log.root ? ["root ", code(log.root.slice(0, 12))] : ""));
}

export function learning({ rows, now, privacy }) {
  const of = (name) => rows.filter((row) => row[name] !== null).map((row) => [row.number, row[name]]);
  const made = [
    { title: "Accuracy", points: of("accuracy"), from: 0, to: 1, format: (value) => share(value) },
    { title: "Loss", points: of("loss"), from: 0 },
    { title: "Counted", points: of("survivors"), from: 0, to: Math.max(1, ...rows.map((row) => row.cohort ?? 0)), kind: "warm" },
    { title: "Epsilon", points: of("epsilon"), from: 0, limit: privacy.budget ?? undefined, kind: "warm" },
  ].filter(({ points }) => points.length).map((each) => figure({ rounds: now.rounds, ...each }));
  return made.length ? made : empty("No round has ended yet.");
}

/** A chart, and what it says where a pointer is. */
function figure(of) {
  const { drawn, at, move } = chart(of);
  const last = of.points.at(-1), precise = of.title === "Accuracy" ? percent : short;
  const said = el("span", { class: "read" });
  const tell = (point) => { said.textContent = `${precise(point[1])}, round ${point[0]}`; move(point); };
  const made = el("figure", {
    onpointermove: (event) => { const box = drawn.getBoundingClientRect(); tell(at((event.clientX - box.left) / box.width)); },
    onpointerleave: () => tell(last),
  }, el("figcaption", {}, el("strong", {}, of.title), said), drawn, of.limit !== undefined && el("p", { class: "hint" }, `dashed: the budget, ${short(of.limit)}`));
  tell(last);
  return made;
}

/** Devices that were left out, by rounds: a letter where one did not count, and at which stage. */
export function devices({ rows, now }, columns) {
  const stages = Object.entries(now.left_out).sort((a, b) => b[1] - a[1]);
  if (!stages.length) return empty("Nobody: every device that was asked went on to the end.");
  const shown = rows.slice(-columns), missed = new Map();
  for (const row of shown) for (const [device, stage, purpose] of row.out) {
    if (!missed.has(device)) missed.set(device, new Map());
    if (purpose === "train" || !missed.get(device).has(row.number)) missed.get(device).set(row.number, [stage, purpose]);
  }
  const all = [...missed].sort((a, b) => b[1].size - a[1].size || a[0].localeCompare(b[0], "en", { numeric: true }));
  const ahead = Math.max(0, Math.min(columns - shown.length, (now.rounds ?? 0) - shown.at(-1).number));
  return [el("p", { class: "hint" }, "A letter where a device dropped out of a round, and at which stage; a small one where that was in evaluation."),
    all.length ? strip(all.slice(0, MOST_DEVICES), shown, ahead) : empty("Nobody in the rounds that are shown."),
    all.length > MOST_DEVICES && empty(`${many(all.length - MOST_DEVICES, "device")} more, that missed less, are not shown.`),
    el("ul", { class: "legend" }, stages.map(([stage, times]) => el("li", {},
      el("span", { class: `cell ${kind(stage)}`, "aria-hidden": "true" }, letter(stage)), el("span", {}, el("strong", {}, stage), ` ${many(times, "time")}`, STAGES[stage] && el("span", { class: "hint" }, STAGES[stage][1])))))];
}

function strip(all, shown, ahead) {
  const last = shown.at(-1).number, coming = Array.from({ length: ahead }, (_, i) => last + 1 + i);
  const marked = (number, i) => number % 5 === 0 || (i === 0 && number % 5 < 3);
  return el("table", { class: "strip" },
    el("caption", {}, `Devices that dropped out, in rounds ${shown[0].number} to ${last}`),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Device"), shown.map(({ number, state }, i) =>
      el("th", { scope: "col", "aria-label": `round ${number}`, class: state === "lost" && "lost" }, state === "lost" ? "×" : marked(number, i) ? String(number) : "")),
      coming.map((number) => el("td", { "aria-hidden": "true" }, marked(number, 1) ? String(number) : "")))),
    el("tbody", {}, all.map(([device, at]) => el("tr", {}, el("th", { scope: "row", title: device }, code(device.length > 8 ? `${device.slice(0, 7)}…` : device)),
      shown.map(({ number, state }) => {
        const [stage, purpose] = at.get(number) ?? [];
        if (stage) return el("td", { class: `cell ${kind(stage)} ${purpose === "train" ? "" : "light"}`, title: `round ${number}: ${stage}, ${purpose}`, "aria-label": `round ${number}: left out, ${stage}` }, purpose === "train" ? letter(stage) : letter(stage).toLowerCase());
        return el("td", { class: state === "lost" ? "cell lost" : "cell" });
      }), coming.map(() => el("td", { class: "cell ahead", "aria-hidden": "true" }))))));
}

export function privacy({ privacy: { budget, mode, spent } }) {
  if (mode === "none") return empty("This run adds no noise: a sum hides devices from the server, and no epsilon bounds what the model tells of them.");
  if (!spent.length) return empty("Nothing has been released yet.");
  return table(["Protects", "Epsilon spent", "Releases"], spent.map((each) => [
    [el("span", { class: "name" }, UNITS[each.unit] ?? each.unit), el("span", { class: "hint" }, AGAINST[each.against] ?? each.against)],
    el("div", { class: "budget" }, el("span", {}, each.epsilon === null ? "no bound" : `${each.epsilon.toFixed(3)} of ${budget === null ? "no limit" : short(budget)}`),
      budget !== null && bar(`epsilon of ${UNITS[each.unit] ?? each.unit} that is spent`, each.epsilon ?? Infinity, budget),
      el("span", { class: "hint" }, `at delta ${each.delta?.toExponential(0)}`)),
    count(each.releases ?? 0)]), "stages privacy", `Noise of mode ${mode}, by the device that spent most`);
}

export function rounds({ rows }) {
  const last = rows.slice(-MOST_LISTED).reverse(), older = rows.slice(0, -MOST_LISTED).reverse();
  const listed = (some, caption) => table(["Round", "Accuracy", "Loss", "Counted", "Dropped out", "Took"], some.map(line), "keys rounds", caption);
  return [listed(last, "The last rounds, newest first"), older.length > 0 && el("details", { "data-open": "rounds" },
    el("summary", { "data-focus": "older" }, many(older.length, "older round")), listed(older.slice(0, 500), "Older rounds, newest first"))];
}

function line(row) {
  const stages = Object.entries(row.stages).map(([stage, times]) => `${stage} ${times}`).join(", ");
  const end = row.state === "lost" ? [badge("suspended"), " "] : [];
  if (end.length) end[0].textContent = "no sum";
  return [String(row.number), row.accuracy === null ? "" : percent(row.accuracy), row.loss === null ? "" : short(row.loss),
    row.survivors === null ? (row.state === "running" ? "under way" : [...end, row.reason]) : `${count(row.survivors)} of ${count(row.cohort)}`,
    stages || "none", row.seconds === null ? "" : seconds(row.seconds)];
}

export function refusals({ refusals: { all, lately } }) {
  if (!lately.length) return empty("None: no device fell silent, refused, or was refused.");
  const item = (each) => el("li", {}, when(each.at), el("span", {}, `Device ${each.device}, round ${each.round}, `, el("strong", {}, each.stage), ": ", el("q", {}, each.reason)));
  return [el("p", { class: "hint" }, `${many(all, "time")} in all. Reasons may be a device's own words: nobody vouches for them.`),
    el("ol", { class: "events" }, lately.slice(0, MOST_LISTED).map(item)),
    lately.length > MOST_LISTED && el("details", {}, el("summary", { "data-focus": "refusals" }, `${lately.length - MOST_LISTED} before these`), el("ol", { class: "events" }, lately.slice(MOST_LISTED).map(item)))];
}

const ACTS = {
  RunOrdered: (each) => ["Run ", code(each.run), ` was ordered by ${each.by}`],
  RunBegun: (each) => ["Run ", code(each.run), each.after ? ` goes on after round ${each.after}` : " was begun"],
  RunEnded: (each) => ["Run ", code(each.run), `: ${each.how}`, each.reason && [", ", el("q", {}, each.reason)]].flat(),
  StrangerEnded: (each) => [badge("suspended"), " a run that nobody ordered here, ", code(each.run || each.number), ", was ended"],
  OrderRefused: (each) => [badge("suspended"), ` an order by ${each.by || "nobody known"}: `, el("q", {}, each.reason)],
  Granted: (each) => [`${each.name} is ${each.role}, by ${each.by}`],
  Withdrawn: (each) => [`${each.name} may do nothing any more, by ${each.by}`],
  Released: (each) => [code(each.name), " was released"],
  NodeRegistered: (each) => ["Device ", code(each.name), " was let in"],
  NodeUnregistered: (each) => ["Device ", code(each.name), " was shut out"],
};

/** Which devices' nodes are online, and which are not, by name. */
function nodes(all) {
  const names = Object.keys(all), away = names.filter((name) => !all[name]);
  if (!names.length) return null;
  const listed = away.slice(0, MOST_DEVICES).flatMap((name, i) => [i ? ", " : ", not ", code(name)]);
  const more = away.length > MOST_DEVICES && ` and ${away.length - MOST_DEVICES} more`;
  return el("p", { class: "nodes" }, el("strong", {}, `${count(names.length - away.length)} of ${many(names.length, "node")}`), " online", listed, more);
}

export function server({ processes, acts, turned_away: away, nodes: online }) {
  const rows = Object.entries(processes).map(([name, each]) => [
    el("span", { class: "name" }, name), each.is_up ? el("span", { class: "badge ok" }, "up") : el("span", { class: "badge suspended" }, "down"),
    [count(Math.max(0, each.starts - 1)), each.how && el("span", { class: "hint" }, `last ended with ${each.how}`)], when(each.at)]);
  const reasons = Object.entries(away.reasons).sort((a, b) => b[1] - a[1]), most = Math.max(...reasons.map(([, times]) => times), 1);
  return [
    rows.length ? table(["Process", "State", "Restarts", "Since"], rows, "keys", "Processes, as the server's log has them") : empty("No process was started yet: tacit up starts them."),
    nodes(online),
    el("div", { class: "two" },
      el("div", {}, el("h3", {}, "What was done"), acts.length ? el("ol", { class: "events" }, acts.slice(0, MOST_LISTED).map((each) => {
        const said = (ACTS[each.event] ?? (() => [each.event]))(each);
        if (each.event === "OrderRefused") said[0].textContent = "refused";
        return el("li", {}, when(each.at), el("span", {}, said));
      })) : empty("Nothing yet.")),
      el("div", {}, el("h3", {}, "Turned away at the front"), reasons.length ? [
        table(["Reason", "Times"], reasons.map(([reason, times]) => [reason, el("div", { class: "budget" }, el("span", {}, count(times)), bar(`share of ${reason}`, times, most, "plain"))]), "stages", "Since the front's log began"),
        el("ol", { class: "events" }, away.lately.slice(0, 8).map((each) => el("li", {}, when(each.at), el("span", {}, `${many(each.times, "time")} from `, code(each.address || "somewhere"), ...(each.who ? [", says it is ", el("q", {}, each.who)] : []), `: ${each.reason}`))))]
        : empty("Nobody.")))];
}

export function log(house, run) {
  const all = [...(run ? [["this run", run.log]] : []), ...Object.entries(house.server?.logs ?? {})].filter(([, each]) => each.size || each.root || each.fault);
  if (!all.length) return empty("There is no audit log yet.");
  return [el("p", {}, "Whoever looks sees the same entries and roots. Read them to each other, or hold them against a head that was kept, with ", code("tacit log verify --head FILE"), ": a log that was written anew shows."),
    table(["Log", "Entries", "Root", "Every entry checks"], all.map(([name, each]) => [
      el("span", { class: "name" }, name), count(each.size), code(each.root), each.fault ? el("span", { class: "fault" }, `no: ${each.fault}`) : "yes"]), "keys logs", "Audit logs, up to their last signed heads")];
}
