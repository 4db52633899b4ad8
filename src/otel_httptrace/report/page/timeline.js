// The connections over time, on a canvas. Only what is in sight is drawn: lanes are found by binary search over
// their positions, requests by binary search over their times, and requests narrower than two pixels are drawn
// together, as a column that shows the phases' shares of their time. So a frame costs about as much as the canvas
// has pixels across, whatever there is.
//
// A canvas says nothing to a screen reader. The grid around it therefore holds the chosen request, those beside it
// and the nearest ones on the lanes above and below as elements of their own.

const timeline = (() => {
  const box = document.getElementById("lanes");
  if (!box) return { start() {}, neighbours: () => [-1, -1], choose() {}, reveal() {} };
  const card = box.closest(".timeline");
  const canvas = box.querySelector("canvas");
  const spacer = box.querySelector(".spacer");
  const mirror = document.getElementById("mirror");
  const tip = document.getElementById("tip");
  const chosenText = document.getElementById("chosen");
  const overview = document.getElementById("overview");
  const brush = overview.querySelector(".brush");
  const context = canvas.getContext("2d", { alpha: false });
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const { start, end, drawn, phases } = model;
  const CHANNELS = phases.length + 1;
  const AXIS = 24;

  // ---- Lanes -------------------------------------------------------------------------------------------------

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
      const first = lane.rows[0];
      const key = `${model.raw.columns.source[first]} ${model.originNumber(first)}`;
      if (!groups.has(key)) groups.set(key, { first, lanes: [] });
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
  const items = [];
  const placeOf = new Map();
  const groups = makeLanes();
  for (const group of groups) {
    if (groups.length > 1) items.push({ heading: group.title, lanes: group.lanes.length });
    for (const lane of group.lanes) {
      for (const track of makeTracks(lane)) {
        for (const i of track.rows) placeOf.set(i, items.length);
        items.push(track);
      }
    }
  }
  const trackCount = items.reduce((sum, item) => sum + (item.rows ? 1 : 0), 0);
  const tall = trackCount <= 400 ? 26 : trackCount <= 2000 ? 18 : 14;
  let height = 0;
  for (const item of items) {
    item.top = height;
    item.height = item.heading ? 30 : item.number > 0 && !item.lane.connection ? Math.min(tall, 16) : tall;
    height += item.height;
  }
  height += 8;

  // ---- The view ----------------------------------------------------------------------------------------------

  let last = 0;
  for (let i = 0; i < drawn; i++) last = Math.max(last, end[i]);
  if (!(last > 0)) last = 1e-3;
  const FULL = [-last * 0.01, last * 1.01];
  let [from, until] = FULL;
  let width = 0;
  let shownHeight = 0;
  let gutter = 84;
  let chosen = -1;
  let hovered = -1;
  let waiting = false;
  let frames = 0;

  const x = (time) => gutter + (time - from) / (until - from) * (width - gutter);
  const time = (at) => from + (at - gutter) / (width - gutter) * (until - from);

  /** The first k of *rows*, from *low* on, for which *past* holds: a binary search. */
  function first(rows, past, low = 0) {
    let high = rows.length;
    while (low < high) {
      const middle = low + high >> 1;
      if (past(rows[middle])) high = middle; else low = middle + 1;
    }
    return low;
  }

  let moving = 0;
  function view(newFrom, newUntil, animated = false) {
    const least = 2e-5;
    const full = FULL[1] - FULL[0];
    let span = Math.min(Math.max(newUntil - newFrom, least), full);
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

  function zoom(factor, around = (from + until) / 2, animated = false) {
    view(around - (around - from) * factor, around + (until - around) * factor, animated);
  }
  const pan = (share, animated = false) => view(from + (until - from) * share, until + (until - from) * share, animated);

  // ---- Colours -----------------------------------------------------------------------------------------------

  let colours = {};
  let patterns = [];
  let fonts = {};

  function readColours() {
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

  // ---- Drawing -----------------------------------------------------------------------------------------------

  function request() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }

  function resize() {
    const scale = devicePixelRatio || 1;
    width = box.clientWidth;
    if (!width) return;
    gutter = width < 500 ? 46 : 84;
    const room = parseFloat(getComputedStyle(box).maxHeight) || Infinity;
    shownHeight = Math.max(80, Math.min(AXIS + height, room));
    spacer.style.height = `${Math.max(0, AXIS + height - shownHeight)}px`;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(shownHeight * scale);
    canvas.style.height = `${shownHeight}px`;
    drawOverview();
    draw();
  }

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

  function draw() {
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
      const text = `${counted(trackCount - (rank.get(trackAt(scrolled + shownHeight - AXIS - 1)) + 1))} more below`;
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

  function drawName(item, y) {
    const { lane } = item;
    const chosenHere = chosen >= 0 && items[placeOf.get(chosen)].lane === lane;
    context.textAlign = "right";
    context.font = `${chosenHere ? "650 " : ""}${item.height < 16 ? 10 : 12}px ${fonts.sans}`;
    context.fillStyle = chosenHere ? colours.ink : colours.quiet;
    const name = lane.connection ? `#${lane.connection}` : lane.seen ? "none" : "not seen";
    context.fillText(fit(name, gutter - 14), gutter - 9, y + item.height / 2);
  }

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

  function fit(text, room) {
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

  function drawTrack(track, y) {
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
      let l = Math.max(left, x1 + a * scale);
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

  /** How a lane ends: a mark, and beside it, where there is room, why and at which line. */
  function drawClose(lane, at, y, tallness) {
    if (at < gutter || at > width + 4) return;
    const reason = model.closed(lane.close);
    const lost = !AGREED.has(reason);
    const middle = y + tallness / 2;
    const arm = Math.min(4, tallness / 3.4);
    context.fillStyle = context.strokeStyle = lost ? colours.failed : colours.quiet;
    context.fillRect(at - 0.75, y + 1, 1.5, tallness - 2);
    let textAt = at + 6;
    if (lost) {
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

  // ---- The overview ------------------------------------------------------------------------------------------

  function drawOverview() {
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

  function problem(i) { return model.failed(i) || !AGREED.has(model.closed(i)); }

  // ---- Where the lanes in sight are, and which lanes are at the time in sight -----------------------------------

  /** The track at a position, or the next one below. */
  function trackAt(y) {
    let k = Math.min(items.length - 1, first(items, (item) => item.top + item.height > y));
    while (items[k].heading && k + 1 < items.length) k += 1;
    return k;
  }

  /** When the tracks in sight were used, first to last, and whether any was at the time in sight. */
  function inWindow() {
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
  function follow() {
    const [earliest, , any] = inWindow();
    if (any || earliest === Infinity) return;
    const span = until - from;
    view(earliest - span * 0.05, earliest + span * 0.95);
  }

  /** And going on in time scrolls down. */
  function followDown() {
    if (inWindow()[2]) return;
    const k = items.findIndex(({ rows }) => rows && start[rows[0]] <= until && end[rows[rows.length - 1]] >= from);
    if (k >= 0) box.scrollTop = items[k].top - tall;
  }

  // ---- Choosing ----------------------------------------------------------------------------------------------

  function sentence(i) {
    const parts = [title(i), seconds(model.duration(i))];
    for (const [phase, value] of model.times(i)) parts.push(`${phases[phase]} ${seconds(value)}`);
    return parts.join(", ");
  }

  function laneName(lane) {
    if (!lane.connection) return lane.seen ? "No connection obtained" : "Connection not seen";
    const close = lane.close >= 0 ? `, closed: ${model.closed(lane.close)}${model.at(lane.close) ? ` at ${model.at(lane.close)}` : ""}` : "";
    return `Connection ${lane.connection}, ${lane.rows.length} request${lane.rows.length === 1 ? "" : "s"}${close}`;
  }

  const tracksOnly = items.map((item, k) => item.rows ? k : -1).filter((k) => k >= 0);
  const rank = new Map(tracksOnly.map((k, number) => [k, number]));

  function reflect() {
    const place = placeOf.get(chosen);
    const rows = [];
    for (const offset of [-1, 0, 1]) {
      const k = tracksOnly[rank.get(place) + offset];
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

  function describe() {
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

  function choose(i, show = true) {
    if (!placeOf.has(i)) return;
    chosen = i;
    if (show) inSight(i);
    reflect();
    describe();
    request();
  }

  function nearest(track, at) {
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

  function hit(event) {
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
  function neighbours(i) {
    const { rows, connection } = items[placeOf.get(i)].lane;
    if (!connection) return [-1, -1];
    const k = first(rows, (j) => j >= i);
    return [k > 0 ? rows[k - 1] : -1, k + 1 < rows.length ? rows[k + 1] : -1];
  }

  /** Bring a request into sight, large enough to be seen, and the focus to it. */
  function reveal(i) {
    const length = Math.max(end[i] - start[i], 2e-5);
    if (x(end[i]) - x(start[i]) < 40) view(start[i] - length * 4, end[i] + length * 6);
    choose(i);
    box.focus({ preventScroll: true });
    card.scrollIntoView({ block: "center" });
  }

  function nextProblem() {
    const from_ = chosen;
    for (let k = 1; k <= drawn; k++) {
      const i = (from_ + k + drawn) % drawn;
      if (problem(i)) { choose(i); return; }
    }
    say("There is no failed request and no lost connection.");
  }

  // ---- Hands -------------------------------------------------------------------------------------------------

  const DO = {
    in: () => zoom(0.5, aim(), true),
    out: () => zoom(2, aim(), true),
    left: () => pan(-0.25, true),
    right: () => pan(0.25, true),
    fit: () => view(...FULL, true),
    problem: nextProblem,
  };
  /** Where to zoom to: the chosen request, if it is in sight. */
  function aim() {
    const middle = chosen >= 0 ? (start[chosen] + end[chosen]) / 2 : NaN;
    return middle >= from && middle <= until ? middle : (from + until) / 2;
  }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const place = chosen >= 0 ? placeOf.get(chosen) : -1;
    const item = items[place];
    const within = (offset) => {
      if (place < 0) return choose(items[tracksOnly[0]].rows[0]);
      const { rows } = item;
      const k = first(rows, (i) => i >= chosen) + offset;
      choose(rows[Math.min(rows.length - 1, Math.max(0, k))]);
    };
    const across = (offset) => {
      if (place < 0) return within(0);
      const k = tracksOnly[Math.min(tracksOnly.length - 1, Math.max(0, rank.get(place) + offset))];
      if (k !== place) choose(items[k].rows[nearest(items[k], (start[chosen] + end[chosen]) / 2)]);
    };
    const open = () => { if (chosen >= 0) location.hash = `request-${chosen}`; };
    const page = Math.max(1, Math.floor((shownHeight - AXIS) / tall) - 1);
    const keys = {
      ArrowLeft: () => event.shiftKey ? DO.left() : within(-1),
      ArrowRight: () => event.shiftKey ? DO.right() : within(1),
      ArrowUp: () => across(-1), ArrowDown: () => across(1),
      PageUp: () => across(-page), PageDown: () => across(page),
      Home: () => within(-Infinity), End: () => within(Infinity),
      Enter: open,
      " ": open,
      "+": DO.in, "=": DO.in, "-": DO.out, "_": DO.out, 0: DO.fit, n: DO.problem, N: DO.problem,
    };
    const call = keys[event.key];
    if (!call) return;
    event.preventDefault();
    tip.hidden = true;
    call();
  }

  function hover(event) {
    const i = hit(event);
    box.style.cursor = i >= 0 ? "pointer" : "default";
    if (i !== hovered) {
      hovered = i;
      request();
    }
    if (i < 0 || event.pointerType === "touch") { tip.hidden = true; return; }
    const lines = [make("p", null, `${title(i)} · ${seconds(model.duration(i))}`), make("p", null, model.times(i).map(([phase, value]) => `${phases[phase]} ${seconds(value)}`).join(" · ") || "no phases seen")];
    if (model.opened(i)) lines.push(make("p", null, "opened: ", make("code", null, model.opened(i))));
    if (model.closed(i)) lines.push(make("p", null, "closed: ", make("code", null, model.closed(i))));
    if (model.at(i)) lines.push(make("p", null, make("code", null, make("bdi", null, model.at(i)))));
    tip.replaceChildren(...lines);
    tip.hidden = false;
    const area = card.getBoundingClientRect();
    const left = Math.min(event.clientX - area.left + 14, area.width - tip.offsetWidth - 8);
    const below = event.clientY - area.top + 18;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below + tip.offsetHeight > area.height ? below - tip.offsetHeight - 30 : below}px`;
  }

  function hands() {
    const pointers = new Map();
    let moved = 0;
    box.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      pointers.set(event.pointerId, event);
      moved = 0;
    });
    box.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) { hover(event); return; }
      const perPixel = (until - from) / (width - gutter);
      if (pointers.size === 2) {
        const [other] = [...pointers.values()].filter((one) => one.pointerId !== event.pointerId);
        const was = Math.abs(before.clientX - other.clientX);
        const is = Math.abs(event.clientX - other.clientX);
        if (was > 10 && is > 10) zoom(was / is, time((event.clientX + other.clientX) / 2 - box.getBoundingClientRect().left));
      } else {
        const by = event.clientX - before.clientX;
        moved += Math.abs(by);
        if (moved > 4) {
          box.setPointerCapture(event.pointerId);
          tip.hidden = true;
          box.style.cursor = "grabbing";
          view(from - by * perPixel, until - by * perPixel);
        } else return;
      }
      pointers.set(event.pointerId, event);
    });
    const up = (event) => { pointers.delete(event.pointerId); };
    box.addEventListener("pointerup", up);
    box.addEventListener("pointercancel", up);
    box.addEventListener("pointerleave", () => {
      tip.hidden = true;
      if (hovered >= 0) { hovered = -1; request(); }
    });
    box.addEventListener("click", (event) => {
      if (moved > 4) return;
      const i = hit(event);
      if (i < 0) return;
      if (i === chosen) location.hash = `request-${i}`; else choose(i, false);
    });
    box.addEventListener("dblclick", (event) => {
      if (hit(event) < 0) zoom(0.4, time(event.clientX - box.getBoundingClientRect().left), true);
    });
    box.addEventListener("wheel", (event) => {
      const sideways = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
      if (event.ctrlKey || event.metaKey || event.altKey) {
        event.preventDefault();
        const at = event.clientX - box.getBoundingClientRect().left;
        zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.006), time(Math.max(gutter, at)));
      } else if (Math.abs(sideways) > Math.abs(event.shiftKey ? 0 : event.deltaY)) {
        event.preventDefault();
        pan(sideways / (width - gutter));
      }
    }, { passive: false });
    box.addEventListener("scroll", () => {
      tip.hidden = true;
      follow();
      request();
    });
    box.addEventListener("keydown", key);
    box.addEventListener("focus", () => {
      if (chosen < 0 && box.matches(":focus-visible")) choose(items[tracksOnly[0]].rows[0], false);
    });
    const drag = (event) => {
      const at = (event.clientX - overview.getBoundingClientRect().left - gutter) / (width - gutter);
      const middle = FULL[0] + at * (FULL[1] - FULL[0]);
      view(middle - (until - from) / 2, middle + (until - from) / 2);
      followDown();
    };
    overview.addEventListener("pointerdown", (event) => {
      overview.setPointerCapture(event.pointerId);
      drag(event);
    });
    overview.addEventListener("pointermove", (event) => { if (overview.hasPointerCapture(event.pointerId)) drag(event); });
    for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", DO[button.dataset.do]);
  }

  function start_() {
    if (!tracksOnly.length) return;
    card.hidden = false;
    document.querySelector(".tools").hidden = false;
    box.setAttribute("aria-rowcount", tracksOnly.length);
    readColours();
    describe();
    resize();
    // With more lanes than a few screens of them, all of the time would show next to nothing of any.
    if (height > 3 * shownHeight) {
      const [earliest, latest] = inWindow();
      if (latest - earliest < last / 3) view(earliest - (latest - earliest) * 0.03, latest + (latest - earliest) * 0.3);
    }
    hands();
    new ResizeObserver(() => { if (box.clientWidth !== width) resize(); }).observe(box);
    const repaint = () => { readColours(); resize(); };
    for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", repaint);
    document.addEventListener("themechange", repaint);
  }

  return { start: start_, neighbours, choose, reveal };
})();
