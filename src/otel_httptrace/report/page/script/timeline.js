// The connections over time, on a canvas.

import { describe } from "./choice.js";
import { readColours } from "./colours.js";
import { drawFrame } from "./frame.js";
import { hands } from "./hands.js";
import { height, tracks } from "./lanes.js";
import { drawOverview } from "./overview.js";
import { inWindow } from "./sight.js";
import { box, card, drawBy, last, measureBox, shownHeight, view, width } from "./view.js";

function resize() {
  if (!measureBox()) return;
  drawOverview();
  drawFrame();
}

export function startTimeline() {
  if (!tracks.length) return;
  drawBy(drawFrame);
  card.hidden = false;
  document.querySelector(".tools").hidden = false;
  box.setAttribute("aria-rowcount", tracks.length);
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
