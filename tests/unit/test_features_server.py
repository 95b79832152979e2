"""The live dashboard's server without a browser: hosts, origins, limits, hostile bodies, one question at a time."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from features_tiny import tiny_model, tiny_sae, tiny_tokens
from starlette.testclient import TestClient

from course_utils.viz.dashboard import build_dashboard
from course_utils.viz.server import Limits, LiveModel, create_app, listen

BASE = "http://127.0.0.1:8123"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    site = tmp_path_factory.mktemp("server") / "site"
    build_dashboard(site, tiny_model(), tiny_sae(), tiny_tokens(20), [1, 2], cache=False, progress=False)
    return TestClient(create_app(site, tiny_model(), tiny_sae()), base_url=BASE, raise_server_exceptions=False)


def ask(client, path="latents", data=None, **headers):
    return client.post(f"/api/{path}", json=data or {"text": "the river"}, headers=headers)


def test_answers_its_own_page(client):
    assert ask(client).status_code == 200
    assert ask(client, Origin=BASE).status_code == 200
    assert ask(client, Host="localhost:8123", Origin="http://localhost:8123").status_code == 200
    assert ask(client, Host="[::1]:8123").status_code == 200
    page = client.get("/")
    assert "text/html" in page.headers["content-type"]
    assert page.headers["x-frame-options"] == "DENY"
    assert client.get("/data/index-0.js").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost@evil.example"},
        {"Host": "["},
        {"Host": "[::1"},
        {"Host": "127.0.0.1]"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "https://127.0.0.1:8123"},
        {"Origin": BASE + ".evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_refuses_other_hosts_and_other_sites(client, headers):
    for path in ("/", "/data/index-0.js"):
        reply = client.get(path, headers=headers)
        assert reply.status_code == 403
        assert reply.headers["x-frame-options"] == "DENY"
        assert reply.headers["cache-control"] == "no-store"
    assert ask(client, **headers).status_code == 403


def test_only_json_by_post(client):
    assert client.get("/api/latents").status_code == 405
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        body = json.dumps({"text": "x"})
        assert client.post("/api/latents", content=body, headers={"Content-Type": kind}).status_code == 415
    for body in ("", "{", "[]", "7", "null", "[" * 15_000, '{"text": NaN}', b"\xff\xfe"):
        reply = client.post("/api/latents", content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == 400, body
        assert reply.json()["error"]


def test_sizes_are_limited(client):
    assert ask(client, data={"text": "x" * 2001}).status_code == 413
    assert ask(client, data={"text": "x" * 20_000}).status_code == 413
    huge = client.post(
        "/api/latents", content=(b"x" * 1000 for _ in range(100)), headers={"Content-Type": "application/json"}
    )
    assert huge.status_code == 413
    long = ask(client, data={"text": "river " * 300})
    assert long.status_code == 200
    assert len(long.json()["tokens"]) == 255  # 256 with BOS


@pytest.mark.parametrize(
    "change",
    [
        {"latent": -1},
        {"latent": 48},
        {"latent": 1.5},
        {"latent": "1"},
        {"latent": True},
        {"latent": None},
        {"strength": 1e9},
        {"strength": "big"},
        {"prompt": 5},
        {"prompt": " \n"},
        {"prompt": None},
    ],
)
def test_wrong_values_are_refused_with_a_sentence(client, change):
    data = {"prompt": "the river", "latent": 1, "strength": 2.0, **change}
    reply = ask(client, "steer", data)
    assert reply.status_code == 400
    assert "must be" in reply.json()["error"]


def test_odd_text_is_read(client):
    for text in ("🌊", "\ud800 x", "مرحبا", "\x00", "</script>", "\u202e"):
        reply = client.post(
            "/api/latents", content=json.dumps({"text": text}), headers={"Content-Type": "application/json"}
        )
        assert reply.status_code == 200, repr(text)


def test_files_outside_the_site_are_not_served(client):
    for path in (
        "/data/../course-dashboard.json",
        "/data/%2e%2e/course-dashboard.json",
        "/course-dashboard.json",
        "/data/..%2f..%2fx",
    ):
        assert client.get(path).status_code == 404


def test_one_question_at_a_time_and_a_short_queue():
    live = LiveModel(tiny_model(), tiny_sae(), {}, None, Limits(waiting=3))
    running, most, gate = 0, 0, threading.Event()

    def slow(data):
        nonlocal running, most
        running += 1
        most = max(most, running)
        gate.wait(10)
        running -= 1
        return {}

    async def crowd():
        tasks = [asyncio.create_task(live.answer(slow, {})) for _ in range(5)]
        await asyncio.sleep(0)
        while sum(t.done() for t in tasks) < 2:
            await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    # in a thread of its own: browser tests leave an event loop behind in the main one
    with ThreadPoolExecutor(1) as pool:
        results = pool.submit(asyncio.run, crowd()).result(timeout=30)
    assert most == 1
    assert sum(r == {} for r in results) == 3
    assert [r.status_code for r in results if r != {}] == [503, 503]


def test_listens_on_loopback_only():
    place = listen()
    assert place.getsockname()[0] == "127.0.0.1"
    place.close()
