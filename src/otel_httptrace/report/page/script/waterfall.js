// The waterfall of a request: its steps and phases, below each other.

import { make } from "./dom.js";
import { model } from "./model.js";
import { seconds } from "./words.js";

const BY_STEP = { "http.dns": "dns", "http.connect": "connect", "http.proxy": "proxy", "http.tls": "tls", "http.send": "send", "http.wait": "wait", "http.receive": "receive" };
const WHY = new Set(["dns.question.name", "dns.answers", "network.peer.address", "network.peer.port", "tls.protocol.version", "tls.next_protocol", "http.response.status_code", "httptrace.failed_phase", "error.type", "httptrace.conn.close_reason"]);

/** What is drawn: {name, kind, start, duration, depth, why}. Steps are where they were, other phases where they must have been. */
function parts(i) {
  const steps = model.steps(i);
  let before = false;
  const seen = new Set(steps.filter((step) => {
    if (step.depth <= 1) before = step.name === "http.exchange";
    return !before;
  }).map((step) => BY_STEP[step.name]));
  const rest = model.spans(i).filter(([phase]) => !seen.has(model.phases[phase])).map(([phase, from, until]) => ({
    name: model.phases[phase], kind: `p-${model.phases[phase]}`, start: from, duration: until - from, depth: 1,
  }));
  const own = steps.map((step) => ({
    name: step.name, kind: BY_STEP[step.name] ? `p-${BY_STEP[step.name]}` : "step", start: step.start, duration: step.duration, depth: step.depth,
    why: step.attributes.filter(([key]) => WHY.has(key)).map(([, value]) => String(value)).join(", "),
  }));
  // Steps stay beneath what they are part of; a phase is put before the first that begins after it.
  for (const one of rest) {
    const k = own.findIndex((other) => other.depth === 1 && other.start > one.start + 1e-9);
    if (k < 0) own.push(one); else own.splice(k, 0, one);
  }
  return own;
}

export function waterfall(i) {
  const whole = Math.max(model.end[i] - model.start[i], 1e-9);
  const row = (name, kind, from, duration, depth, why) => {
    const bar = make("div", { class: `bar ${kind}`, title: `${name}: ${seconds(duration)}, from ${seconds(Math.max(0, from))} on` });
    const left = Math.min(100, Math.max(0, from / whole * 100));
    bar.style.left = `min(${left}%, 100% - 2px)`;
    bar.style.width = `${Math.min(100 - left, duration / whole * 100)}%`;
    return make("tr", null,
      make("th", { scope: "row", class: `d${Math.min(3, depth)}` }, name, why ? make("div", { class: "why" }, why) : null),
      make("td", { class: "lane" }, bar),
      make("td", { class: "num" }, seconds(duration)));
  };
  return make("table", { class: "fall" },
    make("colgroup", null, make("col", { class: "part" }), make("col"), make("col", { class: "time" })),
    make("thead", null, make("tr", null,
      make("th", { scope: "col" }, "Part"),
      make("th", { scope: "col", class: "lane" }, make("span", { class: "sr" }, "When"), make("div", { class: "ticks", "aria-hidden": "true" }, [0, 1, 2, 3].map((k) => make("span", null, k ? seconds(whole * k / 4) : "0")))),
      make("th", { scope: "col", class: "num" }, "Time"))),
    make("tbody", null,
      row(model.method(i), "whole", 0, model.duration(i), 0),
      parts(i).map((one) => row(one.name, one.kind, one.start, one.duration, one.depth, one.why))));
}
