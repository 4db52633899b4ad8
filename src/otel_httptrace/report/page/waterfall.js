// One request in a dialog: what happened in words, its waterfall, its attributes.

const waterfall = (() => {
  const dialog = document.getElementById("request");
  const because = model.raw.because;
  let shown = -1;
  let returnTo = null;

  const code = (text) => make("code", null, make("bdi", null, text));
  const to = (i, text) => make("a", { href: `#request-${i}` }, text);

  const why = (table, reason) => table[reason] ? `: ${table[reason]}.` : ".";

  function story(i) {
    const found = [];
    const add = (bad, ...parts) => found.push(make("li", { class: bad ? "bad" : null }, parts));
    const more = new Map(model.more(i));
    const number = model.connection(i);
    const links = model.links(i);
    if (!model.observed(i)) add(false, "Nothing is known of its connection: otel-httptrace did not see it.");
    if (model.dialled(i)) {
      const reason = model.opened(i);
      add(!["", "first_connection", "all_busy"].includes(reason), `Opened connection ${number || ""} `, reason ? ["because of ", code(reason), why(because.opened, reason)] : ".");
    } else if (model.reused(i)) {
      const idle = more.get("httptrace.conn.idle");
      const before = more.get("httptrace.conn.requests");
      add(false, `Reused connection ${number || ""}${before ? `, which had carried ${counted(before)} request${before === 1 ? "" : "s"}` : ""}${idle ? ` and had been idle for ${seconds(idle)}` : ""}.`);
    }
    for (const link of links.filter((one) => one.kind === "lost_by")) {
      const line = link.target >= 0 ? model.at(link.target) : "";
      add(true, "The connection before was lost by ", link.target >= 0 ? to(link.target, "this request") : ["span ", code(link.span), " of trace ", code(link.trace)], line ? [" at ", code(line)] : "", ".");
    }
    const held = links.filter((one) => one.kind === "held_by");
    if (held.length) {
      add(true, "The pool was held by ", held.map((link, k) => [k ? ", " : "", link.target >= 0 ? to(link.target, `request ${link.target + 1}`) : code(link.span)]), ".");
    }
    if (model.failedIn(i)) add(true, `${model.failed(i) ? "Failed" : "Was cancelled"} in phase `, code(model.failedIn(i)), more.get("error.type") ? [" with ", code(String(more.get("error.type")))] : "", ".");
    const outcome = model.outcome(i);
    if (outcome && outcome !== "complete") {
      const read = more.get("httptrace.body.bytes_read");
      const size = more.get("http.response.body.size");
      const much = read === undefined ? "" : `, after ${counted(read)}${size === undefined ? "" : ` of ${counted(size)}`} bytes`;
      add(true, `Its body was ${because.outcome[outcome] || outcome}${much}`, model.at(i) ? [" at ", code(model.at(i))] : "", model.via(i) ? [", through ", code(model.via(i))] : "", ".");
    }
    if (model.closed(i)) add(!AGREED.has(model.closed(i)), "The connection was then closed because of ", code(model.closed(i)), why(because.closed, model.closed(i)));
    return found.length ? make("ul", { class: "story" }, found) : null;
  }

  const BY_STEP = { "http.dns": "dns", "http.connect": "connect", "http.proxy": "proxy", "http.tls": "tls", "http.send": "send", "http.wait": "wait", "http.receive": "receive" };

  /** What is drawn: {name, kind, start, duration, depth, why}. Steps are where they were, other phases where they must have been. */
  function parts(i) {
    const steps = model.steps(i);
    const seen = new Set(steps.map((step) => BY_STEP[step.name]));
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
  const WHY = new Set(["dns.question.name", "dns.answers", "network.peer.address", "network.peer.port", "tls.protocol.version", "tls.next_protocol", "error.type"]);

  function fall(i) {
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

  function details(i) {
    const found = [...model.more(i)];
    for (const [name, value] of [["httptrace.body.outcome", model.outcome(i)], ["httptrace.conn.open_reason", model.opened(i)], ["httptrace.conn.close_reason", model.closed(i)], ["httptrace.body.closed_at", model.at(i)], ["httptrace.body.closed_via", model.via(i)]]) if (value) found.push([name, value]);
    for (const step of model.steps(i)) for (const [name, value] of step.attributes) found.push([`${step.name} ${name}`, value]);
    if (!found.length) return null;
    return make("details", null, make("summary", null, "Recorded attributes"),
      make("dl", { class: "more" }, found.map(([name, value]) => make("div", null, make("dt", null, name), make("dd", null, make("bdi", null, String(value)))))));
  }

  function copied(label, value) {
    return make("span", null, `${label} `, code(value), make("button", { type: "button", class: "copy", "data-copy": value, "aria-label": `Copy ${label} id ${value}` }, "Copy"));
  }

  function when(i) {
    const at = model.start[i];
    if (Math.abs(at) < 1e-6) return "the first request";
    return at > 0 ? `${seconds(at)} after the first request` : `${seconds(-at)} before the first of the timeline`;
  }

  function draw(i) {
    const [trace, span] = model.ids(i);
    const drawn = i < model.drawn;
    const [before, after] = drawn ? timeline.neighbours(i) : [-1, -1];
    const step = (target, text) => make("button", { type: "button", class: "button", disabled: target < 0, on: { click: () => { location.replace(`#request-${target}`); } } }, text);
    dialog.replaceChildren(make("div", { class: "sheet" },
      make("header", null,
        make("div", null,
          make("h2", { id: "request-title", tabindex: "-1", autofocus: true }, `${title(i)} in ${seconds(model.duration(i))}`),
          make("p", { class: "quiet" }, make("bdi", null, model.origin(i) || "origin unknown"), ` · ${when(i)}${model.source(i)[0] ? " · " : ""}`, make("bdi", null, model.source(i)[0]))),
        make("button", { type: "button", class: "button", "aria-label": "Close", title: "Close (Escape)", on: { click: () => dialog.close() } }, "✕")),
      story(i), fall(i), details(i),
      make("p", { class: "ids" }, copied("trace", trace), copied("span", span)),
      make("div", { class: "steps" }, step(before, "← Before, on its connection"), step(after, "After, on its connection →"),
        drawn ? make("button", { type: "button", class: "button", on: { click: () => { returnTo = null; dialog.close(); timeline.reveal(i); } } }, "Show in the timeline") : null)));
    dialog.dataset.request = i;
    dialog.scrollTop = 0;
  }

  function open(i) {
    if (i === shown && dialog.open) return;
    shown = i;
    if (i < model.drawn) timeline.choose(i, false);
    draw(i);
    if (dialog.open) dialog.querySelector("h2").focus();
    else {
      returnTo = document.activeElement;
      dialog.showModal();
    }
  }

  dialog.addEventListener("close", () => {
    shown = -1;
    delete dialog.dataset.request;
    dialog.replaceChildren();
    if (/^#request-/.test(location.hash)) history.replaceState(null, "", location.pathname + location.search);
    if (returnTo && returnTo !== document.body && returnTo.isConnected) returnTo.focus({ preventScroll: true });
  });
  // A click beside it closes it.
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  /** Follow the address: #request-12 opens one. */
  function follow() {
    const found = /^#request-(\d+)$/.exec(location.hash);
    if (found && Number(found[1]) < model.count) open(Number(found[1]));
    else if (dialog.open) dialog.close();
  }

  return { follow, parts };
})();
