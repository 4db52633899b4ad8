// Before anything is painted: that scripts run, and a theme that was chosen here before.
document.documentElement.classList.add("scripted");
try {
  const chosen = localStorage.getItem("httptrace-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* no storage for files in some browsers */ }
