// Lanes and tracks: what is drawn below each other, and where. A lane is a connection; its requests that overlap are
// on tracks of their own.

import { drawn, end, model, phases, start } from "./model.js";

/** What a track sums up: the time of each phase, and that which nothing accounts for. */
export const CHANNELS = phases.length + 1;

/** Lanes in the order of their first requests, grouped by process and origin. */
function makeLanes() {
  const lanes = model.raw.lanes.map((lane, number) => ({ number, connection: Math.max(0, lane[1]), seen: lane[1] >= 0, rows: [], close: -1 }));
  for (let i = 0; i < drawn; i++) {
    const lane = lanes[model.lane(i)];
    lane.rows.push(i);
    if (model.closed(i)) lane.close = i;
  }
  const groups = new Map();
  for (const lane of lanes) {
    const leader = lane.rows[0];
    const key = `${model.raw.columns.source[leader]} ${model.originNumber(leader)}`;
    if (!groups.has(key)) groups.set(key, { first: leader, lanes: [] });
    groups.get(key).lanes.push(lane);
  }
  const instances = new Map();
  for (const [service, instance] of model.raw.sources) instances.set(service, (instances.get(service) || new Set()).add(instance));
  for (const group of groups.values()) {
    const [service, instance] = model.source(group.first);
    const many = model.raw.sources.length > 1;
    group.title = [model.origin(group.first) || "origin unknown", many ? service || "unnamed service" : "", many && instances.get(service).size > 1 ? instance : ""].filter(Boolean).join("  ·  ");
    // Requests without a connection come last, for they are no lane of the network's.
    group.lanes.sort((one, other) => (one.connection ? 0 : 1) - (other.connection ? 0 : 1) || start[one.rows[0]] - start[other.rows[0]]);
  }
  return [...groups.values()];
}

/** Tracks of a lane: requests that overlap (HTTP/2, or waiting for a connection) are put below each other. */
function makeTracks(lane) {
  const tracks = [];
  // A heap of tracks, that which ends first on top.
  const heap = [];
  const less = (one, other) => one.until < other.until;
  const down = (k) => {
    for (;;) {
      let least = k;
      for (const child of [2 * k + 1, 2 * k + 2]) if (child < heap.length && less(heap[child], heap[least])) least = child;
      if (least === k) return;
      [heap[k], heap[least]] = [heap[least], heap[k]];
      k = least;
    }
  };
  for (const i of lane.rows) {
    // Clocks of start and end differ by a little: what overlaps by 1 µs does not.
    if (heap.length && heap[0].until <= start[i] + 1e-6) {
      heap[0].rows.push(i);
      heap[0].until = end[i];
      down(0);
    } else {
      const track = { lane, rows: [i], until: end[i] };
      tracks.push(track);
      let k = heap.push(track) - 1;
      while (k > 0 && less(heap[k], heap[k - 1 >> 1])) {
        [heap[k], heap[k - 1 >> 1]] = [heap[k - 1 >> 1], heap[k]];
        k = k - 1 >> 1;
      }
    }
  }
  for (const [number, track] of tracks.entries()) {
    track.number = number;
    // Time by phase of the requests before each, so that any number of them is summed up at once.
    const sums = track.sums = new Float64Array((track.rows.length + 1) * CHANNELS);
    const bad = track.bad = new Uint32Array(track.rows.length + 1);
    for (const [k, i] of track.rows.entries()) {
      const from = k * CHANNELS;
      for (let channel = 0; channel < CHANNELS; channel++) sums[from + CHANNELS + channel] = sums[from + channel];
      let rest = end[i] - start[i];
      for (const [phase, value] of model.times(i)) {
        sums[from + CHANNELS + phase] += value;
        rest -= value;
      }
      sums[from + CHANNELS + phases.length] += Math.max(0, rest);
      bad[k + 1] = bad[k] + (model.failed(i) ? 1 : 0);
    }
  }
  return tracks;
}

/** What is drawn below each other: headings of groups, and tracks. */
export const items = [];
/** The item that a request is on. */
export const placeOf = new Map();
const groups = makeLanes();
for (const group of groups) {
  if (groups.length > 1) items.push({ heading: group.title, lanes: group.lanes.length });
  for (const lane of group.lanes) {
    for (const track of makeTracks(lane)) {
      for (const i of track.rows) placeOf.set(i, items.length);
      items.push(track);
    }
    // What the server says of the requests on it, each as long as the server's span, has a line of its own under it.
    const halves = lane.rows.filter((i) => model.half(i)?.took >= 0);
    if (halves.length) items.push({ lane, halves });
  }
}
/** The items that are tracks, and which of them an item is. */
export const tracks = items.map((item, k) => item.rows ? k : -1).filter((k) => k >= 0);
export const rank = new Map(tracks.map((k, number) => [k, number]));
export const tall = tracks.length <= 400 ? 26 : tracks.length <= 2000 ? 18 : 14;
export let height = 0;
for (const item of items) {
  item.top = height;
  item.height = item.heading ? 30 : item.halves ? 12 : item.number > 0 && !item.lane.connection ? Math.min(tall, 16) : tall;
  height += item.height;
}
height += 8;

/** The first k of *rows*, from *low* on, for which *past* holds: a binary search. */
export function first(rows, past, low = 0) {
  let high = rows.length;
  while (low < high) {
    const middle = low + high >> 1;
    if (past(rows[middle])) high = middle; else low = middle + 1;
  }
  return low;
}
