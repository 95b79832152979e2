"""The site in a real browser: built by its own command from two small lessons, then read with mouse, keyboard, phone and ear."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = pytest.mark.browser

DEMO = Path(__file__).parents[1] / "demo_course"
PICTURES = r"""
# %% [markdown]
# # 98 · Pictures and formulas
#
# A lesson about nothing, with everything a page can hold: figures, formulas, wide tables, folds.
#
# $$x_i = \begin{cases} 0 & \text{with probability } 1 - p \\ 1 & \text{otherwise} \end{cases}$$
#
# Inline $W \in \mathbb R^{d \times n}$, and a formula as wide as a house:
#
# $$a_1 + a_2 + a_3 + a_4 + a_5 + a_6 + a_7 + a_8 + a_9 + a_{10} + a_{11} + a_{12} + a_{13} + a_{14}
# + a_{15} + a_{16} + a_{17} + a_{18} + a_{19} + a_{20} = 0$$
#
# | one column | another column | a third column | a fourth column | a fifth column | a sixth column |
# |---|---|---|---|---|---|
# | one_long_word_in_a_cell | one_long_word_in_a_cell | one_long_word_in_a_cell | one_long_word_in_a_cell | one_long_word_in_a_cell | 6 |
#
# ## Questions
#
# Why is a zebra striped?
#
# <details><summary>Answer</summary>
#
# #### Hidden heading
#
# Nobody knows about the *quagga*.
# </details>

# %%
import plotly.graph_objects as go
figure = go.Figure([go.Scatter(y=[3, 1, 2], name="one run"), go.Scatter(y=[1, 2, 1], name="another")])
figure.update_layout(title_text="<b>Loss falls and rises again</b><br>three steps", xaxis_title_text="step", yaxis_title_text="loss")

# %%
long = go.Figure([go.Scatter(y=[1, 2, 3], name=f"a run whose name takes most of a line, number {i}") for i in range(4)])
long.add_hline(2, annotation_text="a note beside the figure", annotation_position="right")
long.update_layout(
    title_text="<b>Everything is long</b>", height=380, margin={"t": 88, "l": 64, "r": 150, "b": 56},
    xaxis_title_text="share of all samples in which something happened that was not foreseen before",
    yaxis_title_text="a measured change of something that has a very long name indeed (units)",
)

# %%
from IPython.display import HTML, display
print("a wide line " * 30)
display(HTML('<table><tr>' + '<td>wide_cell_of_a_table</td>' * 12 + '</tr></table>'))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The demo lesson and a lesson of pictures, built by the command as `make site` calls it."""
    root = tmp_path_factory.mktemp("course")
    (root / "solutions").mkdir()
    shutil.copy(DEMO / "99_demo.py", root / "solutions")
    (root / "solutions" / "98_pictures.py").write_text(PICTURES, encoding="utf-8")
    build(root)
    return root / "site"


def build(root: Path, *options: str, fails: bool = False) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(DEMO),
        "COURSE_ROOT": str(root),
        "COURSE_HOME": str(root / "home"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "course_utils.site", "--out", "site", "--latents", "0", *options]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


class Links(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.links += [known[name] for name in ("href", "src") if known.get(name)]
        if known.get("id"):
            self.ids.append(known["id"])


def test_every_link_and_anchor_leads_somewhere(site):
    pages = {path.name: Links(path.read_text(encoding="utf-8")) for path in site.glob("*.html")}
    assert set(pages) == {"index.html", "98_pictures.html", "99_demo.html"}
    checked = 0
    for name, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), name
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                assert parts.scheme in ("data", "https"), link
                continue
            target = unquote(parts.path) or name
            assert (site / target).is_file(), f"{name}: {link}"
            if parts.fragment:
                assert unquote(parts.fragment) in pages[target].ids, f"{name}: {link}"
            checked += 1
    assert checked > 30
    search = (site / "assets" / "search.js").read_text(encoding="utf-8")
    for target, anchor in re.findall(r'"page": "([^"]+)", "lesson": "[^"]*", "anchor": "([^"]*)"', search):
        assert not anchor or anchor in pages[target].ids


def test_front_page_tells_what_this_is_and_leads_to_lessons(open_page, site):
    page = open_page(site / "index.html")
    assert page.locator("h1").count() == 1
    rows = page.locator(".lessons-table tbody tr")
    assert rows.count() == 2
    assert "2 exercises" not in rows.nth(0).inner_text()
    assert "6 min" in rows.nth(1).inner_text()
    rows.nth(0).locator("a").click()
    page.wait_for_selector("h1:has-text('98')")
    page.click("a[rel=next]")
    page.wait_for_selector("h1:has-text('99')")
    assert page.locator("#side a[aria-current=page]").inner_text().endswith("A very small lesson")


def test_answers_are_folded_and_open_by_keyboard(open_page, site):
    page = open_page(site / "99_demo.html")
    answers = page.locator("details.answer")
    assert answers.count() == 2
    assert not page.get_by_text("secret-of-the-first-exercise").is_visible()
    assert page.get_by_text("2 points", exact=True).is_visible()
    assert page.get_by_text("about 2 min").is_visible()
    assert page.get_by_text("Hint 1").first.is_visible()
    assert page.get_by_text("3 mistakes the check knows").first.is_visible()
    answers.first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert page.get_by_text("secret-of-the-first-exercise").is_visible()
    assert answers.first.get_by_text("2 / 2 points").is_visible()  # what the check said
    page.get_by_role("button", name="Unfold all answers").click()
    assert page.locator("details.answer[open]").count() == 2
    page.get_by_role("button", name="Fold all answers").click()
    assert page.locator("details.answer[open]").count() == 0


def test_search_finds_over_all_lessons_and_opens_by_keyboard(open_page, site):
    page = open_page(site / "99_demo.html")
    page.keyboard.press("/")
    page.keyboard.type("quagga nobody")
    page.wait_for_selector("#results a")
    assert page.inner_text("#found") == "1 section found"
    assert page.locator("#results mark").count() >= 2
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("h4:has-text('Hidden heading')", state="visible")  # its fold has been opened
    assert page.url.endswith("98_pictures.html#hidden-heading")
    page.fill("#search", "no such thing <b>")
    page.wait_for_selector("#found:has-text('Nothing found')")
    page.fill("#search", "rows length")
    page.wait_for_selector("#results a")
    page.keyboard.press("Escape")
    assert page.locator("#results").is_hidden()
    page.keyboard.type("rectify")
    page.wait_for_selector("#results a")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('99')")
    assert page.url.endswith("#exercise-99-1")


BACK = "getComputedStyle(document.body).backgroundColor"


def light_of(colour: str) -> float:
    return sum(float(x) for x in re.findall(r"[\d.]+", colour)[:3]) / 765


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_follows_the_system_and_the_button_and_is_remembered(open_page, site, scheme):
    page = open_page(site / "98_pictures.html", scheme=scheme)
    assert (light_of(page.evaluate(BACK)) > 0.5) == (scheme == "light")
    page.wait_for_selector(f"figure.plot[data-drawn={scheme}] svg.main-svg")
    other = "light" if scheme == "dark" else "dark"
    page.click("#theme")
    assert (light_of(page.evaluate(BACK)) > 0.5) == (other == "light")
    page.wait_for_selector(f"figure.plot[data-drawn={other}] svg.main-svg")
    words = page.evaluate("getComputedStyle(document.querySelector('figure.plot .xtitle')).fill")
    assert (light_of(words) < 0.5) == (other == "light")
    page.goto((site / "index.html").as_uri())
    assert (light_of(page.evaluate(BACK)) > 0.5) == (other == "light")
    assert page.get_attribute("#theme", "aria-pressed") == ("true" if other == "dark" else "false")


@pytest.mark.parametrize("name", ["index.html", "98_pictures.html", "99_demo.html"])
def test_a_phone_scrolls_boxes_but_never_the_page(open_page, site, name):
    page = open_page(site / name, width=390, height=800, has_touch=True)
    if name == "98_pictures.html":
        page.wait_for_selector("svg.main-svg")
        boxes = page.evaluate(
            "[...document.querySelectorAll('.scroll, .output.html')].map(e => [e.scrollWidth > e.clientWidth, e.clientWidth])"
        )
        assert sum(wide for wide, _ in boxes) >= 3  # the table of the text, the table of an output, the long formula
        assert all(width <= 390 for _, width in boxes)
        page.click("#menu summary")
        assert page.get_by_role("link", name="Questions").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_formulas_are_drawn_and_figures_are_seen(open_page, site):
    page = open_page(site / "98_pictures.html")
    sizes = page.evaluate(
        "[...document.querySelectorAll('math')].map(e => { const r = e.getBoundingClientRect(); return [r.width, r.height]; })"
    )
    assert len(sizes) == 3
    assert all(width > 20 and height > 10 for width, height in sizes)
    assert sizes[0][1] > 30  # two lines of cases
    page.wait_for_selector("svg.main-svg")
    figure = page.locator("figure.plot svg.main-svg").first.bounding_box()
    assert figure["width"] > 400
    assert figure["height"] > 200
    assert page.locator("figure.plot").first.locator(".trace").count() == 2
    assert page.inner_text("figure.plot figcaption strong") == "Loss falls and rises again"
    said = page.get_attribute("figure.plot [role=img]", "aria-label")
    assert "x: step; y: loss" in said
    assert "one run, another" in said
    assert [url for url in page.record.requests if "plotly" in url] == [(site / "assets" / "plotly.min.js").as_uri()]


CUT_OFF = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(figure => {
    const all = figure.getBoundingClientRect();
    return [...figure.querySelectorAll('text')].filter(text => {
        const r = text.getBoundingClientRect();
        return r.width && (r.left < all.left - 3 || r.right > all.right + 3 || r.top < all.top - 3 || r.bottom > all.bottom + 3);
    }).map(text => text.textContent);
})"""


@pytest.mark.parametrize("width", [390, 1280])
def test_no_word_of_a_figure_is_cut_off(open_page, site, width):
    page = open_page(site / "98_pictures.html", width=width, height=800)
    page.locator("figure.plot").nth(1).scroll_into_view_if_needed()
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === 2")
    page.wait_for_timeout(500)  # margins settle after the first drawing
    assert page.evaluate(CUT_OFF) == []
    assert page.locator("figure.plot").nth(1).locator(".legendtext").count() == 4


def test_skip_link_landmarks_and_contents(open_page, site):
    page = open_page(site / "98_pictures.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    for role, name in (
        ("navigation", "Lessons"),
        ("navigation", "On this page"),
        ("search", None),
        ("main", None),
        ("banner", None),
    ):
        assert page.get_by_role(role, name=name).count() == 1 if name else page.get_by_role(role).count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, img, iframe')]"
        ".filter(e => !(e.ariaLabel || e.title || e.alt || e.textContent.trim() || (e.labels || []).length)).length"
    )
    assert unnamed == 0
    page.click("nav.contents a:has-text('Questions')")
    assert page.url.endswith("#questions")
    page.wait_for_selector("nav.contents a[aria-current]:has-text('Questions')")


def test_a_second_build_runs_nothing_and_a_failing_lesson_is_named(site):
    root = site.parent
    kept = {path: path.stat().st_mtime_ns for path in (root / "build" / "executed").iterdir()}
    assert len(kept) == 2
    shutil.copytree(root, root.parent / "again")
    again = root.parent / "again"
    said = build(again, "--lessons", "99")
    assert "cell" not in said  # no bar: nothing ran
    assert sorted(path.name for path in (again / "site").glob("*.html")) == ["99_demo.html", "index.html"]
    source = again / "solutions" / "98_pictures.py"
    source.write_text(source.read_text().replace("go.Scatter(y=[3, 1, 2]", "go.Sxatter(y=[3, 1, 2]"), encoding="utf-8")
    said = build(again, fails=True)
    assert "lesson 98 does not run" in said
    assert "code cell 1 of 3" in said
    assert 'under "Hidden heading"' in said or 'under "Questions"' in said
    assert "Sxatter" in said
    assert (again / "site" / "99_demo.html").exists()
