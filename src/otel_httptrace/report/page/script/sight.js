// Where the lanes in sight are, and which lanes are at the time in sight.

import { first, items, tall } from "./lanes.js";
import { end, start } from "./model.js";
import { AXIS, box, from, shownHeight, until, view } from "./view.js";

/** The track at a position, or the next one below. */
export function trackAt(y) {
  let k = Math.min(items.length - 1, first(items, (item) => item.top + item.height > y));
  while (items[k].heading && k + 1 < items.length) k += 1;
  return k;
}

/** When the tracks in sight were used, first to last, and whether any was at the time in sight. */
export function inWindow() {
  let earliest = Infinity;
  let latest = -Infinity;
  let any = false;
  for (let k = trackAt(box.scrollTop); k < items.length && items[k].top < box.scrollTop + shownHeight - AXIS; k++) {
    const { rows } = items[k];
    if (!rows) continue;
    const [a, b] = [start[rows[0]], end[rows[rows.length - 1]]];
    earliest = Math.min(earliest, a);
    latest = Math.max(latest, b);
    any = any || (a <= until && b >= from);
  }
  return [earliest, latest, any];
}

/** Many lanes live for a moment each: scrolling down goes on in time as well. */
export function followScroll() {
  const [earliest, , any] = inWindow();
  if (any || earliest === Infinity) return;
  const span = until - from;
  view(earliest - span * 0.05, earliest + span * 0.95);
}

/** And going on in time scrolls down. */
export function followTime() {
  if (inWindow()[2]) return;
  const k = items.findIndex(({ rows }) => rows && start[rows[0]] <= until && end[rows[rows.length - 1]] >= from);
  if (k >= 0) box.scrollTop = items[k].top - tall;
}
