// A frame of the timeline. Only what is in sight is drawn: items are found by binary search over their positions, requests
// by binary search over their times. So a frame costs about as much as the canvas has pixels across, whatever there is.

import { chosen, hovered } from "./choice.js";
import { colours, fonts } from "./colours.js";
import { first, height, items, placeOf, rank, tall, tracks } from "./lanes.js";
import { end, model, start } from "./model.js";
import { trackAt } from "./sight.js";
import { drawHalves, drawTrack, fit } from "./tracks.js";
import { AXIS, box, canvas, context, from, FULL, gutter, overview, shownHeight, until, width, x } from "./view.js";
import { counted } from "./words.js";

let frames = 0;

const NICE = [1, 2, 5];
function ticks() {
  const wanted = (until - from) * 90 / Math.max(1, width - gutter);
  const power = 10 ** Math.floor(Math.log10(wanted));
  let step = 10 * power;
  for (const nice of NICE) if (nice * power >= wanted) { step = nice * power; break; }
  const found = [];
  for (let k = Math.ceil(from / step); k * step <= until; k++) found.push(k * step);
  return [found, step];
}

/** A moment in the unit that suits the times in sight, as exactly as the step between ticks asks for. */
function moment(value, step) {
  const most = Math.max(Math.abs(from), Math.abs(until));
  const [factor, unit] = most >= 1 ? [1, "s"] : most >= 1e-3 ? [1e3, "ms"] : [1e6, "µs"];
  return `${(value * factor).toFixed(Math.max(0, -Math.floor(Math.log10(step * factor) + 1e-9)))} ${unit}`;
}

export function drawFrame() {
  if (!width) return;
  const began = performance.now();
  const scale = devicePixelRatio || 1;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.fillStyle = colours.surface;
  context.fillRect(0, 0, width, shownHeight);
  context.textBaseline = "middle";
  const [marks, step] = ticks();
  context.fillStyle = colours.rule;
  for (const mark of marks) if (x(mark) >= gutter) context.fillRect(Math.round(x(mark)), AXIS, 1, shownHeight);

  const scrolled = box.scrollTop;
  const firstItem = Math.max(0, first(items, (item) => item.top + item.height > scrolled));
  for (let k = firstItem; k < items.length && items[k].top < scrolled + shownHeight - AXIS; k++) {
    const item = items[k];
    const y = AXIS + item.top - scrolled;
    if (item.rows) drawTrack(item, y);
    else if (item.halves) drawHalves(item, y);
  }
  drawArcs();
  // The gutter, over what reaches into it.
  context.fillStyle = colours.surface;
  context.fillRect(0, AXIS, gutter - 1, shownHeight);
  context.fillStyle = colours.rule;
  context.fillRect(gutter - 1, AXIS, 1, shownHeight);
  for (let k = firstItem; k < items.length && items[k].top < scrolled + shownHeight - AXIS; k++) {
    const item = items[k];
    const y = AXIS + item.top - scrolled;
    if (item.heading) drawHeading(item, y);
    else if (item.halves) drawSide("server", item, y);
    else if (item.number === 0) drawName(item, y);
  }
  drawRing(chosen, scrolled, true);
  if (hovered !== chosen) drawRing(hovered, scrolled, false);
  // The axis.
  context.fillStyle = colours.sunk;
  context.fillRect(0, 0, width, AXIS);
  context.fillStyle = colours.rule;
  context.fillRect(0, AXIS - 1, width, 1);
  context.font = `11px ${fonts.sans}`;
  context.textAlign = "left";
  for (const mark of marks) {
    const at = x(mark);
    if (at < gutter) continue;
    context.fillStyle = colours["strong-rule"];
    context.fillRect(Math.round(at), AXIS - 7, 1, 6);
    context.fillStyle = colours.quiet;
    const text = moment(mark, step);
    if (at + 5 + context.measureText(text).width < width) context.fillText(text, at + 5, AXIS / 2);
  }
  const below = height - 8 - scrolled - (shownHeight - AXIS);
  if (below > tall) {
    const text = `${counted(tracks.length - (rank.get(trackAt(scrolled + shownHeight - AXIS - 1)) + 1))} more below`;
    context.font = `600 11px ${fonts.sans}`;
    const room = context.measureText(text).width + 18;
    context.fillStyle = colours.surface;
    context.strokeStyle = colours["strong-rule"];
    context.lineWidth = 1;
    context.beginPath();
    context.roundRect(width - room - 10.5, shownHeight - 28.5, room, 20, 10);
    context.fill();
    context.stroke();
    context.fillStyle = colours.quiet;
    context.fillText(text, width - room - 1, shownHeight - 18);
  }
  const share = width > gutter ? (width - gutter) / (FULL[1] - FULL[0]) : 0;
  const brush = overview.querySelector(".brush");
  brush.style.transform = `translateX(${gutter + (from - FULL[0]) * share}px)`;
  brush.style.width = `${Math.max(6, (until - from) * share)}px`;
  frames += 1;
  canvas.dataset.frame = frames;
  canvas.dataset.took = (performance.now() - began).toFixed(2);
}

function drawHeading(item, y) {
  context.fillStyle = colours.sunk;
  context.fillRect(0, y, width, item.height);
  context.fillStyle = colours.rule;
  context.fillRect(0, y + item.height - 1, width, 1);
  if (item.top > 0) context.fillRect(0, y, width, 1);
  context.fillStyle = colours.ink;
  context.font = `600 12px ${fonts.sans}`;
  context.textAlign = "left";
  context.fillText(fit(item.heading, width - 24), 12, y + item.height / 2);
}

/** Whose half of a lane it is. */
function drawSide(side, item, y) {
  context.textAlign = "right";
  context.font = `10px ${fonts.sans}`;
  context.fillStyle = colours.quiet;
  context.fillText(fit(side, gutter - 14), gutter - 9, y + item.height / 2);
}

function drawName(item, y) {
  const { lane } = item;
  const chosenHere = chosen >= 0 && items[placeOf.get(chosen)].lane === lane;
  context.textAlign = "right";
  context.font = `${chosenHere ? "650 " : ""}${item.height < 16 ? 10 : 12}px ${fonts.sans}`;
  context.fillStyle = chosenHere ? colours.ink : colours.quiet;
  const name = lane.connection ? `#${lane.connection}` : lane.seen ? "none" : "not seen";
  context.fillText(fit(name, gutter - 14), gutter - 9, y + item.height / 2);
}

/** From the chosen request to the one that lost its connection. */
function drawArcs() {
  const i = chosen >= 0 ? chosen : hovered;
  if (i < 0) return;
  for (const link of model.links(i)) {
    if (link.kind !== "lost_by" || !placeOf.has(link.target)) continue;
    const a = items[placeOf.get(link.target)];
    const b = items[placeOf.get(i)];
    const [x1, y1] = [x(end[link.target]), AXIS + a.top + a.height / 2 - box.scrollTop];
    const [x2, y2] = [x(start[i]), AXIS + b.top + b.height / 2 - box.scrollTop];
    context.strokeStyle = colours.failed;
    context.lineWidth = 1.5;
    context.setLineDash([4, 3]);
    context.beginPath();
    context.moveTo(x1, y1);
    const bend = Math.min(60, Math.abs(y2 - y1) / 2 + 10);
    context.bezierCurveTo(x1 - 0, y1 + (y2 > y1 ? bend : -bend), x2, y2 + (y2 > y1 ? -bend : bend), x2, y2);
    context.stroke();
    context.setLineDash([]);
  }
}

function drawRing(i, scrolled, strong) {
  if (i < 0) return;
  const item = items[placeOf.get(i)];
  const y = AXIS + item.top - scrolled;
  if (y < AXIS - item.height || y > shownHeight) return;
  const x1 = Math.max(gutter + 1, x(start[i]));
  const x2 = Math.min(width - 2, x(end[i]));
  if (x2 < gutter || x1 > width) return;
  context.lineWidth = strong ? 2.5 : 1.5;
  context.strokeStyle = strong ? colours.ink : colours["strong-rule"];
  const pad = Math.max(0, 7 - (x2 - x1)) / 2 + 1;
  context.beginPath();
  context.roundRect(x1 - pad, y + 1.5, x2 - x1 + 2 * pad, item.height - 3, 3);
  context.stroke();
}
