// The requests, from the JSON of report/page/data.py. All times are in seconds since the first request began.

export const model = (() => {
  const raw = JSON.parse(document.getElementById("data").textContent);
  const { columns, strings, phases } = raw;
  const count = columns.duration.length;
  const start = new Float64Array(count);
  const end = new Float64Array(count);
  // Sums over the requests so far, for a request's phases and for the time that nothing accounts for.
  let at = 0;
  for (let i = 0; i < count; i++) {
    at += columns.start[i];
    start[i] = at / 1e6;
    let known = 0;
    const values = columns.phases[i];
    for (let k = 1; k < values.length; k++) known += values[k];
    // With span_end="headers" a span ends before its body does: the phases say how long it really took.
    end[i] = (at + Math.max(columns.duration[i], known)) / 1e6;
  }

  /** Seconds by phase, of those that were observed: [[phase, seconds], ...]. */
  function times(i) {
    const values = columns.phases[i];
    const found = [];
    for (let bit = 0, k = 1; bit < phases.length; bit++) if (values[0] & 1 << bit) found.push([bit, values[k++] / 1e6]);
    return found;
  }

  const SEND = phases.indexOf("send");

  /** When each phase was: [[phase, start, end], ...] since the request began. Sending and what follows comes last. */
  function spans(i) {
    const found = [];
    const late = [];
    const steps = raw.steps[i] || [];
    let left = 0;
    let right = end[i] - start[i];
    for (const [phase, seconds] of times(i)) {
      if (phase < SEND) {
        // Where its child span was, if it has one: there may be time between them.
        const name = `http.${phases[phase]}`;
        let before = false;
        for (let k = 0; k < steps.length; k += 5) {
          // What was sent before, within the same request, has steps of its own.
          if (steps[k + 3] <= 1) before = strings[steps[k]] === "http.exchange";
          if (!before && strings[steps[k]] === name) {
            left = Math.max(left, steps[k + 1] / 1e6);
            break;
          }
        }
        found.push([phase, left, left += seconds]);
      } else late.push([phase, seconds]);
    }
    const before = found.length;
    for (const [phase, seconds] of late.reverse()) {
      found.splice(before, 0, [phase, Math.max(0, right - seconds), right]);
      right -= seconds;
    }
    return found;
  }

  let bytes = null;
  function ids(i) {
    if (raw.odd[i]) return raw.odd[i];
    bytes = bytes || atob(raw.ids);
    const hex = (from, to) => {
      let text = "";
      for (let k = from; k < to; k++) text += bytes.charCodeAt(k).toString(16).padStart(2, "0");
      return text;
    };
    return [hex(i * 24, i * 24 + 16), hex(i * 24 + 16, i * 24 + 24)];
  }

  /** Where Jaeger shows it with its details open: report/look.py. Empty if there is none. */
  function address(i) {
    const [trace, span] = ids(i);
    return raw.jaeger && /^[0-9a-f]{32} [0-9a-f]{16}$/.test(`${trace} ${span}`) ? `${raw.jaeger}/trace/${trace}?uiFind=${span}` : "";
  }

  function pairs(flat) {
    const found = [];
    for (let k = 0; k < flat.length; k += 2) {
      found.push(flat[k] < 0 ? [raw.shown[-1 - flat[k]], strings[flat[k + 1]]] : [raw.shown[flat[k]], flat[k + 1]]);
    }
    return found;
  }

  const text = (name) => (i) => strings[columns[name][i]];
  const flag = (bit) => (i) => (columns.flags[i] & bit) !== 0;

  return {
    raw, count, start, end, phases, times, spans, ids, address, drawn: raw.drawn, begin: raw.begin,
    connection: (i) => columns.connection[i],
    lane: (i) => columns.lane[i],
    status: (i) => columns.status[i],
    duration: (i) => columns.duration[i] / 1e6,
    source: (i) => raw.sources[columns.source[i]],
    origin: (i) => raw.origins[columns.origin[i]],
    originNumber: (i) => columns.origin[i],
    path: text("path"), method: text("method"), outcome: text("outcome"), opened: text("opened"), closed: text("closed"),
    failedIn: text("failed"), at: text("at"), via: text("via"),
    failed: flag(1), reused: flag(2), dialled: flag(4), observed: flag(8),
    more: (i) => pairs(columns.more[i]),
    steps: (i) => {
      const flat = raw.steps[i] || [];
      const found = [];
      for (let k = 0; k < flat.length; k += 5) {
        found.push({ name: strings[flat[k]], start: flat[k + 1] / 1e6, duration: flat[k + 2] / 1e6, depth: flat[k + 3], attributes: pairs(raw.sets[flat[k + 4]]) });
      }
      return found;
    },
    /** What the server says of it: null if nothing is known. */
    half: (i) => {
      const told = raw.halves?.[i];
      if (!told) return null;
      const word = (number) => number === undefined ? "" : strings[number];
      return {
        ...told, closed: word(told.closed), lost: word(told.lost), service: told.source === undefined ? "" : raw.sources[told.source][0],
        took: told.took === undefined ? -1 : told.took / 1e6, idle: (told.idle || 0) / 1e6, lostIdle: (told.lost_idle || 0) / 1e6,
      };
    },
    links: (i) => (raw.links[i] || []).map(([kind, target, trace, span]) => ({
      kind: ["lost_by", "held_by", "opened_by"][kind], target, trace: strings[trace], span: strings[span],
    })),
  };
})();
export const { start, end, drawn, phases } = model;
