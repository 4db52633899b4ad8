// Before anything is painted: a theme that was chosen here before.
try {
  const chosen = localStorage.getItem("httptrace-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* no storage for files in some browsers */ }
