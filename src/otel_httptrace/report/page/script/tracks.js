// Tracks, as far as they are in sight. Requests narrower than two pixels are drawn together, as a column that shows the
// phases' shares of their time.

import { colours, fonts, patterns } from "./colours.js";
import { CHANNELS, first, placeOf } from "./lanes.js";
import { end, model, phases, start } from "./model.js";
import { context, from, gutter, time, until, width, x } from "./view.js";
import { lost } from "./words.js";

const widths = new Map();
function measure(text) {
  const key = context.font + text;
  let found = widths.get(key);
  if (found === undefined) {
    if (widths.size > 5000) widths.clear();
    widths.set(key, found = context.measureText(text).width);
  }
  return found;
}

export function fit(text, room) {
  if (room < 14) return "";
  if (measure(text) <= room) return text;
  let low = 0;
  let high = text.length;
  while (low < high) {
    const middle = low + high + 1 >> 1;
    if (context.measureText(`${text.slice(0, middle)}…`).width <= room) low = middle; else high = middle - 1;
  }
  return low ? `${text.slice(0, low)}…` : "";
}

export function drawTrack(track, y) {
  const { rows, sums, bad, lane } = track;
  const inset = track.height >= 22 ? 5 : track.height >= 16 ? 3 : 2;
  const top = y + inset;
  const tallness = track.height - 2 * inset;
  const right = width;
  // The connection, as far as it is known to have been there.
  if (lane.connection && track.number === 0) {
    const a = Math.max(gutter, x(start[lane.rows[0]]));
    const b = Math.min(right, x(end[lane.rows[lane.rows.length - 1]]));
    if (b > a) {
      context.fillStyle = colours["strong-rule"];
      context.fillRect(a, Math.round(y + track.height / 2 - 0.5), b - a, 1);
    }
  }
  let k = first(rows, (i) => end[i] >= from);
  if (k === rows.length || start[rows[k]] > until) drawElsewhere(k > 0, k < rows.length, y + track.height / 2);
  while (k < rows.length && start[rows[k]] <= until) {
    const i = rows[k];
    const x1 = x(start[i]);
    const x2 = x(end[i]);
    if (x2 - x1 >= 2) {
      drawRequest(i, x1, x2, top, tallness);
      k += 1;
      continue;
    }
    // All that begin in the next two pixels, except a wide one, which can only be the last of them.
    const edge = time(Math.floor(x1) + 2);
    let next = Math.max(k + 1, first(rows, (j) => start[j] >= edge, k));
    if (next - 1 > k && x(end[rows[next - 1]]) - x(start[rows[next - 1]]) >= 2) next -= 1;
    drawColumn(sums, k, next, Math.max(gutter, x1), top, tallness);
    if (bad[next] > bad[k]) {
      context.fillStyle = colours.failed;
      context.fillRect(Math.max(gutter, x1), top - 2, 2, 3);
    }
    k = next;
  }
  if (lane.close >= 0 && placeOf.get(lane.close) === placeOf.get(rows[0])) drawClose(lane, x(end[lane.close]), y, track.height);
}

/** Nothing of a lane is in sight: which way it is. */
function drawElsewhere(earlier, later, middle) {
  context.strokeStyle = colours["strong-rule"];
  context.lineWidth = 1.5;
  context.beginPath();
  for (const [is, at, by] of [[earlier, gutter + 7, 4], [later, width - 7, -4]]) {
    if (!is) continue;
    context.moveTo(at + by, middle - 4);
    context.lineTo(at, middle);
    context.lineTo(at + by, middle + 4);
  }
  context.stroke();
}

function drawColumn(sums, k, next, at, top, tallness) {
  let total = 0;
  for (let channel = 0; channel < CHANNELS; channel++) total += sums[next * CHANNELS + channel] - sums[k * CHANNELS + channel];
  let y = top + tallness;
  for (let channel = CHANNELS - 1; channel >= 0; channel--) {
    const value = sums[next * CHANNELS + channel] - sums[k * CHANNELS + channel];
    if (value <= 0) continue;
    const part = total > 0 ? value / total * tallness : tallness;
    y -= part;
    context.fillStyle = channel < phases.length ? colours[phases[channel]] : colours.rest;
    context.fillRect(at, y, 2, part);
  }
  if (total <= 0) {
    context.fillStyle = colours["strong-rule"];
    context.fillRect(at, top, 1, tallness);
  }
}

function drawRequest(i, x1, x2, top, tallness) {
  const left = Math.max(gutter - 4, x1);
  const right = Math.min(width + 4, x2);
  context.fillStyle = colours.rest;
  context.fillRect(left, top, right - left, tallness);
  const whole = end[i] - start[i];
  const scale = (x2 - x1) / whole;
  for (const [phase, a, b] of model.spans(i)) {
    const l = Math.max(left, x1 + a * scale);
    let r = Math.min(right, x1 + b * scale);
    // What is there is seen, however short.
    if (r - l < 1 && x2 - x1 > 12) r = Math.min(right, l + 1);
    if (r <= l) continue;
    context.fillStyle = colours[phases[phase]];
    context.fillRect(l, top, r - l, tallness);
    if (r - l > 7 && patterns[phase]) {
      context.fillStyle = patterns[phase];
      context.fillRect(l, top, r - l, tallness);
    }
    if (tallness >= 12 && r - l > 40) {
      context.font = `600 11px ${fonts.sans}`;
      const text = phases[phase];
      const room = measure(text) + 8;
      if (r - l >= room + 4) {
        const at = Math.max(l, gutter) + 4;
        context.fillStyle = colours[phases[phase]];
        context.fillRect(at - 2, top, room - 4, tallness);
        context.fillStyle = phases[phase] === "receive" ? colours.ink : colours.surface;
        context.textAlign = "left";
        context.fillText(text, at, top + tallness / 2 + 0.5);
      }
    }
  }
  // Requests that follow at once are told apart by a hair.
  if (x2 - x1 > 5) {
    context.fillStyle = colours.surface;
    context.fillRect(right - 1, top, 1, tallness);
  }
  if (model.failed(i)) {
    context.strokeStyle = colours.failed;
    context.lineWidth = 2;
    context.strokeRect(left + 0.5, top - 0.5, Math.max(1, right - left - 1.5), tallness + 1);
    if (right - left > 16 && tallness >= 10) {
      context.fillStyle = colours.failed;
      context.fillRect(right - 13, top, 12, tallness);
      context.fillStyle = colours.surface;
      context.font = `700 11px ${fonts.sans}`;
      context.textAlign = "center";
      context.fillText("!", right - 7, top + tallness / 2 + 0.5);
    }
  }
}

/**
 * The server's half of a lane. Its clock is another one, so only the length of a bar is told: it stands in the middle of
 * the wait for the headers, or begins with it where it is longer.
 */
export function drawHalves(item, y) {
  const { halves } = item;
  const top = y + 2;
  const tallness = item.height - 6;
  let k = first(halves, (i) => end[i] >= from);
  while (k < halves.length && start[halves[k]] <= until) {
    const i = halves[k];
    const { took, closed } = model.half(i);
    const wait = model.spans(i).find(([phase]) => phases[phase] === "wait");
    const [a, b] = wait ? [wait[1], wait[2]] : [0, end[i] - start[i]];
    const begins = start[i] + (took < b - a ? a + (b - a - took) / 2 : a);
    const left = Math.max(gutter, x(begins));
    const right = Math.min(width, x(Math.min(end[i], begins + took)));
    if (right >= gutter && left <= width) {
      context.fillStyle = colours.quiet;
      context.fillRect(left, top, Math.max(1, right - left), tallness);
    }
    if (closed && right >= gutter && right < width - 60) {
      context.font = `10px ${fonts.sans}`;
      context.textAlign = "left";
      context.fillText(fit(closed, width - right - 12), right + 5, y + item.height / 2);
    }
    // Of those that begin in the same pixel one is seen.
    const edge = time(Math.floor(x(start[i])) + 1);
    k = Math.max(k + 1, first(halves, (j) => start[j] >= edge, k));
  }
}

/** How a lane ends: a mark, and beside it, where there is room, why and at which line. */
function drawClose(lane, at, y, tallness) {
  if (at < gutter || at > width + 4) return;
  const reason = model.closed(lane.close);
  const bad = lost(lane.close);
  const middle = y + tallness / 2;
  const arm = Math.min(4, tallness / 3.4);
  context.fillStyle = context.strokeStyle = bad ? colours.failed : colours.quiet;
  context.fillRect(at - 0.75, y + 1, 1.5, tallness - 2);
  let textAt = at + 6;
  if (bad) {
    const cross = at + arm + 4;
    context.lineWidth = 1.8;
    context.beginPath();
    context.moveTo(cross - arm, middle - arm); context.lineTo(cross + arm, middle + arm);
    context.moveTo(cross + arm, middle - arm); context.lineTo(cross - arm, middle + arm);
    context.stroke();
    textAt = cross + arm + 5;
  } else {
    context.fillRect(at + 3, middle - 2.5, 5, 5);
    textAt = at + 13;
  }
  const size = tallness < 16 ? 10 : 11;
  context.textAlign = "left";
  context.font = `600 ${size}px ${fonts.sans}`;
  const line = model.at(lane.close);
  const room = width - textAt - 8;
  const name = fit(reason, room);
  if (name !== reason && room < 60) return;
  context.fillText(name, textAt, middle + 0.5);
  const used = measure(name) + 8;
  if (line && name === reason) {
    context.font = `${size}px ${fonts.mono}`;
    context.fillStyle = colours.quiet;
    context.fillText(room - used > 70 ? fit(line, room - used) : "", textAt + used, middle + 0.5);
  }
}
