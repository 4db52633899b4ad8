// The colours of the page, for its canvases: those of phases have a pattern, too.

import { make } from "./dom.js";
import { phases } from "./model.js";
import { context } from "./view.js";

export const colours = {};
/** By number of the phase; null for one without. */
export let patterns = [];
export let fonts = {};

export function readColours() {
  const probe = make("span", { hidden: true });
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  for (const name of ["surface", "sunk", "ink", "quiet", "rule", "strong-rule", "accent", "failed", "rest", "stripe", "waste", ...phases]) colours[name] = colour(name);
  fonts = { sans: getComputedStyle(document.body).fontFamily, mono: getComputedStyle(document.querySelector("code") || document.body).fontFamily };
  probe.remove();
  patterns = phases.map((phase) => pattern(phase));
}

function pattern(phase) {
  const scale = devicePixelRatio || 1;
  const size = phase === "receive" ? 7 : phase === "proxy" || phase === "send" || phase === "pool" ? 4 : 6;
  const tile = document.createElement("canvas");
  tile.width = tile.height = Math.round(size * scale);
  const paint = tile.getContext("2d");
  paint.scale(tile.width / size, tile.width / size);
  paint.strokeStyle = paint.fillStyle = colours.stripe;
  paint.lineWidth = 1.5;
  const line = (...points) => {
    paint.beginPath();
    for (let k = 0; k < points.length; k += 4) { paint.moveTo(points[k], points[k + 1]); paint.lineTo(points[k + 2], points[k + 3]); }
    paint.stroke();
  };
  const up = [-1, 1, 1, -1, 0, size, size, 0, size - 1, size + 1, size + 1, size - 1];
  const fall = up.map((value, k) => k % 2 ? size - value : value);
  if (phase === "pool" || phase === "receive") { paint.beginPath(); paint.arc(size / 2, size / 2, phase === "pool" ? 1.1 : 0.9, 0, 7); paint.fill(); }
  else if (phase === "dns") line(...up);
  else if (phase === "connect") line(...fall);
  else if (phase === "tls") { paint.lineWidth = 1; line(...up); line(...fall); }
  else if (phase === "proxy") line(0, 1, size, 1);
  else if (phase === "send") line(1, 0, 1, size);
  else return null;
  const made = context.createPattern(tile, "repeat");
  made.setTransform(new DOMMatrix().scale(1 / scale));
  return made;
}
