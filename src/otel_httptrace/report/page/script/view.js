// What is in sight: the times from `from` until `until`, as wide as the canvas; the rest is scrolled to.

import { height } from "./lanes.js";
import { model } from "./model.js";

/** How high the axis is, in pixels. */
export const AXIS = 24;
// A report without requests has no timeline.
export const box = document.getElementById("lanes");
export const card = box && box.closest(".timeline");
export const canvas = box && box.querySelector("canvas");
export const overview = document.getElementById("overview");
export const context = canvas && canvas.getContext("2d", { alpha: false });
const spacer = box && box.querySelector(".spacer");
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** When the last request ended. */
export let last = 0;
for (let i = 0; i < model.drawn; i++) last = Math.max(last, model.end[i]);
if (!(last > 0)) last = 1e-3;
/** All of the time. */
export const FULL = [-last * 0.01, last * 1.01];
export let [from, until] = FULL;
export let width = 0;
export let shownHeight = 0;
export let gutter = 84;

export const x = (at) => gutter + (at - from) / (until - from) * (width - gutter);
export const time = (at) => from + (at - gutter) / (width - gutter) * (until - from);

let drawing = () => {};
let waiting = false;

/** What draws a frame. */
export function drawBy(draw) { drawing = draw; }

/** Draw a frame, soon. */
export function request() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; drawing(); });
}

let moving = 0;
export function view(newFrom, newUntil, animated = false) {
  const least = 2e-5;
  const full = FULL[1] - FULL[0];
  const span = Math.min(Math.max(newUntil - newFrom, least), full);
  let middle = (newFrom + newUntil) / 2;
  middle = Math.min(Math.max(middle, FULL[0] + span / 2), FULL[1] - span / 2);
  const target = [middle - span / 2, middle + span / 2];
  cancelAnimationFrame(moving);
  if (!animated || still.matches) {
    [from, until] = target;
    request();
    return;
  }
  const [a, b] = [from, until];
  const began = performance.now();
  const step = (now) => {
    const share = Math.min(1, Math.max(0, (now - began) / 140));
    const eased = 1 - (1 - share) ** 3;
    from = a + (target[0] - a) * eased;
    until = b + (target[1] - b) * eased;
    request();
    if (share < 1) moving = requestAnimationFrame(step);
  };
  moving = requestAnimationFrame(step);
}

export function zoom(factor, around = (from + until) / 2, animated = false) {
  view(around - (around - from) * factor, around + (until - around) * factor, animated);
}

export const pan = (share, animated = false) => view(from + (until - from) * share, until + (until - from) * share, animated);

/** Take the size that there is; whether there is any. */
export function measureBox() {
  const scale = devicePixelRatio || 1;
  width = box.clientWidth;
  if (!width) return false;
  gutter = width < 500 ? 46 : 84;
  const room = parseFloat(getComputedStyle(box).maxHeight) || Infinity;
  shownHeight = Math.max(80, Math.min(AXIS + height, room));
  spacer.style.height = `${Math.max(0, AXIS + height - shownHeight)}px`;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(shownHeight * scale);
  canvas.style.height = `${shownHeight}px`;
  return true;
}
