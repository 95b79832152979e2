"""`course dashboard --serve` in a real browser, with a tiny random model: type a sentence, steer, errors, nothing outside."""

from __future__ import annotations

import threading
import time

import pytest
from features_tiny import tiny_model, tiny_sae, tiny_tokens

from course_utils.features import continuations, text_latents, token_strings
from course_utils.viz.dashboard import build_dashboard

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    import uvicorn

    from course_utils.viz.server import create_app, listen

    site = tmp_path_factory.mktemp("live") / "site"
    model, sae, labels = tiny_model(), tiny_sae(), {8: "eight"}
    build_dashboard(site, model, sae, tiny_tokens(40, 24), labels=labels, title="Tiny", cache=False, progress=False)
    place = listen()
    config = uvicorn.Config(create_app(site, model, sae, labels=labels), log_level="error", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)  # waits for the server's own word, not for a duration
    yield f"http://127.0.0.1:{place.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


def test_type_a_sentence_and_see_latents(open_page, address):
    page = open_page(address)
    page.wait_for_selector("tr.row")
    page.click("#to-live")
    page.fill("#sentence", "the river <s>🌊")
    page.click("#read")
    page.wait_for_selector(".strip tbody tr")
    model, sae = tiny_model(), tiny_sae()
    ids, acts = text_latents(model, sae, "the river <s>🌊")
    assert page.locator(".big .tok").all_inner_texts() == token_strings(model.tokenizer, ids[1:])
    best = int(acts.amax(0).argmax())
    first = page.locator(".strip tbody tr").first
    assert page.locator(".strip thead th").all_inner_texts() == ["latent", "fires on", "along the text", "activation"]
    assert first.locator("td.id").inner_text() == str(best)
    assert first.locator("button.pick").get_attribute("aria-pressed") == "false"
    first.locator("button.pick").click()
    assert first.locator("button.pick").get_attribute("aria-pressed") == "true"
    values = [float(t.get_attribute("data-v")) for t in page.locator(".big .tok").all()]
    assert values == pytest.approx(acts[1:, best].tolist(), abs=1e-3)
    page.locator(".big .tok").nth(1).click()
    on = page.locator(".strip td.num").all_inner_texts()
    numbers = [float(x) for x in on]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == min(20, int((acts[2] > 0).sum()))
    page.locator(".strip td.id a").first.click()
    page.wait_for_selector("#top")


def test_steer_and_watch_the_continuation_change(open_page, address):
    page = open_page(address + "#/latent/8")
    page.wait_for_selector("#steer")
    page.fill("#prompt", "the river")
    top = float(page.locator("#top .value").first.inner_text())
    page.locator("#dose").evaluate("e => { e.value = 0; e.dispatchEvent(new Event('input')); }")
    page.click("#steer")
    page.wait_for_selector("#plain .tok:not(.prompt)")
    assert page.inner_text("#plain") == page.inner_text("#pushed")
    page.locator("#dose").evaluate("e => { e.value = 2; e.dispatchEvent(new Event('input')); }")
    page.click("#steer")
    page.wait_for_selector("#pushed .changed")
    assert page.inner_text("#plain") != page.inner_text("#pushed")
    model, sae = tiny_model(), tiny_sae()
    plain, _ = continuations(model, sae, "the river", 8, [0.0, 2 * top], 30)
    assert page.locator("#plain .tok:not(.prompt)").count() == len(plain)
    assert [u for u in page.record.requests if "api/steer" in u]


def test_errors_are_said_in_the_page(open_page, address):
    page = open_page(address + "#/latent/8")
    page.wait_for_selector("#steer")
    page.fill("#prompt", "   ")
    page.click("#steer")
    page.wait_for_selector(".error")
    assert "must be some text" in page.inner_text(".error")
    page.record.errors = [e for e in page.record.errors if "status of 400" not in e]


def test_another_sites_page_is_refused(open_page, address, chromium):
    """A page under another name of this machine may neither read nor ask."""
    other = address.replace("127.0.0.1", "localhost")
    page = open_page(other)  # allowed itself: localhost is loopback
    page.wait_for_selector("tr.row")
    said = page.evaluate(
        """async (url) => { try { const r = await fetch(url, {method: "POST", headers: {"Content-Type": "application/json"},
        body: JSON.stringify({text: "x"})}); return r.status; } catch (e) { return "refused"; } }""",
        address + "api/latents",
    )
    assert said == "refused"
    page.record.errors = []  # the browser reports what it blocked
