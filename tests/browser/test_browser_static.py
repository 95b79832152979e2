"""Dashboards opened from disk in a real browser: search, sort, open, hover, keys, hostile text, phone width, no network."""

from __future__ import annotations

import re

import pytest
from features_tiny import tiny_model, tiny_sae, tiny_tokens

from course_utils.viz.dashboard import build_dashboard, render_page, write_page, write_site

pytestmark = pytest.mark.browser

HOSTILE = [
    "</script><script>window.owned=1;alert(1)</script>",
    "<s>",
    "<b>bold</b>",
    "<img src=x onerror=alert(2)>",
    "<!--",
    "{{SCRIPT}}",
    "مرحبا",
    "\u202eevil",
    "🌊",
    "\n",
    "\t",
    "\u200b",
    "\u2028",
    "\u0301",
    "\x00",
    "\ud800",
    " javascript:alert(3)",
    "\\u003c/script>",
    "${alert(4)}",
    "'\"`&amp;",
]


def hostile_records(n=40):
    records = []
    for i in range(n):
        words = HOSTILE[i % len(HOSTILE) :] + HOSTILE[: i % len(HOSTILE)]
        example = {"t": words, "a": [0.0, *[float(j) for j in range(1, len(words))]], "p": 1, "at": [i, 3], "v": 19.0}
        records.append(
            {
                "id": i,
                "label": words[0],
                "density": 0.5 / (i + 1),
                "fired": 100 - i,
                "max": 19.0 + i,
                "mean": 3.0,
                "histogram": {"edges": [1, 2, 4], "counts": [5, 7]},
                "logits": {
                    "top": [[w, 1.0] for w in words[:10]],
                    "bottom": [[w, -1.0] for w in words[10:]],
                    "counts": [1, 2, 3, 4],
                    "low": -1.0,
                    "high": 1.0,
                    "sd": 0.3,
                    "measured": True,
                },
                "top": [example],
                "bands": [{"low": 1.0, "high": 2.0, "from": 0.0, "to": 1.0, "examples": [example]}],
                "near": [[(i + 1) % n, 0.5], [999, 0.1]],
                "together": [],
                "related": [
                    {"text": "<i>bad</i>", "href": "javascript:alert(5)"},
                    {"text": "layer 3", "href": "../other/index.html#/latent/1", "score": 0.7},
                ],
            }
        )
    return records


ABOUT = {
    "title": HOSTILE[0],
    "model": "<model>",
    "hook": "blocks.1.hook",
    "d_sae": 48,
    "tokens": 1000,
    "count": 40,
    "bos": "",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """All 48 latents of a tiny SAE, as a site."""
    out = tmp_path_factory.mktemp("dash") / "site"
    labels = {7: "rivers and water", 11: "the sea"}
    build_dashboard(
        out, tiny_model(), tiny_sae(), tiny_tokens(60, 32), labels=labels, title="Tiny", cache=False, progress=False
    )
    return out / "index.html"


def ids(page):
    return [int(x) for x in page.locator("tr.row td.id").all_inner_texts()]


def test_index_lists_searches_and_sorts(open_page, site):
    page = open_page(site)
    page.wait_for_selector("tr.row")
    assert page.title() == "Tiny"
    assert len(ids(page)) == 48
    assert ids(page)[:2] == [7, 11]  # labelled ones first
    page.fill("#query", "RIVERS")
    assert ids(page) == [7]
    assert page.inner_text("#count") == "1 of 48"
    page.fill("#query", "4")
    assert ids(page)[0] == 4  # the exact number before 40 … 47
    page.fill("#query", "no such thing anywhere")
    assert "Nothing matches" in page.inner_text("#rows")
    page.fill("#query", "")
    page.click("th[data-key=max] button")
    values = [float(x.replace("−", "-")) for x in page.locator("td.max").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    assert page.get_attribute("th[data-key=max]", "aria-sort") == "descending"
    page.click("th[data-key=max] button")
    assert page.get_attribute("th[data-key=max]", "aria-sort") == "ascending"
    page.select_option("#sort", "id")
    assert ids(page) == list(range(48))


def test_open_a_latent_hover_and_come_back(open_page, site):
    page = open_page(site)
    page.click("tr.row[data-id='7'] td.max")
    page.wait_for_selector("#top .example")
    assert page.inner_text("h1") == "rivers and water"
    assert page.url.endswith("#/latent/7")
    assert page.locator("#top .example").count() == 12
    assert page.locator("#bands .band").count() == 5
    assert page.locator("svg.chart").count() == 2
    token = page.locator("#top .tok.peak").first
    token.hover()
    shown = page.inner_text("#tip")
    assert float(token.get_attribute("data-v")) == pytest.approx(float(shown.split()[-1]), rel=0.01)
    assert token.evaluate("e => getComputedStyle(e).backgroundColor") != "rgba(0, 0, 0, 0)"
    page.go_back()
    page.wait_for_selector("tr.row")
    page.go_forward()
    page.wait_for_selector("#top")
    page.click("#next")
    page.wait_for_function("document.querySelector('h1').innerText === 'the sea'")


def test_link_straight_to_a_latent(open_page, site):
    page = open_page(site.as_uri() + "#/latent/11")
    page.wait_for_selector("#top")
    assert page.inner_text("h1") == "the sea"
    page = open_page(site.as_uri() + "#/latent/4711")
    page.wait_for_selector("text=not in this dashboard")


def test_keyboard_alone_is_enough(open_page, site):
    page = open_page(site)
    page.wait_for_selector("tr.row")
    page.keyboard.press("/")
    page.keyboard.type("sea")
    page.keyboard.press("Enter")
    page.wait_for_selector("#top")
    assert page.inner_text("h1") == "the sea"
    page.locator("#top .text").first.focus()
    page.keyboard.press("ArrowRight")
    peak = page.inner_text("#tip")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#tip") != peak
    assert page.locator("#top .tok.now").count() == 1
    page.keyboard.press("Escape")
    page.wait_for_selector("tr.row")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.fill("#query", "")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector("#top")
    assert page.evaluate("document.activeElement.tagName") == "H1"


@pytest.mark.parametrize("kind", ["page", "site"])
def test_hostile_text_is_shown_and_never_runs(open_page, tmp_path, kind):
    if kind == "page":
        path = write_page(tmp_path / "x.html", ABOUT, hostile_records()).path
    else:
        path = write_site(tmp_path / "x", ABOUT, hostile_records()).path
    page = open_page(path)
    page.wait_for_selector("tr.row")
    assert len(ids(page)) == 40
    assert page.title() == HOSTILE[0]
    page.fill("#query", "<s>")
    assert len(ids(page)) > 0
    page.goto(path.as_uri() + "#/latent/3")
    page.reload()
    page.wait_for_selector("#top")
    text = page.inner_text("#top .text")
    for shown in (
        "</script><script>window.owned=1;alert(1)</script>",
        "<s>",
        "<b>bold</b>",
        "<!--",
        "{{SCRIPT}}",
        "مرحبا",
        "🌊",
    ):
        assert shown in text
    for sign in ("↵", "⇥", "⟨U+200B⟩", "⟨U+202E⟩", "⟨U+2028⟩", "⟨U+0000⟩", "◌\u0301"):
        assert sign in text
    assert page.locator("#top .tok").count() == len(HOSTILE)
    assert page.locator("main img, main b:not(.meter b):not(.band b), main script, main i i").count() == 0
    assert page.evaluate("window.owned") is None
    assert page.locator("a[href^='javascript']").count() == 0
    assert page.locator("a[href='../other/index.html#/latent/1']").count() == 1


def test_one_latent_in_one_file(open_page, tmp_path):
    result = build_dashboard(
        tmp_path / "five.html",
        tiny_model(),
        tiny_sae(),
        tiny_tokens(30),
        5,
        labels={5: "five"},
        cache=False,
        progress=False,
    )
    assert result.path.stat().st_size < 1_000_000
    assert [p.name for p in tmp_path.iterdir()] == ["five.html"]
    page = open_page(result.path)
    page.wait_for_selector("#top .example")
    assert page.inner_text("h1") == "five"
    assert page.record.requests == [result.path.as_uri()]
    assert "iframe" in result._repr_html_()
    notebook = tmp_path / "frame.html"
    notebook.write_text(result._repr_html_(), encoding="utf-8")
    page = open_page(notebook)
    frame = page.frame_locator("iframe")
    frame.locator("#top .example").first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_fits_the_screen_and_can_be_read(open_page, site, scheme, width):
    for route in ("", "#/latent/7"):
        page = open_page(site.as_uri() + route, width=width, scheme=scheme)
        page.wait_for_selector("#top" if route else "tr.row")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        ink_and_layers = page.evaluate(INK_AND_LAYERS, list(TEXT_KINDS))
        assert len(ink_and_layers) > 10
        for selector, text, ink, layers in ink_and_layers:
            assert contrast(ink, layers) >= 4.5, (selector, text)


TEXT_KINDS = (
    "h1",
    "h2",
    ".soft",
    ".count",
    ".note",
    "a",
    ".tok[style]",
    ".tok.hot",
    ".tok:not([style])",
    ".num",
    ".word",
)
INK_AND_LAYERS = """kinds => kinds.flatMap(kind => [...document.querySelectorAll("main " + kind)].slice(0, 30).map(e => {
  const layers = [];
  for (let n = e; n; n = n.parentElement) layers.push(getComputedStyle(n).backgroundColor);
  return [kind, e.innerText, getComputedStyle(e).color, layers];
}))"""


def contrast(ink, layers):
    """WCAG contrast of a text colour against what is really behind it."""

    def rgba(text):
        parts = [float(x) for x in re.findall(r"[\d.]+", text)]
        return [*parts[:3], parts[3] if len(parts) > 3 else 1.0]

    behind = [255.0, 255.0, 255.0]
    for layer in reversed([rgba(x) for x in layers]):
        behind = [layer[3] * c + (1 - layer[3]) * b for c, b in zip(layer, behind)]

    def light(colour):
        parts = [c / 255 for c in colour[:3]]
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    a, b = sorted((light(rgba(ink)), light(behind)), reverse=True)
    return (a + 0.05) / (b + 0.05)


def test_theme_button(open_page, site):
    page = open_page(site)
    page.wait_for_selector("tr.row")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_thousands_of_latents_first_page_is_small_and_complete(open_page, tmp_path):
    base = hostile_records(1)[0]
    record = {**base, "label": "", "top": base["top"] * 1, "bands": [], "near": [], "related": []}
    names = [f" token{i % 700}" for i in range(5000)]
    records = (
        {**record, "id": i, "max": float(i % 97), "top": [{**base["top"][0], "t": [names[i]], "a": [1.0], "p": 0}]}
        for i in range(5000)
    )
    result = write_site(tmp_path / "big", {**ABOUT, "count": 5000, "d_sae": 5000}, records)
    first = result.path.stat().st_size + (result.path.parent / "data" / "index-0.js").stat().st_size
    assert first < 1_000_000
    page = open_page(result.path)
    page.wait_for_function("document.getElementById('count').innerText === '5,000 latents'")
    assert len(ids(page)) <= 300  # only what is near the screen is drawn
    page.fill("#query", "token699")
    assert len(ids(page)) == 7
    page.fill("#query", "4999")
    page.keyboard.press("Enter")
    page.wait_for_selector("#top")
    loaded = [u for u in page.record.requests if "latents-" in u]
    assert len(loaded) == 1


def test_missing_data_folder_says_so(open_page, tmp_path):
    page_path = tmp_path / "index.html"
    page_path.write_text(render_page(ABOUT, files={"index": ["index-0"], "per_file": 32}), encoding="utf-8")
    page = open_page(page_path)
    page.wait_for_selector("text=keep the data folder beside")
    page.record.errors = [e for e in page.record.errors if "ERR_FILE_NOT_FOUND" not in e]
