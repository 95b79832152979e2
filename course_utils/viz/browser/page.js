/* The dashboard page: an index of latents, a view of one, and (when served) a live view.
   Everything that comes from data is put on the page as text, never as HTML. */
(() => {
"use strict";
const boot = JSON.parse(document.getElementById("boot").textContent);
const about = boot.about;
const main = document.getElementById("main"), tip = document.getElementById("tip"), help = document.getElementById("help");
const records = new Map(boot.latents.map((r) => [r.id, r]));
const rows = [], rowOf = new Map();
const state = { query: "", sort: "first", down: false, order: [], shown: 0, watcher: null, view: 0 };
const alone = !boot.files && boot.latents.length === 1;

/* ---- elements ---- */
const SVG = "http://www.w3.org/2000/svg";
function h(tag, props, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = ["svg", "rect", "text", "line", "g", "title"].includes(name) && !(props && props.html)
    ? document.createElementNS(SVG, name) : document.createElement(name);
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}
const link = (route, text, props) => h("a", { href: "#" + route, "data-go": route, ...props }, text);
const say = (text) => { document.getElementById("say").textContent = text; };

/* ---- text of tokens: all of it visible ---- */
const SIGNS = { "\n": "↵", "\t": "⇥", "\r": "␍" };
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}\p{Cs}]/u, MARK = /^\p{M}/u;
function visible(text) {
  let out = "";
  for (const c of text) out += SIGNS[c] || (UNSEEN.test(c) ? "⟨U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩" : c);
  return MARK.test(out) ? "◌" + out : out;
}
function word(text) {
  const shown = visible(text), spaces = shown.length - shown.trimStart().length;
  const node = h("span.word", { dir: "auto", title: JSON.stringify(text) });
  if (spaces) node.append(h("i", null, "·".repeat(Math.min(spaces, 8))));
  node.append(shown.trimStart());
  return node;
}
const shade = (share, hue = "--heat") => share > 0 ? `background:rgba(var(${hue}),${(0.1 + 0.8 * Math.min(share, 1)).toFixed(2)})` : null;
function token(text, value, top, extra = "") {
  const share = top > 0 ? Math.abs(value) / top : 0;
  return h("bdi.tok" + (share > 0.65 ? ".hot" : "") + (about.bos && text === about.bos ? ".special" : "") + extra, { style: shade(share, value < 0 ? "--cold" : "--heat"), "data-v": value, "data-t": text }, visible(text));
}

/* ---- numbers ---- */
function number(x) {
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e5 || size < 1e-3) return x.toExponential(1).replace("e+", "e");
  return String(+x.toPrecision(3)).replace("-", "−");
}
const many = (n) => n.toLocaleString("en");
function percent(x) {
  if (!x) return "never";
  const p = 100 * x;
  return (p >= 10 ? p.toFixed(0) : p >= 1 ? p.toFixed(1) : p >= 0.1 ? p.toFixed(2) : p >= 0.001 ? p.toFixed(3) : "<0.001") + "%";
}

/* ---- charts ---- */
function chart({ counts, label, tick, colour, log, xTitle, yTitle, describe }) {
  const W = 340, H = 132, left = 34, bottom = 32, top = 6;
  const rise = (c) => (log ? Math.log10(1 + c) : c);
  const most = Math.max(...counts.map(rise), 1e-9), step = (W - left) / counts.length;
  const svg = h("svg.chart", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label });
  counts.forEach((c, i) => {
    if (!c) return;
    const height = Math.max(1, (rise(c) / most) * (H - bottom - top));
    svg.append(h("rect." + colour(i), { x: left + i * step + 0.4, y: H - bottom - height, width: Math.max(step - 0.8, 0.6), height }, h("title", null, describe(i, c))));
  });
  svg.append(h("line.axis", { x1: left, x2: W, y1: H - bottom + 0.5, y2: H - bottom + 0.5 }));
  const peak = Math.max(...counts, 0);
  svg.append(h("text", { x: left - 5, y: top + 8, "text-anchor": "end" }, peak >= 1e4 ? Math.round(peak / 1e3) + "k" : many(peak)),
    h("text", { x: left - 5, y: H - bottom, "text-anchor": "end" }, "0"));
  for (const [at, text] of tick) svg.append(h("text", { x: left + at * (W - left), y: H - bottom + 13, "text-anchor": at < 0.06 ? "start" : at > 0.94 ? "end" : "middle" }, text));
  svg.append(h("text", { x: left + (W - left) / 2, y: H - 4, "text-anchor": "middle" }, xTitle),
    h("text", { transform: `translate(9 ${(H - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, yTitle));
  return svg;
}
function activationChart({ edges, counts }) {
  if (!counts.length) return h("p.note", null, "No firing to count.");
  const every = Math.max(1, Math.ceil(counts.length / 4)), tick = [];
  for (let i = 0; i < edges.length; i += every) tick.push([i / counts.length, number(+edges[i].toPrecision(2))]);
  return chart({ counts, tick, label: "Histogram of activations above zero", colour: () => "b", xTitle: "activation (log scale)", yTitle: "tokens",
    describe: (i, c) => `${number(edges[i])} to ${number(edges[i + 1])}: ${many(c)} token${c === 1 ? "" : "s"}` });
}
function logitChart({ counts, low, high, measured }) {
  const at = (i) => low + ((high - low) * i) / counts.length, zero = (0 - low) / (high - low);
  const tick = [[0, number(low)], [1, number(high)]];
  if (zero > 0.15 && zero < 0.85) tick.push([zero, "0"]);
  return chart({ counts, tick, log: true, label: "Histogram of logit effects over the vocabulary", colour: (i) => (at(i + 0.5) < 0 ? "minus" : "plus"),
    xTitle: measured ? "logits per unit of activation" : "logit effect (scale arbitrary)", yTitle: "tokens (log)",
    describe: (i, c) => `${number(at(i))} to ${number(at(i + 1))}: ${many(c)} tokens` });
}

/* ---- data files ---- */
const waiting = new Map(), loaded = new Map();
window.courseDashboard = (name, data) => { loaded.set(name, data); };
function load(name) {
  if (!waiting.has(name)) waiting.set(name, new Promise((done, fail) => {
    const script = h("script", { src: `data/${name}.js` });
    script.onload = () => (loaded.has(name) ? done(loaded.get(name)) : fail(new Error("empty")));
    script.onerror = () => { waiting.delete(name); fail(new Error(`data/${name}.js is missing: keep the data folder beside index.html`)); };
    document.head.append(script);
  }));
  return waiting.get(name);
}
async function record(id) {
  if (!records.has(id)) {
    await allRows;
    const row = rowOf.get(id);
    if (!row) throw new Error(`Latent ${id} is not in this dashboard.`);
    for (const r of await load(`latents-${row.file}`)) records.set(r.id, r);
  }
  return records.get(id);
}
function takeRows(list) {
  for (const row of list) {
    row.find = [row.label, ...row.on, ...row.up].join("\u0001").toLowerCase();
    rows.push(row); rowOf.set(row.id, row);
  }
}
async function loadRows() {
  if (!boot.files) return takeRows(boot.index);
  for (const name of boot.files.index) {
    takeRows(await load(name));
    if (route().view === "index") fillIndex();
  }
}

/* ---- top bar ---- */
function theme() { return document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"); }
function setTheme(value) {
  document.documentElement.dataset.theme = value;
  try { localStorage.setItem("course-theme", value); } catch { /* a page from disk may have no storage */ }
}
function drawBar() {
  document.getElementById("bar").replaceChildren(
    alone ? h("span.name", null, about.title) : link("/", about.title, { class: "name" }),
    h("span.space"),
    about.live ? link("/live", "Try a sentence", { id: "to-live" }) : "",
    h("button.quiet", { type: "button", id: "theme", "aria-label": "Switch between dark and light", title: "Dark or light", onclick: () => setTheme(theme() === "dark" ? "light" : "dark") }, "◐"),
    h("button.quiet", { type: "button", id: "keys", "aria-label": "Keyboard shortcuts", title: "Keys (?)", onclick: () => help.showModal() }, "?"));
  const keys = [["/", "search"], ["j  k", "next, previous"], ["Enter", "open"], ["Esc", "back to the index"], ["← →", "walk the tokens of a focused example"], ["?", "this list"]];
  help.replaceChildren(h("h2", { id: "help-title" }, "Keys"), h("dl", null, keys.map(([k, what]) => [h("dt", null, k.split("  ").map((x) => [h("kbd", null, x), " "])), h("dd", null, what)])),
    h("form", { method: "dialog" }, h("button", null, "Close")));
}

/* ---- index ---- */
const SORTS = {
  first: ["labelled first", (a, b) => (b.label !== "") - (a.label !== "") || a.id - b.id],
  id: ["number", (a, b) => a.id - b.id],
  label: ["label", (a, b) => (a.label === "") - (b.label === "") || a.label.localeCompare(b.label) || a.id - b.id],
  density: ["density", (a, b) => b.density - a.density || a.id - b.id],
  max: ["maximum", (a, b) => b.max - a.max || a.id - b.id],
  on: ["token it fires on", (a, b) => (!a.on.length) - (!b.on.length) || (a.on[0] || "").trim().localeCompare((b.on[0] || "").trim()) || a.id - b.id],
};
function sortBy(key) {
  state.down = state.sort === key ? !state.down : false;
  state.sort = key; fillIndex();
}
function drawIndex() {
  const head = (key, text, className) => h("th." + className, { scope: "col", "data-key": key }, h("button", { type: "button", onclick: () => sortBy(key) }, text));
  main.replaceChildren(
    h("div.lead", null, h("div", null, h("h1", { tabindex: -1 }, "Latents"),
      h("p", null, `${many(about.count)} of the ${many(about.d_sae)} latents of a sparse autoencoder at `, h("code", null, about.hook), ` of ${about.model}, over ${many(about.tokens)} tokens of text. `, h("span", { id: "dead" })))),
    h("div.tools", { role: "search" },
      h("input", { type: "search", id: "query", placeholder: "Search labels, tokens or a number", "aria-label": "Search latents", autocomplete: "off", spellcheck: "false", value: state.query, oninput: (e) => { state.query = e.target.value; fillIndex(); } }),
      h("label.unseen", { for: "sort" }, "Sort by"),
      h("select", { id: "sort", onchange: (e) => { state.sort = e.target.value; state.down = false; fillIndex(); } }, Object.entries(SORTS).map(([key, [text]]) => h("option", { value: key }, "by " + text))),
      h("span.count", { id: "count", "aria-live": "polite" })),
    h("table.index", null,
      h("thead", null, h("tr", null, head("id", "Latent", "id"), head("on", "Fires on", "what"), h("th.up-cell", { scope: "col" }, "Promotes"), head("density", "Density", "dens"), head("max", "Max", "max"))),
      h("tbody", { id: "rows" })),
    h("div", { id: "more" }));
  fillIndex();
}
function fillIndex() {
  const body = document.getElementById("rows");
  if (!body) return;
  const query = state.query.trim().toLowerCase(), exact = /^#?\d+$/.test(query) ? query.replace("#", "") : null;
  state.order = rows.filter((r) => !query || r.find.includes(query) || (exact && String(r.id).startsWith(exact)));
  state.order.sort(SORTS[state.sort][1]);
  if (state.down) state.order.reverse();
  if (exact) state.order.sort((a, b) => (String(b.id) === exact) - (String(a.id) === exact));
  document.getElementById("sort").value = state.sort;
  for (const th of document.querySelectorAll("th[data-key]")) {
    if (th.dataset.key === state.sort) th.setAttribute("aria-sort", ["density", "max"].includes(state.sort) !== state.down ? "descending" : "ascending");
    else th.removeAttribute("aria-sort");
  }
  const dead = rows.filter((r) => !r.density).length;
  document.getElementById("dead").textContent = dead ? `${many(dead)} never fired.` : "";
  document.getElementById("count").textContent = query ? `${many(state.order.length)} of ${many(rows.length)}` : `${many(rows.length)} latents`;
  body.replaceChildren(); state.shown = 0;
  if (!state.order.length && rows.length) body.append(h("tr", null, h("td.none", { colspan: 5 }, "Nothing matches. Search for a token, part of a label or a number.")));
  moreRows();
  if (state.watcher) state.watcher.disconnect();
  state.watcher = new IntersectionObserver((seen) => { if (seen.some((s) => s.isIntersecting)) moreRows(); }, { rootMargin: "600px" });
  state.watcher.observe(document.getElementById("more"));
}
function moreRows() {
  const body = document.getElementById("rows");
  if (!body) return; // the watcher may speak once more after the index is gone
  const part = state.order.slice(state.shown, state.shown + 100);
  state.shown += part.length;
  body.append(...part.map(indexRow));
}
function indexRow(row) {
  const share = row.density ? Math.max(0.04, Math.min(1, 1 + Math.log10(row.density) / 5)) : 0;
  return h("tr.row", { "data-id": row.id, onclick: (e) => { if (!e.target.closest("a") && !String(getSelection())) go("/latent/" + row.id); } },
    h("td.id", null, link("/latent/" + row.id, String(row.id), { "aria-label": `Latent ${row.id} ${row.label}` })),
    h("td.what", null, row.label ? h("span.label", { dir: "auto" }, visible(row.label)) : "", h("span.words", null, row.on.map(word))),
    h("td.up-cell", null, h("span.words", null, row.up.map(word))),
    h("td.dens.num", null, h("span.meter", { "aria-hidden": "true" }, h("b", { style: `width:${(share * 100).toFixed(0)}%` })), percent(row.density)),
    h("td.max.num", null, row.density ? number(row.max) : "–"));
}

/* ---- one latent ---- */
function exampleRow(example, top) {
  const [s, p] = example.at;
  return h("li.example", null,
    h("span.value", { title: `sequence ${s}, position ${p}` }, example.v >= 1e5 ? number(example.v) : example.v.toPrecision(3)),
    h("div.text", { tabindex: 0, role: "group", "aria-label": `Example, activation ${number(example.v)}; arrow keys walk its tokens` },
      example.t.map((t, i) => token(t, example.a[i], top, i === example.p ? ".peak" : ""))));
}
const fact = (name, value, title) => h("div", { title }, h("dt", null, name), h("dd", null, value));
function nameOf(id) {
  const row = rowOf.get(id), text = row ? row.label || row.on.map((t) => visible(t).trim()).join(" ") : "";
  return rowOf.has(id) ? link("/latent/" + id, text ? `${id} · ${text}` : String(id)) : h("span", null, String(id));
}
const nearList = (title, note, list) => list.length ? h("section", null, h("h2", null, title + " ", h("small", null, note)),
  h("ul.near", null, list.map(([id, value]) => h("li", null, h("span.num.soft", null, value.toFixed(2).replace("-", "−")), nameOf(id))))) : "";
function logitSection(logits) {
  if (!logits) return "";
  const table = (list, side, title) => h("div." + side, null, h("h3", null, title), h("table", null, h("tbody", null, list.map(([t, v]) => h("tr", null, h("td", null, word(t)), h("td.num", null, number(v)))))));
  return h("section", null, h("h2", null, "Direct effect on the output"),
    h("div.pair", null, table(logits.top, "up", "raises"), table(logits.bottom, "down", "lowers")),
    h("div", { style: "margin-top:14px" }, logitChart(logits)),
    h("p.note", null, `Standard deviation over the vocabulary ${number(logits.sd)}. ` + (logits.measured
      ? "The final norm is replaced by its mean Jacobian on this text; what later layers add is not included."
      : "The final norm's gain is folded in, its scale is not: compare signs and ranks only.")));
}
async function drawLatent(id) {
  const view = ++state.view;
  let r;
  try { r = await record(id); } catch (error) {
    if (view === state.view) main.replaceChildren(h("h1", { tabindex: -1 }, "Not here"), h("p", null, error.message), alone ? "" : link("/", "Back to the index"));
    return;
  }
  if (view !== state.view) return;
  const title = r.label ? visible(r.label) : `Latent ${id}`;
  document.title = `${title} · ${about.title}`;
  const steps = alone ? "" : h("nav.steps", { "aria-label": "Other latents" },
    h("button", { type: "button", id: "previous", onclick: () => step(-1), title: "Previous (k)" }, "‹ Previous"), h("button", { type: "button", id: "next", onclick: () => step(1), title: "Next (j)" }, "Next ›"));
  main.replaceChildren(
    h("div.head", null, h("div", null, h("h1", { tabindex: -1, dir: "auto" }, title), r.label ? h("p.under", null, `Latent ${id}`) : ""), steps,
      h("dl.facts", { style: "flex-basis:100%" },
        fact("Density", percent(r.density), "share of tokens on which it fires"), fact("Fires on", `${many(r.fired)} of ${many(about.tokens)} tokens`),
        fact("Maximum", number(r.max)), fact("Mean when active", number(r.mean)), fact("Read from", about.hook))),
    h("div.split", null,
      h("div.side", null,
        h("section", null, h("h2", null, "Activations"), activationChart(r.histogram)),
        logitSection(r.logits),
        nearList("Nearest directions", "decoder cosine", r.near), nearList("Fires together with", "correlation", r.together),
        r.related.length ? h("section", null, h("h2", null, "Same concept elsewhere"), h("ul.near", null, r.related.map((x) => h("li", null, h("span.num.soft", null, x.score === undefined ? "" : (+x.score).toFixed(2)), safeLink(x))))) : ""),
      h("div.main", null,
        about.live ? steerPanel(r) : "",
        h("section", { id: "top" }, h("h2", null, "Strongest examples ", h("small", null, "one a sequence, repeated text once")),
          r.top.length ? h("ol.examples", null, r.top.map((e) => exampleRow(e, r.max))) : h("p.note", null, "This latent never fires on this text.")),
        r.bands.length ? h("section", { id: "bands" }, h("h2", null, "Across its range ", h("small", null, "drawn at random from equal shares of all firings")),
          r.bands.map((b) => [h("div.band", null, h("span", null, h("b", null, `${Math.round(b.from * 100)}–${Math.round(b.to * 100)}%`), ` of firings, ${number(b.low)} to ${number(b.high)}`)),
            h("ol.examples", null, b.examples.map((e) => exampleRow(e, r.max)))])) : "")));
  arrive();
}
function safeLink(x) {
  const href = String(x.href || "");
  return /^(https?:|javascript:|data:|\/\/)/i.test(href.trim()) || /^[a-z][a-z0-9+.-]*:/i.test(href.trim()) || !href ? h("span", null, visible(String(x.text))) : h("a", { href }, visible(String(x.text)));
}
function step(by) {
  const order = state.order.length ? state.order : rows;
  const here = order.findIndex((r) => r.id === route().id), next = order[here + by];
  if (next) go("/latent/" + next.id);
}

/* ---- live: only when a course server answers ---- */
async function ask(path, data) {
  const reply = await fetch("api/" + path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data) });
  const body = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(body.error || `The server answered ${reply.status}.`);
  return body;
}
async function during(button, status, work) {
  button.disabled = true; status.className = "busy"; status.textContent = "computing…";
  try { await work(); status.textContent = ""; } catch (error) { status.className = "error"; status.textContent = error.message; }
  button.disabled = false;
}
function steerPanel(r) {
  const usual = r.max || 10, status = h("span", { role: "status" });
  const prompt = h("input", { type: "text", id: "prompt", value: about.prompt || "I went to the market and", maxlength: about.limits.text, "aria-label": "Prompt" });
  const dose = h("input", { type: "range", id: "dose", min: -2, max: 2, step: 0.1, value: 1, "aria-label": "Strength, in units of the latent's maximum" });
  const shown = h("output.num", { for: "dose" });
  const plain = h("div.text", { id: "plain" }), pushed = h("div.text", { id: "pushed" });
  const button = h("button.go", { type: "submit", id: "steer" }, "Continue");
  const show = () => { shown.textContent = `${(+dose.value).toFixed(1).replace("-", "−")} × maximum = ${number(dose.value * usual)}`; };
  dose.addEventListener("input", show); show();
  const run = (event) => { event.preventDefault(); during(button, status, async () => {
    const out = await ask("steer", { prompt: prompt.value, latent: r.id, strength: dose.value * usual });
    const fill = (node, list, other) => node.replaceChildren(...out.prompt.map((t) => token(t, 0, 0, ".prompt")), ...list.map((t, i) => token(t, 0, 0, other && other[i] !== t ? ".changed" : "")));
    fill(plain, out.plain, null); fill(pushed, out.steered, out.plain);
    say("Continuations ready");
  }); };
  return h("section.panel", null, h("h2", null, "Steer ", h("small", null, "add this latent's direction while the model writes")),
    h("form", { onsubmit: run }, h("div.line", null, prompt), h("div.line", null, dose, shown, button, status)),
    h("div.two", null, h("div", null, h("h3", null, "as it is"), plain), h("div", null, h("h3", null, "steered"), pushed)));
}
function drawLive() {
  const status = h("span", { role: "status" }), result = h("div", { id: "result" });
  const box = h("textarea", { id: "sentence", maxlength: about.limits.text, "aria-label": "A sentence", spellcheck: "false" });
  box.value = state.sentence || "";
  const button = h("button.go", { type: "submit", id: "read" }, "Show latents");
  const run = (event) => { if (event) event.preventDefault(); if (!box.value.trim()) return box.focus();
    state.sentence = box.value; during(button, status, async () => { drawReading(result, await ask("latents", { text: box.value })); }); };
  box.addEventListener("keydown", (e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) run(e); });
  main.replaceChildren(h("div.live", null, h("div.lead", null, h("div", null, h("h1", { tabindex: -1 }, "Try a sentence"), h("p", null, `See which latents of ${about.hook} fire on each token. The text stays on this machine.`))),
    h("form", { onsubmit: run }, box, h("div.line", null, button, h("span.soft", null, "Ctrl + Enter"), status)), result));
  document.title = "Try a sentence · " + about.title;
  arrive(); box.focus();
}
function drawReading(result, out) {
  const text = h("div.big.text", { tabindex: 0, role: "group", "aria-label": "Your text; arrow keys walk its tokens, Enter picks one" });
  const title = h("h2"), body = h("tbody");
  let latent = null, position = null;
  const strip = (acts, top) => h("td.cells", null, h("div", { "aria-hidden": "true" }, acts.map((a) => h("i", { style: shade(top ? a / top : 0) }))));
  const paint = () => {
    const chosen = out.latents.find((l) => l.id === latent);
    text.replaceChildren(...out.tokens.map((t, i) => { const node = token(t, chosen ? chosen.acts[i] : out.total[i], chosen ? chosen.max : Math.max(...out.total), i === position ? ".peak" : ""); node.dataset.i = i; return node; }));
    const list = position === null ? out.latents.slice(0, 20) : out.latents.filter((l) => l.acts[position] > 0).sort((a, b) => b.acts[position] - a.acts[position]).slice(0, 20);
    title.replaceChildren(position === null ? "Strongest latents in this text " : `Latents on “${visible(out.tokens[position])}” `, h("small", null, chosen ? `shaded by latent ${latent}` : "shaded by the number of latents that fire; pick a latent or a token"));
    body.replaceChildren(...list.map((l) => h("tr", null,
      h("td.id", null, link("/latent/" + l.id, String(l.id))),
      h("td", null, h("button.pick", { type: "button", "aria-pressed": String(l.id === latent), "aria-label": `Shade the text by latent ${l.id}`, onclick: () => { latent = latent === l.id ? null : l.id; paint(); } }, l.label ? h("span.label", null, visible(l.label)) : "", h("span.words", null, (rowOf.get(l.id) || { on: [out.tokens[l.acts.indexOf(l.max)]] }).on.map(word)))),
      strip(l.acts, l.max), h("td.num", { style: "text-align:right" }, number(position === null ? l.max : l.acts[position])))));
    if (!list.length) body.append(h("tr", null, h("td.none", { colspan: 4 }, "No latent fires here.")));
  };
  const pick = (i) => { position = position === i ? null : i; paint(); };
  text.addEventListener("click", (e) => { const t = e.target.closest(".tok"); if (t) pick(+t.dataset.i); });
  text.addEventListener("keydown", (e) => { if (e.key === "Enter") { const t = text.querySelector(".now"); if (t) pick(+t.dataset.i); } });
  paint();
  const head = h("thead", null, h("tr", null, [["latent"], ["fires on"], ["along the text"], ["activation", "text-align:right"]].map(([name, style]) => h("th", { scope: "col", style }, name))));
  result.replaceChildren(text, title, h("table.strip", null, head, body));
  say(`${out.latents.length} latents fire`);
}

/* ---- moving about ---- */
let here = "";
function route() {
  const path = here.replace(/^#/, "");
  const match = path.match(/^\/latent\/(\d+)$/);
  if (alone) return { view: "latent", id: boot.latents[0].id };
  if (match) return { view: "latent", id: +match[1] };
  return { view: path === "/live" && about.live ? "live" : "index" };
}
function go(to) {
  if (to === here) return;
  try { history.pushState(null, "", "#" + to); } catch { /* inside a notebook's frame */ }
  here = to; draw();
}
function draw() {
  hideTip();
  if (state.watcher) state.watcher.disconnect();
  const now = route();
  if (now.view === "latent") return drawLatent(now.id);
  state.view++;
  if (now.view === "live") return drawLive();
  document.title = about.title; drawIndex(); arrive();
}
let first = true;
function arrive() { if (!first) { scrollTo(0, 0); const title = main.querySelector("h1"); if (title) title.focus({ preventScroll: true }); } first = false; }
addEventListener("popstate", () => { here = location.hash.replace(/^#/, ""); draw(); });
document.addEventListener("click", (e) => {
  const a = e.target.closest("a[data-go]");
  if (a && !e.ctrlKey && !e.metaKey && !e.shiftKey && e.button === 0) { e.preventDefault(); go(a.dataset.go); }
});

/* ---- values on hover and by keyboard ---- */
function showTip(node) {
  tip.textContent = `${visible(node.dataset.t)}   ${number(+node.dataset.v)}`;
  tip.hidden = false;
  const box = node.getBoundingClientRect(), own = tip.getBoundingClientRect();
  tip.style.left = Math.max(6, Math.min(innerWidth - own.width - 6, box.left)) + "px";
  tip.style.top = (box.top - own.height - 6 > 4 ? box.top - own.height - 6 : box.bottom + 6) + "px";
}
function hideTip() { tip.hidden = true; }
document.addEventListener("mouseover", (e) => { const t = e.target.closest && e.target.closest(".tok"); if (t && !t.closest(".panel")) showTip(t); else hideTip(); });
document.addEventListener("scroll", hideTip, { passive: true });
document.addEventListener("focusout", (e) => { const now = e.target.querySelector && e.target.querySelector(".tok.now"); if (now) { now.classList.remove("now"); hideTip(); } });
function walk(text, by) {
  const tokens = [...text.querySelectorAll(".tok")], now = tokens.findIndex((t) => t.classList.contains("now"));
  const peak = tokens.findIndex((t) => t.classList.contains("peak"));
  const next = now < 0 ? Math.max(peak, 0) : Math.max(0, Math.min(tokens.length - 1, now + by));
  tokens.forEach((t, i) => t.classList.toggle("now", i === next));
  if (tokens[next]) { showTip(tokens[next]); say(tip.textContent); }
}
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || help.open) return;
  const field = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
  if (e.key === "Escape") { if (field) document.activeElement.blur(); else if (!alone && route().view !== "index") go("/"); return; }
  if (field) { if (document.activeElement.id === "query" && (e.key === "ArrowDown" || e.key === "Enter")) { const a = main.querySelector("tr.row a"); if (a) { e.preventDefault(); if (e.key === "Enter") a.click(); else a.focus(); } } return; }
  const text = document.activeElement.closest(".text[tabindex]");
  if (text && (e.key === "ArrowLeft" || e.key === "ArrowRight")) { e.preventDefault(); return walk(text, e.key === "ArrowLeft" ? -1 : 1); }
  if (e.key === "/") { e.preventDefault(); if (!alone && route().view !== "index") go("/"); const box = document.getElementById("query"); if (box) box.focus(); }
  else if (e.key === "?") help.showModal();
  else if (e.key === "j" || e.key === "k") {
    const by = e.key === "j" ? 1 : -1;
    if (route().view === "latent") return step(by);
    const links = [...main.querySelectorAll("tr.row .id a")], now = links.indexOf(document.activeElement);
    const next = links[Math.max(0, now + by)];
    if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
  }
});

try { const kept = localStorage.getItem("course-theme"); if (kept) document.documentElement.dataset.theme = kept; } catch { /* no storage */ }
here = location.hash.replace(/^#/, "");
drawBar();
const allRows = loadRows();
allRows.catch((error) => { main.replaceChildren(h("h1", null, "Data missing"), h("p", null, error.message)); });
draw();
allRows.then(() => { if (route().view === "latent" && !alone) draw(); }).catch(() => {});
})();
