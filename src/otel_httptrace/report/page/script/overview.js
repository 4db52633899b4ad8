// All of the time at a glance: how many requests were under way, and where there were problems.

import { colours, fonts } from "./colours.js";
import { drawn, end, start } from "./model.js";
import { FULL, gutter, overview, width } from "./view.js";
import { problem } from "./words.js";

export function drawOverview() {
  const paper = overview.querySelector("canvas");
  const scale = devicePixelRatio || 1;
  const high = 52;
  paper.width = Math.round(width * scale);
  paper.height = Math.round(high * scale);
  const paint = paper.getContext("2d");
  paint.scale(scale, scale);
  paint.clearRect(0, 0, width, high);
  const bins = Math.max(1, Math.floor((width - gutter) / 2));
  const busy = new Float64Array(bins + 1);
  const bad = new Uint32Array(bins);
  const bin = (at) => Math.min(bins - 1, Math.max(0, Math.floor((at - FULL[0]) / (FULL[1] - FULL[0]) * bins)));
  for (let i = 0; i < drawn; i++) {
    busy[bin(start[i])] += 1;
    busy[bin(end[i]) + 1] -= 1;
    if (problem(i)) bad[bin(end[i])] += 1;
  }
  let most = 0;
  for (let k = 0, sum = 0; k < bins; k++) { sum += busy[k]; busy[k] = sum; most = Math.max(most, sum); }
  const room = high - 16;
  for (let k = 0; k < bins; k++) {
    const tallness = most ? busy[k] / most * room : 0;
    paint.fillStyle = colours.wait;
    if (tallness > 0) paint.fillRect(gutter + k * 2, high - 5 - Math.max(1, tallness), 2, Math.max(1, tallness));
    if (bad[k]) {
      paint.fillStyle = colours.failed;
      paint.fillRect(gutter + k * 2, high - 4, 2, 4);
    }
  }
  paint.font = `11px ${fonts.sans}`;
  paint.fillStyle = colours.quiet;
  paint.textAlign = "right";
  paint.textBaseline = "top";
  if (gutter > 60) {
    paint.fillText(`${most} at once`, gutter - 9, 8);
    if (bad.some((number) => number > 0)) {
      paint.fillStyle = colours.failed;
      paint.textBaseline = "bottom";
      paint.fillText("problems", gutter - 9, high - 1);
    }
  }
}
