// Pointer, wheel and keys.

import { choose, chosen, hit, hoverOver, nearest, nextProblem } from "./choice.js";
import { make } from "./dom.js";
import { first, items, placeOf, rank, tall, tracks } from "./lanes.js";
import { end, model, phases, start } from "./model.js";
import { followScroll, followTime } from "./sight.js";
import { AXIS, box, card, from, FULL, gutter, overview, pan, request, shownHeight, time, until, view, width, zoom } from "./view.js";
import { seconds, title } from "./words.js";

const tip = document.getElementById("tip");

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
    if (place < 0) return choose(items[tracks[0]].rows[0]);
    const { rows } = item;
    const k = first(rows, (i) => i >= chosen) + offset;
    choose(rows[Math.min(rows.length - 1, Math.max(0, k))]);
  };
  const across = (offset) => {
    if (place < 0) return within(0);
    const k = tracks[Math.min(tracks.length - 1, Math.max(0, rank.get(place) + offset))];
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
  hoverOver(i);
  if (i < 0 || event.pointerType === "touch") { tip.hidden = true; return; }
  const lines = [make("p", null, `${title(i)} · ${seconds(model.duration(i))}`), make("p", null, model.times(i).map(([phase, value]) => `${phases[phase]} ${seconds(value)}`).join(" · ") || "no phases seen")];
  const half = model.half(i);
  if (half && half.took >= 0) lines.push(make("p", null, `the server's span: ${seconds(half.took)}`));
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

export function hands() {
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
    hoverOver(-1);
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
    followScroll();
    request();
  });
  box.addEventListener("keydown", key);
  box.addEventListener("focus", () => {
    if (chosen < 0 && box.matches(":focus-visible")) choose(items[tracks[0]].rows[0], false);
  });
  const drag = (event) => {
    const at = (event.clientX - overview.getBoundingClientRect().left - gutter) / (width - gutter);
    const middle = FULL[0] + at * (FULL[1] - FULL[0]);
    view(middle - (until - from) / 2, middle + (until - from) / 2);
    followTime();
  };
  overview.addEventListener("pointerdown", (event) => {
    overview.setPointerCapture(event.pointerId);
    drag(event);
  });
  overview.addEventListener("pointermove", (event) => { if (overview.hasPointerCapture(event.pointerId)) drag(event); });
  for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", DO[button.dataset.do]);
}
