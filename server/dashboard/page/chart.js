// Small charts of rounds, as SVG. The numbers are in the table of rounds, too.
const NS = "http://www.w3.org/2000/svg";
const WIDE = 300, HIGH = 140, LEFT = 44, RIGHT = 10, TOP = 10, BOTTOM = 24;

function svg(name, set = {}, ...inside) {
  const made = document.createElementNS(NS, name);
  for (const [attribute, value] of Object.entries(set)) made.setAttribute(attribute, value);
  made.append(...inside);
  return made;
}

/** Where an axis has its marks: a few round numbers that reach from `low` to `high` or beyond. */
export function marks(low, high, most = 4) {
  const span = high - low || Math.abs(high) || 1;
  const ten = 10 ** Math.floor(Math.log10(span / most));
  const step = [1, 2, 5, 10].map((each) => each * ten).find((each) => span / each <= most);
  const first = Math.floor(low / step + 1e-9), last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

export const short = (value) => (Math.abs(value) >= 1e4 ? value.toExponential(0) : String(Number(value.toPrecision(3))));

/**
 * A line over rounds, as a figure. `points` are [round, value] in order; `from` and `to` are what
 * the axis has to hold at least; `limit` is a line that is not to be crossed.
 */
export function chart({ title, points, rounds, from, to, limit, format = short, kind = "calm" }) {
  const values = points.map(([, value]) => value).concat(limit ?? []);
  const ys = marks(Math.min(...values, from ?? Infinity), Math.max(...values, to ?? -Infinity));
  const end = Math.max(rounds ?? 1, points.at(-1)[0], 2);
  const xs = marks(1, end, 5).filter((x) => Number.isInteger(x) && x >= 1 && x <= end);
  const x = (round) => LEFT + ((round - 1) / (end - 1)) * (WIDE - LEFT - RIGHT);
  const y = (value) => HIGH - BOTTOM - ((value - ys[0]) / (ys.at(-1) - ys[0])) * (HIGH - TOP - BOTTOM);
  const path = points.map(([round, value], i) => `${i ? "L" : "M"}${x(round).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const [round, value] = points.at(-1);
  const said = `${title} by round: ${format(value)} after round ${round}, from ${format(points[0][1])} after round ${points[0][0]}`;
  const label = (set, text) => svg("text", set, text);
  const drawn = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": said, class: `chart ${kind}` },
    ...ys.flatMap((mark) => [
      svg("line", { class: "rule", x1: LEFT, x2: WIDE - RIGHT, y1: y(mark), y2: y(mark) }),
      label({ x: LEFT - 7, y: y(mark) + 4, "text-anchor": "end" }, format(mark))]),
    ...[...new Set([1, ...xs.filter((mark) => x(mark) - x(1) > 24)])].map((mark) =>
      label({ x: x(mark), y: HIGH - 6, "text-anchor": mark === end ? "end" : "middle" }, String(mark))),
    ...(limit === undefined ? [] : [svg("line", { class: "limit", x1: LEFT, x2: WIDE - RIGHT, y1: y(limit), y2: y(limit) })]),
    ...(points.length > 1 ? [
      svg("path", { class: "area", d: `${path}L${x(round).toFixed(1)} ${y(ys[0])}L${x(points[0][0]).toFixed(1)} ${y(ys[0])}Z` }),
      svg("path", { class: "line", d: path })] : []),
    svg("circle", { class: "dot", r: 4, cx: x(round), cy: y(value) }));
  return { drawn, at: (share) => nearest(points, 1 + ((share * WIDE - LEFT) / (WIDE - LEFT - RIGHT)) * (end - 1)), move: (to) => moved(drawn, x(to[0]), y(to[1])) };
}

function nearest(points, round) {
  return points.reduce((best, each) => (Math.abs(each[0] - round) < Math.abs(best[0] - round) ? each : best));
}

function moved(drawn, x, y) {
  const dot = drawn.querySelector(".dot");
  dot.setAttribute("cx", x);
  dot.setAttribute("cy", y);
}
