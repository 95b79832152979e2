"""Change the residual stream at single positions and see what happens to the next token, at a fraction of a forward pass each."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from course_utils.features.stream import activations_at, hook_layer, hook_name_of


class OnePosition:
    """Next-token log-probabilities after the residual stream is changed at single positions, all else being as it was.

    Only the changed position runs again, with the other positions' keys and values: one token for each change instead of a whole
    sequence, some forty times less work. For models of the Llama kind (the bundled one is).
    """

    def __init__(self, model: Any, layer: int) -> None:
        inner = model.original_model.model
        self.layers = list(inner.layers)[layer + 1 :]
        self.rotary, self.norm, self.W_U = inner.rotary_emb, inner.norm, model.W_U.detach().float()
        self.heads, self.d_head = model.cfg.n_heads, model.cfg.d_head

    @torch.no_grad()
    def __call__(
        self,
        x: Float[Tensor, "sequences context d"],
        row: Int[Tensor, " changes"],
        position: Int[Tensor, " changes"],
        y: Float[Tensor, "changes d"],
    ) -> Float[Tensor, "changes vocab"]:
        """Log-probabilities after position `position[i]` of sequence `row[i]` of `x` becomes `y[i]`.

        Args:
            x: the residual stream after the layer, as the model has it.
        """
        context = x.shape[1]
        cos, sin = self.rotary(x, torch.arange(context)[None])
        cos, sin = cos[0], sin[0]
        before = torch.arange(context)[None] < position[:, None]
        for layer in self.layers:
            q, k, v = self._qkv(layer, x, cos, sin)  # [sequences, heads, context, d_head]
            q1, k1, v1 = self._qkv(layer, y[:, None], cos[position][:, None], sin[position][:, None])
            clean = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            old = (q1 * k[row]).sum(-1)  # [changes, heads, context]
            own = (q1 * k1).sum(-1)
            scores = torch.cat([old.masked_fill(~before[:, None], -torch.inf), own], dim=-1) / q.shape[-1] ** 0.5
            weights = scores.softmax(-1)
            mixed = torch.einsum("mht,mhtd->mhd", weights[..., :-1], v[row]) + weights[..., -1:] * v1[:, :, 0]
            x = self._rest(layer, x, clean.transpose(1, 2).flatten(2))
            y = self._rest(layer, y[:, None], mixed.flatten(1)[:, None])[:, 0]
        return (self.norm(y) @ self.W_U).log_softmax(-1)

    def in_pieces(self, x: Tensor, flat: Tensor, changed: Tensor, size: int = 256) -> Tensor:
        """The same for positions numbered through all sequences, a few hundred changes at a time."""
        context = x.shape[1]
        parts = zip(flat.split(size), changed.split(size), strict=True)
        return torch.cat([self(x, where // context, where % context, new) for where, new in parts])

    def _qkv(self, layer: Any, x: Tensor, cos: Tensor, sin: Tensor) -> list[Tensor]:
        h, attention = layer.input_layernorm(x), layer.self_attn
        found = []
        for project, turned in ((attention.q_proj, True), (attention.k_proj, True), (attention.v_proj, False)):
            z = project(h)
            z = z.unflatten(-1, (-1, self.d_head)).transpose(1, 2)
            if turned:
                c, s = (cos[:, None], sin[:, None]) if cos.ndim == 3 else (cos, sin)
                first, second = z.chunk(2, dim=-1)
                z = z * c + torch.cat([-second, first], dim=-1) * s
            found.append(z.repeat_interleave(self.heads // z.shape[1], dim=1))
        return found

    def _rest(self, layer: Any, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + layer.self_attn.o_proj(mixed)
        return x + layer.mlp(layer.post_attention_layernorm(x))


@torch.no_grad()
def removal_support(
    model: Any,
    sae: Any,
    tokens: Int[Tensor, "sequences context"],
    latent: int,
    places: Int[Tensor, "places 2"],
    *,
    controls: int = 0,
    seed: int = 0,
    hook_name: str | None = None,
) -> tuple[Float[Tensor, "places vocab"], Float[Tensor, "controls places vocab"]]:
    """How much log-probability each next token loses when a latent is removed at each place: how much it *supports* the token.

    The latent's contribution `f * W_dec` is taken out at one (sequence, position) at a time; the SAE's error stays. The controls
    take out a random direction of the same length instead.

    Returns:
        support in nats, and the same for each of `controls` random directions.
    """
    name = hook_name_of(sae, hook_name)
    rows, where = places[:, 0].unique(return_inverse=True)
    x = activations_at(model, tokens[rows], name).float()
    runner = OnePosition(model, hook_layer(name))
    flat = where * x.shape[1] + places[:, 1]
    here = x.flatten(0, 1)[flat]
    change = sae.encode(here)[:, latent, None] * sae.W_dec.detach()[latent]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(controls, 1, change.shape[-1], generator=generator)
    noise = noise / noise.norm(dim=-1, keepdim=True) * change.norm(dim=-1, keepdim=True)
    # everything in one call, so that the unchanged sequences run once
    changed = torch.cat([here[None], (here - change)[None], here - noise])
    after = runner.in_pieces(x, flat.repeat(controls + 2), changed.flatten(0, 1), size=1024).unflatten(
        0, (controls + 2, -1)
    )
    lost = after[0] - after[1:]
    return lost[0], lost[1:]
