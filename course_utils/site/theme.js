// Runs before the page is drawn: the theme chosen earlier (also in a feature browser), so that nothing flashes.
"use strict";
try {
  const kept = localStorage.getItem("course-theme");
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
} catch { /* a page from disk may have no storage: then the system's setting counts */ }
