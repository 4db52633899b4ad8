// One request in a dialog: what happened in words, its waterfall, its attributes.

import { choose, neighbours, reveal } from "./choice.js";
import { make } from "./dom.js";
import { model } from "./model.js";
import { code, story } from "./story.js";
import { waterfall } from "./waterfall.js";
import { seconds, title } from "./words.js";

const dialog = document.getElementById("request");
let shown = -1;
let returnTo = null;

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

function inJaeger(i) {
  const address = model.address(i);
  return address ? make("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, "in Jaeger") : null;
}

function when(i) {
  const at = model.start[i];
  if (Math.abs(at) < 1e-6) return "the first request";
  return at > 0 ? `${seconds(at)} after the first request` : `${seconds(-at)} before the first of the timeline`;
}

function fill(i) {
  const [trace, span] = model.ids(i);
  const drawn = i < model.drawn;
  const [before, after] = drawn ? neighbours(i) : [-1, -1];
  const step = (target, text) => make("button", { type: "button", class: "button", disabled: target < 0, on: { click: () => { location.replace(`#request-${target}`); } } }, text);
  dialog.replaceChildren(make("div", { class: "sheet" },
    make("header", null,
      make("div", null,
        make("h2", { id: "request-title", tabindex: "-1", autofocus: true }, `${title(i)} in ${seconds(model.duration(i))}`),
        make("p", { class: "quiet" }, make("bdi", null, (model.origin(i) || "origin unknown") + model.path(i)), ` · ${when(i)}${model.source(i)[0] ? " · " : ""}`, make("bdi", null, model.source(i)[0]))),
      make("button", { type: "button", class: "button", "aria-label": "Close", title: "Close (Escape)", on: { click: () => dialog.close() } }, "✕")),
    story(i), waterfall(i), details(i),
    make("p", { class: "ids" }, copied("trace", trace), copied("span", span), inJaeger(i)),
    make("div", { class: "steps" }, step(before, "← Before, on its connection"), step(after, "After, on its connection →"),
      drawn ? make("button", { type: "button", class: "button", on: { click: () => { returnTo = null; dialog.close(); reveal(i); } } }, "Show in the timeline") : null)));
  dialog.dataset.request = i;
  dialog.scrollTop = 0;
}

function openRequest(i) {
  if (i === shown && dialog.open) return;
  shown = i;
  if (i < model.drawn) choose(i, false);
  fill(i);
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
export function followAddress() {
  const found = /^#request-(\d+)$/.exec(location.hash);
  if (found && Number(found[1]) < model.count) openRequest(Number(found[1]));
  else if (dialog.open) dialog.close();
}
