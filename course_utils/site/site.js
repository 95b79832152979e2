// Figures, search, theme, contents, folds. No request leaves this machine; search reads a script that lies beside this one.
"use strict";
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 62rem)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  // -- theme ----------------------------------------------------------------------------------------------------
  const themeButton = document.getElementById("theme");
  function showTheme() {
    themeButton.setAttribute("aria-pressed", String(isDark()));
    for (const figure of document.querySelectorAll("figure.plot[data-drawn]")) draw(figure);
  }
  themeButton.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("course-theme", root.dataset.theme); } catch { /* no storage: until the next page */ }
    showTheme();
    for (const frame of document.querySelectorAll("iframe[data-browser]")) frame.src = frame.src; // it reads the theme when it loads
  });
  system.addEventListener("change", showTheme);

  // -- figures --------------------------------------------------------------------------------------------------
  const NAMED = { black: [0, 0, 0], white: [255, 255, 255], gray: [128, 128, 128], grey: [128, 128, 128],
    lightgray: [211, 211, 211], lightgrey: [211, 211, 211], darkgray: [169, 169, 169], darkgrey: [169, 169, 169], silver: [192, 192, 192] };

  function parse(text) {
    const word = text.trim().toLowerCase();
    if (NAMED[word]) return [...NAMED[word], 1];
    let found = /^#([0-9a-f]{3}|[0-9a-f]{6})$/.exec(word);
    if (found) {
      const hex = found[1].length === 3 ? [...found[1]].map((c) => c + c).join("") : found[1];
      return [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)).concat(1);
    }
    found = /^rgba?\(([^)]+)\)$/.exec(word);
    if (!found) return null;
    const parts = found[1].split(",").map(Number);
    return parts.some(Number.isNaN) ? null : [...parts.slice(0, 3), parts[3] ?? 1];
  }

  // Greys change places (ink and paper, grid and axis); the palette keeps its colours, which read on both.
  function turned(text, isText) {
    const colour = parse(text);
    if (!colour) return text;
    const [r, g, b, alpha] = colour, high = Math.max(r, g, b), low = Math.min(r, g, b);
    const grey = high - low <= 24 || (high < 110 && high - low < 60);
    if (!grey || (isText && low > 200)) return text; // white letters stand on something that stays dark
    const light = 1 - (r + g + b) / 765;
    return `rgba(${Math.round(26 + 200 * light)},${Math.round(32 + 198 * light)},${Math.round(41 + 194 * light)},${alpha})`;
  }

  function recoloured(value, key, parent) {
    if (Array.isArray(value)) {
      if (key === "colorscale") return value;
      return value.map((part) => recoloured(part, key, parent));
    }
    if (value && typeof value === "object") {
      if (key === "colorscale" || "bdata" in value) return value;
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, recoloured(v, k, key)]));
    }
    if (typeof value !== "string") return value;
    if (/color|colour/i.test(key)) return turned(value, /font/i.test(parent || ""));
    return value.includes("color:") ? value.replace(/color:\s*(#[0-9a-f]{3,6})/gi, (_, c) => `color:${turned(c, true)}`) : value;
  }

  function columns(layout) {
    const starts = new Set();
    for (const [key, axis] of Object.entries(layout)) {
      if (/^xaxis\d*$/.test(key) && axis.domain) starts.add(axis.domain[0].toFixed(2));
    }
    return Math.max(1, starts.size);
  }

  // An axis' title on as many lines as it needs in `room` pixels, about equally long; plotly would cut it off.
  function wrapped(text, room, size) {
    const lines = Math.ceil((text.length * 0.55 * size) / Math.max(room, 60));
    if (lines < 2 || text.includes("<")) return text;
    const most = text.length / lines, done = [""];
    for (const word of text.split(" ")) {
      const line = done.at(-1);
      if (line && done.length < lines && line.length + word.length / 2 >= most) done.push(word);
      else done[done.length - 1] = line ? `${line} ${word}` : word;
    }
    return done.join("<br>");
  }

  function withRoomForTitles(layout, data, width, height) {
    const size = 1.2 * (layout.font?.size ?? 12), { r = 80, t = 100, b = 80 } = layout.margin;
    const words = data.flatMap((trace) => (Array.isArray(trace.y) ? trace.y : [])).filter((y) => typeof y === "string");
    const l = Math.max(layout.margin.l ?? 80, 6.5 * Math.max(0, ...words.map((word) => word.length)));
    const axes = Object.entries(layout).filter(([key, axis]) => /^[xy]axis\d*$/.test(key) && axis.title?.text);
    return { ...layout, ...Object.fromEntries(axes.map(([key, axis]) => {
      const [from, to] = axis.domain ?? [0, 1], room = (to - from) * (key[0] === "x" ? width - l - r : height - t - b);
      const text = wrapped(axis.title.text, room, axis.title.font?.size ?? size);
      return [key, { ...axis, title: { ...axis.title, text }, automargin: axis.automargin ?? true }];
    })) };
  }

  // On a phone the legend stands under the figure, which grows by its lines.
  function withLegendBelow(layout, data, width) {
    const names = [...new Set(data.filter((t) => t.name && t.showlegend !== false).map((t) => t.name))];
    if (names.length < 2 && layout.showlegend !== true) return layout;
    const longest = Math.max(...names.map((name) => name.length));
    const lines = Math.ceil(names.length / Math.max(1, Math.floor(width / (46 + 6.8 * longest))));
    const room = 20 * lines + 12, below = Math.max(layout.margin.b ?? 80, 64);
    return { ...layout, height: layout.height + room + below - (layout.margin.b ?? 80), margin: { ...layout.margin, b: below + room },
      legend: { ...layout.legend, orientation: "h", x: 0, xanchor: "left", yref: "container", y: 0, yanchor: "bottom", font: { size: 12 } } };
  }

  function fitted(layout, data, width) {
    const over = (part) => part && (part.y ?? 0) > 1;
    const notes = layout.annotations || [];
    const top = notes.some((note) => note.yref === "paper" && note.y >= 0.99) || (layout.updatemenus || []).length || over(layout.legend);
    const beside = (note) => /paper|domain/.test(note.xref || "") && note.x >= 1 && note.xanchor !== "right";
    const margin = { ...layout.margin }, before = margin.t ?? 100;
    margin.t = top ? Math.min(before, over(layout.legend) ? 64 : 46) : 18; // the title stands above the figure, as text
    let result = { ...layout, margin, autosize: true };
    result.height = (layout.height || 450) - (before - margin.t);
    delete result.width;
    if (width < 640) {
      margin.l = Math.min(margin.l ?? 80, 52);
      const table = data.find((trace) => trace.type === "table"); // its words take more lines here
      if (table) result.height += 20 * (table.cells?.values?.[0]?.length ?? 6);
      if (!notes.some(beside)) margin.r = Math.min(margin.r ?? 80, 12);
      result.font = { ...layout.font, size: 12 };
      result.annotations = notes.map((note) => (beside(note) ? { ...note, font: { ...note.font, size: 10 } } : note));
      if (columns(layout) === 1 && layout.showlegend !== false && !over(layout.legend)) result = withLegendBelow(result, data, width);
    }
    if (matchMedia("(pointer: coarse)").matches) result.dragmode = false; // a finger scrolls the page
    return withRoomForTitles(result, data, width, result.height);
  }

  function draw(figure) {
    if (!window.Plotly) return;
    figure.spec ??= JSON.parse(figure.querySelector("script").textContent);
    const box = figure.querySelector(".scroll"), target = figure.querySelector(".canvas");
    const many = columns(figure.spec.layout);
    if (!figure.dataset.drawn) target.replaceChildren();
    target.style.minWidth = many > 1 && box.clientWidth < 640 ? `${many * 230}px` : figure.spec.data.some((t) => /table|sankey/.test(t.type || "")) ? "560px" : "";
    target.style.maxWidth = figure.spec.layout.width ? `${Math.max(figure.spec.layout.width, 320)}px` : "";
    let layout = fitted(figure.spec.layout, figure.spec.data, Math.max(box.clientWidth, parseInt(target.style.minWidth) || 0)), data = figure.spec.data, frames = figure.spec.frames;
    if (isDark()) {
      [data, layout, frames] = [recoloured(data, ""), recoloured(layout, ""), recoloured(frames, "")];
      layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
      layout.font = { ...layout.font, color: "#d8dee9" };
    } else {
      [data, layout] = [structuredClone(data), structuredClone(layout)];
    }
    target.style.height = `${layout.height}px`;
    figure.dataset.drawn = isDark() ? "dark" : "light";
    if (target.data) Plotly.purge(target);
    Plotly.newPlot(target, { data, layout, frames, config: { responsive: true, displaylogo: false, displayModeBar: narrow.matches ? false : "hover" } });
  }

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); draw(entry.target); }
  }, { rootMargin: "700px" });
  for (const figure of document.querySelectorAll("figure.plot")) near.observe(figure);
  addEventListener("beforeprint", () => {
    for (const figure of document.querySelectorAll("figure.plot:not([data-drawn])")) draw(figure);
  });

  // -- folds ----------------------------------------------------------------------------------------------------
  function unfoldTo(hash) {
    const target = hash.length > 1 && document.getElementById(decodeURIComponent(hash.slice(1)));
    if (!target) return;
    let folded = false;
    for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) {
      if (!fold.open) fold.open = folded = true;
    }
    if (folded) target.scrollIntoView();
  }
  addEventListener("hashchange", () => unfoldTo(location.hash));
  unfoldTo(location.hash);

  const all = document.getElementById("all-answers");
  all?.addEventListener("click", () => {
    const open = all.getAttribute("aria-pressed") !== "true";
    for (const fold of document.querySelectorAll("details.answer")) fold.open = open;
    all.setAttribute("aria-pressed", String(open));
    all.textContent = open ? "Fold all answers" : "Unfold all answers";
  });

  const menu = document.getElementById("menu");
  const foldMenu = () => { if (narrow.matches) menu.removeAttribute("open"); else menu.setAttribute("open", ""); };
  foldMenu();
  narrow.addEventListener("change", foldMenu);
  menu.addEventListener("click", (event) => { if (event.target.closest("a") && narrow.matches) menu.removeAttribute("open"); });

  // -- contents: where am I -------------------------------------------------------------------------------------
  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [decodeURIComponent(link.hash.slice(1)), link]));
  const headings = [...document.querySelectorAll("main :is(h2, h3)[id]")].filter((heading) => links.has(heading.id));
  let here = null, waiting = false;
  function follow() {
    waiting = false;
    let now = null;
    for (const heading of headings) { if (heading.getBoundingClientRect().top < 140) now = heading; else break; }
    if (now === here) return;
    if (here) links.get(here.id).removeAttribute("aria-current");
    here = now;
    if (!here) return;
    const link = links.get(here.id), list = document.getElementById("side");
    link.setAttribute("aria-current", "true");
    if (!narrow.matches) {
      const a = link.getBoundingClientRect(), b = list.getBoundingClientRect();
      if (a.top < b.top + 20 || a.bottom > b.bottom - 20) list.scrollTop += a.top - b.top - b.height / 3;
    }
  }
  if (headings.length) {
    addEventListener("scroll", () => { if (!waiting) { waiting = true; requestAnimationFrame(follow); } }, { passive: true });
    follow();
  }

  // -- search ---------------------------------------------------------------------------------------------------
  const box = document.getElementById("search"), panel = document.getElementById("results"), say = document.getElementById("found");
  const SHOWN = 20;
  let loading = null;
  function load() { // the index is read when it is first needed
    loading ??= new Promise((done) => {
      if (window.SEARCH) return done();
      const script = document.createElement("script");
      script.src = "assets/search.js";
      script.onload = script.onerror = done;
      document.head.append(script);
    }).then(() => {
      for (const entry of window.SEARCH || []) {
        entry.h = `${entry.lesson} ${entry.heading}`.toLowerCase(); entry.t = entry.text.toLowerCase(); entry.c = entry.code.toLowerCase();
      }
    });
    return loading;
  }

  function score(entry, words, phrase) {
    let sum = 0;
    for (const word of words) {
      const inHeading = entry.heading.toLowerCase().includes(word), inText = entry.t.indexOf(word), inCode = entry.c.includes(word);
      if (inHeading) sum += 20;
      else if (entry.h.includes(word)) sum += 8;
      if (inText >= 0) sum += 3 + Math.min(4, entry.t.split(word).length - 2) * 0.5;
      if (inCode) sum += 1.5;
      if (!inHeading && inText < 0 && !inCode && !entry.h.includes(word)) return 0;
    }
    if (words.length > 1 && entry.t.includes(phrase)) sum += 6;
    if (words.length > 1 && entry.h.includes(phrase)) sum += 15;
    return sum;
  }

  async function find() {
    const phrase = box.value.trim().toLowerCase(), words = phrase.split(/\s+/).filter(Boolean);
    if (!words.length) { close(); return; }
    await load();
    if (box.value.trim().toLowerCase() !== phrase) return; // typed on meanwhile
    const hits = (window.SEARCH || []).map((entry) => [score(entry, words, phrase), entry]).filter(([n]) => n > 0).sort((a, b) => b[0] - a[0]);
    panel.replaceChildren(...hits.slice(0, SHOWN).map(([, entry]) => row(entry, words)));
    panel.hidden = false;
    say.hidden = false;
    say.textContent = hits.length ? `${hits.length} section${hits.length === 1 ? "" : "s"} found${hits.length > SHOWN ? `, the best ${SHOWN} shown` : ""}` : `Nothing found for “${box.value.trim()}”`;
    box.setAttribute("aria-expanded", "true");
  }

  function row(entry, words) {
    const item = document.createElement("li"), link = document.createElement("a");
    link.href = entry.page + (entry.anchor ? `#${encodeURIComponent(entry.anchor)}` : "");
    const title = document.createElement("strong"), from = document.createElement("small"), text = document.createElement("span");
    mark(title, entry.heading, words);
    from.textContent = entry.lesson;
    const inText = words.map((word) => entry.t.indexOf(word)).filter((n) => n >= 0), code = !inText.length && words.find((word) => entry.c.includes(word));
    const source = code ? entry.code : entry.text, at = code ? entry.c.indexOf(code) : inText.length ? Math.min(...inText) : 0;
    const start = Math.max(0, source.lastIndexOf(" ", Math.max(0, at - 50)));
    mark(text, (start ? "… " : "") + source.slice(start, at + 130).trim() + (at + 130 < source.length ? " …" : ""), words);
    link.append(title, from, text);
    link.addEventListener("click", () => setTimeout(close));
    item.append(link);
    return item;
  }

  function mark(element, text, words) {
    const low = text.toLowerCase();
    let at = 0;
    while (at < text.length) {
      let first = -1, length = 0;
      for (const word of words) {
        const found = low.indexOf(word, at);
        if (found >= 0 && (first < 0 || found < first)) { first = found; length = word.length; }
      }
      if (first < 0) break;
      const hit = document.createElement("mark");
      hit.textContent = text.slice(first, first + length);
      element.append(text.slice(at, first), hit);
      at = first + length;
    }
    element.append(text.slice(at));
  }

  function close() {
    panel.hidden = say.hidden = true;
    panel.replaceChildren();
    box.setAttribute("aria-expanded", "false");
  }

  box.addEventListener("focus", load);
  box.addEventListener("input", find);
  document.getElementById("search-form").addEventListener("submit", (event) => { event.preventDefault(); panel.querySelector("a")?.click(); });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); box.focus(); box.select(); return; }
    if (event.key === "Escape" && !panel.hidden) { close(); box.value = ""; box.focus(); return; }
    if ((event.key === "ArrowDown" || event.key === "ArrowUp") && !panel.hidden && event.target.closest?.("#search-form")) {
      const places = [box, ...panel.querySelectorAll("a")];
      const next = places.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
      event.preventDefault();
      places[(next + places.length) % places.length].focus();
    }
  });
  document.addEventListener("click", (event) => { if (!event.target.closest("#search-form")) close(); });

  showTheme();
})();
