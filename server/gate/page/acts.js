// What can be done, each as a dialog: its words, its fields, and the call that they make.
import { el, focusOn } from "./base.js";

const DETAILS = ["top1", "rounded"];
const TWO = ["raise budgets", "release a model", "export a key"];

export const isOneOfTwo = (me) => TWO.some((act) => me.may.includes(act));

/** The roles whose keys this one may issue. */
export const issuable = (me) => [
  ...(me.may.includes("issue keys") ? ["client", "viewer"] : []),
  ...(me.may.includes("appoint") ? ["operator", "releaser", "authority"] : []),
];

const text = (name, label, set = {}) => ({ name, label, kind: "input", set: { type: "text", autocomplete: "off", required: true, ...set } });
const number = (name, label, set) => ({ ...text(name, label, { type: "number", step: "any", ...set }), read: Number });
const choice = (name, label, options, value) => ({ name, label, kind: "select", options, value });
const reason = text("reason", "Why? It goes to the log", { maxlength: 500 });
const of = (each) => `${each.key} of ${each.organisation}`;

export const issue = ({ me }) => ({
  title: "Issue a key", verb: "Issue", call: "issue",
  note: "Its budget is the default. Its secret is shown once.",
  fields: [
    text("organisation", "Organisation", { maxlength: 100 }),
    choice("role", "Role", issuable(me)),
    number("days", "Days that it lives", { min: 1, max: 3660, value: 90 }),
    { name: "details", label: "What it may be told beyond labels", kind: "boxes", options: me.may.includes("issue keys") ? DETAILS : [] },
    { name: "networks", label: "Networks that it may ask from, one a line; none: all", kind: "textarea", set: { rows: 2, spellcheck: "false", placeholder: "10.0.0.0/8" }, read: (value) => value.split(/\s+/).filter(Boolean) },
  ],
});

export const rotate = (_, each) => ({
  title: "A new secret", verb: "Rotate", call: "rotate", body: { key: each.key },
  note: `For ${of(each)}. Name and budget stay.`,
  fields: [number("hours", "Hours for which the old one goes on", { min: 0, max: 720, value: 24 })],
});

export const revoke = (_, each) => ({
  title: "Revoke a key", verb: "Revoke for good", isHard: true, call: "revoke", body: { key: each.key },
  note: `${of(each)} ends at once, and cannot be had back.`, fields: [],
});

export const suspend = (_, each) => ({
  title: "Suspend a key", verb: "Suspend", isHard: true, call: "suspend", body: { key: each.key },
  note: `${of(each)} is answered nothing until somebody restores it.`, fields: [reason],
});

export const restore = (_, each) => ({
  title: "Restore a key", verb: "Restore", call: "restore", body: { key: each.key },
  note: `${of(each)} is as good as new, and its risk is 0. Budgets hold all the same.`,
  fields: [reason, number("days", "Days for which the watch holds nothing against it", { min: 0, max: 366, value: 0 })],
});

export const ask = ({ me }, each) => ({
  title: "Ask for what takes two", verb: "Ask", call: "ask",
  note: "Nothing happens before somebody else of your role approves, with a one-time code.",
  fields: [
    choice("deed", "What", [
      ...(me.may.includes("raise budgets") ? ["key budget", "organisation budget", "full scores"] : []),
      ...(me.may.includes("release a model") ? ["release"] : []),
      ...(me.may.includes("export a key") ? ["export"] : []),
    ]),
    text("subject", "Of which key, organisation, or file (SHA-256)", { maxlength: 200, value: each?.key, spellcheck: "false" }),
    ...(me.may.includes("raise budgets") ? [number("amount", "Answers; 0 for full scores", { min: 0, max: 1e12, step: 1, value: 0 })] : []),
  ],
});

export const approve = (_, each) => ({
  title: "Approve", verb: "Approve", call: "approve", body: { request: each.number },
  note: `${each.deed} of ${each.subject}${each.amount ? `, ${each.amount.toLocaleString("en")} answers` : ""}, which ${each.asked_by} asked for. This is done as soon as you approve.`,
  fields: [text("code", "Your one-time code", { inputmode: "numeric", pattern: "[0-9]{6}", maxlength: 6, autocomplete: "one-time-code" })],
});

/** Show a dialog, and call `act` with what is filled in. */
export function show(dialog, what, act) {
  const fault = el("p", { class: "fault", role: "alert" });
  const go = el("button", { class: what.isHard ? "hard" : "main" }, what.verb);
  const form = el("form", { autocomplete: "off" },
    el("h2", { id: "dialog-title" }, what.title), el("p", {}, what.note),
    what.fields.map(field), fault,
    el("div", { class: "row end" }, el("button", { type: "button", onclick: () => dialog.close() }, "Leave it"), go));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    fault.textContent = "";
    try {
      const told = await act(what.call, { ...what.body, ...filled(form, what.fields) });
      if (told.secret) hand(dialog, told);
      else dialog.close();
    } catch (failed) {
      fault.textContent = failed.status ? `${failed.message}.` : "No connection: look whether it was done before you try again.";
    }
    go.disabled = false;
  });
  dialog.dataset.from = document.activeElement?.dataset.focus ?? "";
  dialog.replaceChildren(form);
  dialog.showModal();
}

/** Once it is closed: no secret stays there, and the focus is where it was. */
export function closed(dialog) {
  if (dialog.open) return; // another one, since
  dialog.replaceChildren();
  focusOn(dialog.dataset.from);
}

function field(each) {
  const id = `field-${each.name}`;
  if (each.kind === "boxes") {
    return each.options.length > 0 && el("fieldset", {}, el("legend", {}, each.label), each.options.map((option) =>
      el("label", {}, el("input", { type: "checkbox", name: each.name, value: option }), ` ${option}`)));
  }
  const set = { id, name: each.name, ...each.set };
  const made = each.kind === "select"
    ? el("select", set, each.options.map((option) => el("option", {}, option)))
    : el(each.kind, set);
  return el("div", { class: "field" }, el("label", { for: id }, each.label), made);
}

function filled(form, fields) {
  const data = new FormData(form);
  return Object.fromEntries(fields.map((each) => [each.name,
    each.kind === "boxes" ? data.getAll(each.name) : (each.read ?? String)(data.get(each.name))]));
}

/** A new key, once. */
function hand(dialog, { key, secret }) {
  const shown = el("input", { id: "secret", readonly: true, value: secret, spellcheck: "false", autocomplete: "off" });
  const copied = el("p", { class: "hint", role: "status" });
  const copy = async () => {
    shown.select();
    try {
      await navigator.clipboard.writeText(secret);
      copied.textContent = "Copied.";
    } catch {
      copied.textContent = "It is selected: copy it.";
    }
  };
  dialog.replaceChildren(
    el("h2", { id: "dialog-title" }, "Give this to its holder"),
    el("p", {}, "The key ", el("code", {}, key), " is not shown again, and the gate keeps a digest of it alone."),
    el("div", { class: "field" }, el("label", { for: "secret" }, "Key"), shown), copied,
    el("div", { class: "row end" }, el("button", { type: "button", onclick: copy }, "Copy"),
      el("button", { type: "button", class: "main", onclick: () => dialog.close() }, "Done")));
  shown.focus();
}
