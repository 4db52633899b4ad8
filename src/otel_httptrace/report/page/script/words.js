// How things are called: reasons, numbers, requests.

import { model } from "./model.js";

// A lane whose connection ended so lost it; the other ways to end are as they should be.
const AGREED = new Set(["", "connection_close", "client_closed", "upgraded", "goaway", "keepalive_expired", "unknown"]);

/** Whether the request lost its connection. */
export const lost = (i) => !AGREED.has(model.closed(i));

export function problem(i) { return model.failed(i) || lost(i); }

/** As report/units.py writes it. */
export function seconds(value) {
  if (value >= 5400) return `${(value / 3600).toFixed(1)} h`;
  if (value >= 180) return `${(value / 60).toFixed(1)} min`;
  for (const [factor, unit] of [[1, "s"], [1e3, "ms"]]) {
    const found = value * factor;
    if (found >= 0.9995) return `${found.toFixed(found >= 99.95 ? 0 : 1)} ${unit}`;
  }
  return `${(value * 1e6).toFixed(0)} µs`;
}

export const counted = (number) => number.toLocaleString("en");

export function title(i) {
  const status = model.status(i);
  const answer = status ? ` ${status}` : "";
  const bad = model.failed(i) ? " failed" : model.outcome(i) === "cancelled" || (model.failedIn(i) && !model.failed(i)) ? " cancelled" : "";
  return `${model.method(i)}${answer}${bad}`;
}
