// What is left: the theme, copying, and where the address points to.

import { followAddress } from "./dialog.js";
import { copy } from "./dom.js";
import { startTimeline } from "./timeline.js";

const button = document.getElementById("theme");
const ORDER = ["system", "light", "dark"];
const root = document.documentElement;
const show = () => {
  const theme = root.dataset.theme || "system";
  button.querySelector(".theme").textContent = theme;
  button.setAttribute("aria-label", `Theme: ${theme}`);
};
button.hidden = false;
button.addEventListener("click", () => {
  const next = ORDER[(ORDER.indexOf(root.dataset.theme || "system") + 1) % ORDER.length];
  if (next === "system") delete root.dataset.theme; else root.dataset.theme = next;
  try {
    if (next === "system") localStorage.removeItem("httptrace-theme"); else localStorage.setItem("httptrace-theme", next);
  } catch { /* not kept, then */ }
  show();
  document.dispatchEvent(new Event("themechange"));
});
show();

for (const one of document.querySelectorAll(".copy")) one.hidden = false;
document.addEventListener("click", (event) => {
  const one = event.target instanceof Element && event.target.closest(".copy");
  if (one) copy(one);
});

startTimeline();
addEventListener("hashchange", followAddress);
followAddress();
