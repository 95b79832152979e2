"""The live dashboard: a static site plus two questions it can ask the model. For this machine only.

What keeps it private and standing: it listens on loopback; the Host header must name loopback (a page elsewhere that points
its own name at 127.0.0.1 is refused); a request with an Origin must come from this very address (other sites' pages are
refused), and answers are asked for by POST with JSON, which other sites' forms cannot send; bodies, texts and token counts
are limited; the model answers one question at a time, and a queue that is too long is turned away.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from course_utils.features import continuations, hook_name_of, text_latents, token_strings
from course_utils.viz.dashboard import marker_of, render_page

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Limits:
    """How much one request may ask for."""

    text: int = 2000
    """Characters of a sentence or prompt."""
    tokens: int = 256
    """Tokens of a sentence that are read."""
    new_tokens: int = 30
    """Tokens a continuation may have."""
    latents: int = 200
    """Latents returned for a sentence, strongest first."""
    strength: float = 1e4
    """Largest steering strength, either sign."""
    body: int = 16_384
    """Bytes of a request."""
    waiting: int = 4
    """Questions that may wait for the model."""


class LoopbackOnly:
    """Refuses requests that name another host, or come from another site's page."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (reason := _refusal(Request(scope))):
            await JSONResponse({"error": reason}, status_code=403)(scope, receive, send)
            return
        if scope["type"] == "websocket":
            raise RuntimeError("this server speaks no websockets")
        await self.app(scope, receive, send)


def _refusal(request: Request) -> str | None:
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or _hostname(hosts[0]) not in LOOPBACK:
        return "This server answers on 127.0.0.1 only."
    origin = request.headers.get("origin")
    if origin is not None and origin != f"http://{hosts[0]}":
        return "Pages of other sites may not use this server."
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return "Pages of other sites may not use this server."
    return None


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:  # such as a bracket that does not close
        return None


class LiveModel:
    """Answers questions about one model and SAE, one at a time."""

    def __init__(self, model: Any, sae: Any, labels: Mapping[int, str], hook_name: str | None, limits: Limits):
        self.model, self.sae, self.labels, self.limits = model, sae, labels, limits
        self.hook_name = hook_name_of(sae, hook_name)
        self.d_sae = int(sae.W_dec.shape[0])
        self._lock: asyncio.Lock | None = None
        self._waiting = 0

    async def answer(
        self, question: Callable[[Mapping[str, Any]], dict[str, Any]], data: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Run `question` outside the event loop while no other runs."""
        if self._lock is None:
            self._lock = asyncio.Lock()
        if self._waiting >= self.limits.waiting:
            raise HTTPException(503, "The model is busy: try again in a moment.")
        self._waiting += 1
        try:
            async with self._lock:
                return await run_in_threadpool(question, data)
        finally:
            self._waiting -= 1

    @torch.no_grad()
    def latents(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The latents that fire on a text: `{"text"}` to tokens, firing counts and activations."""
        text = _text(data, "text", self.limits.text)
        ids, acts = text_latents(self.model, self.sae, text, hook_name=self.hook_name, max_tokens=self.limits.tokens)
        ids, acts = ids[1:], acts[1:].float().cpu()  # BOS says nothing about the text
        if not len(ids):
            raise HTTPException(400, "There is no text to read.")
        peak = acts.amax(0)
        best = peak.topk(min(self.limits.latents, int((peak > 0).sum()))).indices.tolist()
        return {
            "tokens": token_strings(self.model.tokenizer, ids),
            "total": (acts > 0).sum(1).tolist(),
            "latents": [
                {
                    "id": i,
                    "label": self.labels.get(i, ""),
                    "max": round(float(peak[i]), 4),
                    "acts": [round(a, 4) for a in acts[:, i].tolist()],
                }
                for i in best
            ],
        }

    def steer(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """A prompt's continuation as it is and with a latent added: `{"prompt", "latent", "strength"}`."""
        prompt = _text(data, "prompt", self.limits.text)
        latent = _number(data, "latent", 0, self.d_sae - 1)
        if latent != int(latent):
            raise HTTPException(400, "latent must be a whole number.")
        strength = _number(data, "strength", -self.limits.strength, self.limits.strength)
        plain, steered = continuations(
            self.model,
            self.sae,
            prompt,
            int(latent),
            [0.0, strength],
            self.limits.new_tokens,
            hook_name=self.hook_name,
            max_prompt_tokens=self.limits.tokens,
        )
        prompt_ids = self.model.to_tokens(prompt, prepend_bos=True)[0, 1 : self.limits.tokens]
        spell = [token_strings(self.model.tokenizer, ids) for ids in (prompt_ids, plain, steered)]
        return dict(zip(("prompt", "plain", "steered"), spell, strict=True))


def _text(data: Mapping[str, Any], name: str, most: int) -> str:
    text = data.get(name)
    if not isinstance(text, str) or not text.strip():
        raise HTTPException(400, f"{name} must be some text.")
    if len(text) > most:
        raise HTTPException(413, f"{name} is too long: at most {most} characters.")
    return text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates would stop the tokenizer


def _number(data: Mapping[str, Any], name: str, low: float, high: float) -> float:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise HTTPException(400, f"{name} must be a number from {low:g} to {high:g}.")
    return float(value)


async def _json(request: Request, limits: Limits) -> Mapping[str, Any]:
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "Send JSON.")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > limits.body:
            raise HTTPException(413, f"The request is too large: at most {limits.body} bytes.")
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "The request is not JSON.") from error
    if not isinstance(data, dict):
        raise HTTPException(400, "The request must be a JSON object.")
    return data


def create_app(
    site: str | Path,
    model: Any,
    sae: Any,
    *,
    labels: Mapping[int, str] | None = None,
    hook_name: str | None = None,
    limits: Limits | None = None,
    prompt: str = "I went to the market and",
) -> Starlette:
    """The web application over a site that `build_dashboard` wrote for this model and SAE."""
    site, limits = Path(site), limits or Limits()
    live = LiveModel(model, sae, dict(labels or {}), hook_name, limits)
    marker = marker_of(site)
    about = {**marker["about"], "live": True, "limits": {"text": limits.text}, "prompt": prompt}
    page = render_page(about, files=marker["files"])

    async def home(request: Request) -> Response:
        return HTMLResponse(page)

    async def latents(request: Request) -> Response:
        return JSONResponse(await live.answer(live.latents, await _json(request, limits)))

    async def steer(request: Request) -> Response:
        return JSONResponse(await live.answer(live.steer, await _json(request, limits)))

    async def refuse(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 500)
        return JSONResponse({"error": getattr(error, "detail", "Something went wrong.")}, status_code=status)

    app = Starlette(
        routes=[
            Route("/", home),
            Route("/index.html", home),
            Route("/api/latents", latents, methods=["POST"]),
            Route("/api/steer", steer, methods=["POST"]),
            Mount("/data", StaticFiles(directory=site / "data")),
        ],
        exception_handlers={HTTPException: refuse, Exception: refuse},
    )
    app.add_middleware(LoopbackOnly)
    app.add_middleware(SafeHeaders)  # the last one is outermost: refusals carry the headers, too
    return app


class SafeHeaders:
    """No caching of answers, no guessing of types, no framing by other pages."""

    headers = (
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"cache-control", b"no-store"),
    )

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self.headers]
            await send(message)

        await self.app(scope, receive, send_with)


def listen(port: int = 0) -> socket.socket:
    """A loopback socket; port 0 takes a free one."""
    place = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", port))
    return place


def serve(app: Starlette, place: socket.socket) -> None:
    """Answer until interrupted."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        limit_concurrency=32,
        timeout_keep_alive=5,
        ws="none",
        lifespan="off",
    )
    uvicorn.Server(config).run(sockets=[place])
