// The request that is chosen. A canvas says nothing to a screen reader: the grid around it therefore holds the chosen
// request, those beside it and the nearest ones on the lanes above and below as elements of their own.

import { make, say } from "./dom.js";
import { first, items, placeOf, rank, tracks } from "./lanes.js";
import { drawn, end, model, phases, start } from "./model.js";
import { AXIS, box, canvas, card, from, gutter, request, shownHeight, time, until, view, x } from "./view.js";
import { problem, seconds, title } from "./words.js";

const mirror = document.getElementById("mirror");
const chosenText = document.getElementById("chosen");
export let chosen = -1;
export let hovered = -1;

/** The pointer is over a request, or over none: -1. */
export function hoverOver(i) {
  if (i === hovered) return;
  hovered = i;
  request();
}

function sentence(i) {
  const parts = [title(i), seconds(model.duration(i))];
  for (const [phase, value] of model.times(i)) parts.push(`${phases[phase]} ${seconds(value)}`);
  const half = model.half(i);
  if (half && half.took >= 0) parts.push(`the server's span ${seconds(half.took)}`);
  return parts.join(", ");
}

function laneName(lane) {
  if (!lane.connection) return lane.seen ? "No connection obtained" : "Connection not seen";
  const close = lane.close >= 0 ? `, closed: ${model.closed(lane.close)}${model.at(lane.close) ? ` at ${model.at(lane.close)}` : ""}` : "";
  return `Connection ${lane.connection}, ${lane.rows.length} request${lane.rows.length === 1 ? "" : "s"}${close}`;
}

function reflect() {
  const place = placeOf.get(chosen);
  const rows = [];
  for (const offset of [-1, 0, 1]) {
    const k = tracks[rank.get(place) + offset];
    if (k === undefined) continue;
    const item = items[k];
    const near = offset ? nearest(item, (start[chosen] + end[chosen]) / 2) : first(item.rows, (i) => i >= chosen);
    const begin = Math.max(0, near - (offset ? 0 : 10));
    const cells = item.rows.slice(begin, near + (offset ? 1 : 11));
    rows.push(make("div", { role: "row", "aria-rowindex": rank.get(k) + 1 },
      make("div", { role: "rowheader" }, laneName(item.lane)),
      cells.map((i, column) => make("div", { role: "gridcell", id: `cell-${i}`, "aria-colindex": begin + column + 2, "aria-selected": i === chosen ? "true" : "false" }, sentence(i)))));
  }
  mirror.replaceChildren(...rows);
  box.setAttribute("aria-activedescendant", `cell-${chosen}`);
}

export function describe() {
  if (chosen < 0) {
    chosenText.textContent = "Choose a request to see more of it.";
    return;
  }
  const { lane } = items[placeOf.get(chosen)];
  const number = lane.rows.indexOf(chosen) + 1;
  const b = make("b", null, title(chosen));
  const why = model.dialled(chosen) && model.opened(chosen) ? ` · opened: ${model.opened(chosen)}` : "";
  const close = model.closed(chosen) ? ` · closed: ${model.closed(chosen)}${model.at(chosen) ? ` at ${model.at(chosen)}` : ""}` : "";
  chosenText.replaceChildren(b, ` · ${seconds(model.duration(chosen))} · ${lane.connection ? `connection ${lane.connection}, request ${number} of ${lane.rows.length}` : laneName(lane)}${why}${close} · `, make("a", { href: `#request-${chosen}` }, "Waterfall"));
}

function inSight(i) {
  const item = items[placeOf.get(i)];
  if (item.top < box.scrollTop + 4) box.scrollTop = item.top - item.height;
  else if (item.top + item.height > box.scrollTop + shownHeight - AXIS) box.scrollTop = item.top + 2 * item.height - (shownHeight - AXIS);
  const span = until - from;
  if (start[i] < from || end[i] > until) {
    const middle = end[i] - start[i] > span ? start[i] + span * 0.45 : (start[i] + end[i]) / 2;
    view(middle - span / 2, middle + span / 2);
  }
}

export function choose(i, show = true) {
  if (!placeOf.has(i)) return;
  chosen = i;
  if (show) inSight(i);
  reflect();
  describe();
  request();
}

export function nearest(track, at) {
  const k = first(track.rows, (i) => start[i] > at);
  let best = Math.min(track.rows.length - 1, k);
  let least = Infinity;
  for (const j of [k - 1, k, k + 1]) {
    const i = track.rows[j];
    if (i === undefined) continue;
    const away = at < start[i] ? start[i] - at : at > end[i] ? at - end[i] : 0;
    if (away < least) { least = away; best = j; }
  }
  return best;
}

export function hit(event) {
  const area = canvas.getBoundingClientRect();
  const [px, py] = [event.clientX - area.left, event.clientY - area.top];
  if (py < AXIS || px < gutter - 4) return -1;
  const y = py - AXIS + box.scrollTop;
  const k = first(items, (item) => item.top + item.height > y);
  const item = items[k];
  if (!item || !item.rows) return -1;
  const i = item.rows[nearest(item, time(px))];
  const slack = 5;
  return px >= x(start[i]) - slack && px <= x(end[i]) + slack ? i : -1;
}

/** The requests before and after on the same connection, -1 for none. */
export function neighbours(i) {
  const { rows, connection } = items[placeOf.get(i)].lane;
  if (!connection) return [-1, -1];
  const k = first(rows, (j) => j >= i);
  return [k > 0 ? rows[k - 1] : -1, k + 1 < rows.length ? rows[k + 1] : -1];
}

/** Bring a request into sight, large enough to be seen, and the focus to it. */
export function reveal(i) {
  const length = Math.max(end[i] - start[i], 2e-5);
  if (x(end[i]) - x(start[i]) < 40) view(start[i] - length * 4, end[i] + length * 6);
  choose(i);
  box.focus({ preventScroll: true });
  card.scrollIntoView({ block: "center" });
}

export function nextProblem() {
  const from_ = chosen;
  for (let k = 1; k <= drawn; k++) {
    const i = (from_ + k + drawn) % drawn;
    if (problem(i)) { choose(i); return; }
  }
  say("There is no failed request and no lost connection.");
}
