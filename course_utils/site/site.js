// Draw figures when they come into view, search the course, fold the menu on small screens. No request leaves the page.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function draw(figure) {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const layout = Object.assign({}, spec.layout, { autosize: true });
    delete layout.width;
    if (dark.matches) {
      layout.paper_bgcolor = "rgba(0,0,0,0)";
      layout.plot_bgcolor = "rgba(127,127,127,.06)";
      layout.font = Object.assign({}, layout.font, { color: "#d8dee9" });
    }
    const target = document.createElement("div");
    target.style.height = (spec.layout.height || 450) + "px";
    figure.appendChild(target);
    const made = Plotly.newPlot(target, spec.data, layout, { responsive: true, displaylogo: false });
    if (spec.frames && spec.frames.length) made.then(() => Plotly.addFrames(target, spec.frames));
  }

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
    }
  }, { rootMargin: "600px" });
  document.querySelectorAll("figure.plot").forEach((figure) => seen.observe(figure));

  const box = document.getElementById("search");
  const results = document.getElementById("results");
  let chosen = -1;

  function find() {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    chosen = -1;
    results.replaceChildren();
    if (!words.length) return;
    const scored = [];
    for (const entry of window.SEARCH || []) {
      const heading = entry.heading.toLowerCase(), text = entry.text.toLowerCase();
      if (!words.every((word) => heading.includes(word) || text.includes(word))) continue;
      scored.push([words.filter((word) => heading.includes(word)).length, entry]);
    }
    scored.sort((a, b) => b[0] - a[0]);
    if (!scored.length) results.append(item("Nothing found", "", null));
    for (const [, entry] of scored.slice(0, 12)) {
      const at = Math.max(0, entry.text.toLowerCase().indexOf(words[0]) - 40);
      results.append(item(`${entry.lesson}: ${entry.heading}`, entry.text.slice(at, at + 140), `${entry.page}#${entry.anchor}`));
    }
  }

  function item(title, text, href) {
    const row = document.createElement("li");
    const link = document.createElement(href ? "a" : "span");
    if (href) link.href = href;
    const strong = document.createElement("strong");
    strong.textContent = title;
    const more = document.createElement("span");
    more.textContent = text;
    link.append(strong, more);
    row.append(link);
    return row;
  }

  box.addEventListener("input", find);
  document.addEventListener("keydown", (event) => {
    const links = [...results.querySelectorAll("a")];
    if (event.key === "/" && document.activeElement !== box) { event.preventDefault(); box.focus(); }
    if (event.key === "Escape") { box.value = ""; find(); box.blur(); }
    if ((event.key === "ArrowDown" || event.key === "ArrowUp") && links.length) {
      event.preventDefault();
      chosen = (chosen + (event.key === "ArrowDown" ? 1 : -1) + links.length) % links.length;
      links[chosen].focus();
    }
    if (event.key === "Enter" && document.activeElement === box && links.length) links[0].click();
  });
  document.addEventListener("click", (event) => { if (!event.target.closest("header")) { box.value = ""; find(); } });

  const menu = document.querySelector("nav details");
  if (matchMedia("(max-width: 60rem)").matches) menu.removeAttribute("open");
})();
