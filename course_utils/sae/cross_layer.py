"""Cross-layer transcoders: a latent reads one layer and writes to all later MLP outputs (Ameisen et al. 2025, "Circuit tracing")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from course_utils.sae.coder import Coder
from course_utils.sae.config import SAEConfig
from course_utils.sae.model import SEED_SALT


class CrossLayerTranscoder(Coder):
    """`f[l] = act(x[l] W_enc[l] + b_enc[l])`, `y_hat[t] = sum over l <= t of f[l] W_dec[l, t] + b_dec[t]`.

    Rows are `[x_0, ..., x_(L-1), y_0, ..., y_(L-1)]`: what each layer's MLP reads, then what it writes. `cfg.d_in` is the
    width of one layer, `cfg.d_sae` the number of latents of all layers together, `cfg.k` (topk) the active latents of all
    layers together. With `cross=False` a latent writes to its own layer only: one transcoder a layer.

    Example:
        >>> coder = CrossLayerTranscoder(SAEConfig(d_in=8, d_sae=30, k=4), n_layers=3)
        >>> coder.encode(torch.randn(5, 24)).shape, coder.decoders.shape
        (torch.Size([5, 30]), torch.Size([3, 3, 10, 8]))
    """

    def __init__(self, cfg: SAEConfig, n_layers: int, *, cross: bool = True) -> None:
        if cfg.d_sae % n_layers:
            raise ValueError(f"d_sae = {cfg.d_sae} latents cannot be shared equally among {n_layers} layers")
        super().__init__(cfg, n_layers * cfg.d_in, n_layers * cfg.d_in)
        self.n_layers, self.per_layer, self.cross = n_layers, cfg.d_sae // n_layers, cross
        generator = torch.Generator().manual_seed(cfg.seed + SEED_SALT + 1)
        reads = torch.randn(self.per_layer, n_layers, cfg.d_in, generator=generator)
        self.W_enc = nn.Parameter(nn.functional.normalize(reads, dim=-1).flatten(1).to(self.b_enc).T)
        writes = torch.randn(n_layers, n_layers, self.per_layer, cfg.d_in, generator=generator)
        self.W_dec = nn.Parameter(0.1 * nn.functional.normalize(writes, dim=-1).to(self.b_enc))
        allowed = torch.ones(n_layers, n_layers).triu() if cross else torch.eye(n_layers)
        self.allowed: Tensor
        self.register_buffer("allowed", allowed[:, :, None, None].to(self.b_enc), persistent=False)

    @property
    def decoders(self) -> Float[Tensor, "source target per_layer d"]:
        """The decoders in use: zero where a latent may not write."""
        return self.W_dec * self.allowed

    def pre_activations(self, read: Float[Tensor, "batch d_read"]) -> Float[Tensor, "batch d_sae"]:
        """Each layer's latents read that layer only."""
        layers = read.unflatten(-1, (self.n_layers, self.cfg.d_in))
        readers = self.W_enc.view(self.n_layers, self.cfg.d_in, self.per_layer)
        return torch.einsum("...ld,ldm->...lm", layers, readers).flatten(-2) + self.b_enc

    def predict(
        self, latents: Float[Tensor, "batch d_sae"], read: Float[Tensor, "batch d_read"]
    ) -> Float[Tensor, "batch d_write"]:
        """The MLP outputs of all layers, side by side."""
        by_layer = latents.unflatten(-1, (self.n_layers, self.per_layer))
        return torch.einsum("...lm,ltmd->...td", by_layer, self.decoders).flatten(-2) + self.b_dec

    def decoder_lengths(self) -> Float[Tensor, " d_sae"]:
        """Length of everything a latent writes, joined over layers."""
        return self.decoders.square().sum((1, 3)).sqrt().flatten()


@dataclass(frozen=True)
class RelayWorld:
    """A residual model of three MLPs in which some results are passed on from layer to layer.

    Attributes:
        features: `[n_features, d]`; `pairs` `[rules, 2]`: rule r is an AND of two features, computed first in layer `born[r]`.
        writes: `[rules, 3, d]`: what rule r adds to the stream in each layer. A *relayed* rule (born 0) is read by the next
            layer and written again in a new direction; a local rule writes once.
    """

    features: Float[Tensor, "features d"]
    pairs: Tensor
    born: Tensor
    writes: Float[Tensor, "rules 3 d"]

    @property
    def relayed(self) -> Tensor:
        """`[rules]`, which rules are passed on."""
        return self.writes.norm(dim=-1).gt(0).sum(1) > 1

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """What the MLPs read `[n, 3, d]`, what they write `[n, 3, d]`, and the rules' values `[n, rules]`."""
        on = torch.rand(n, len(self.features), generator=generator) < 0.25
        values = on * (0.6 + 0.4 * torch.rand(n, len(self.features), generator=generator))
        rules = (values[:, self.pairs].sum(-1) - 1).relu()
        stream, reads, writes = values @ self.features, [], []
        for layer in range(3):
            reads.append(stream)
            out = rules @ self.writes[:, layer]
            writes.append(out)
            stream = stream + out
        return torch.stack(reads, 1), torch.stack(writes, 1), rules


def relay_world(d: int = 64, n_features: int = 16, relayed: int = 10, local: int = 5, *, seed: int = 0) -> RelayWorld:
    """`relayed` rules written in all three layers, `local` rules born in layer 1 and as many in layer 2; all orthogonal."""
    generator = torch.Generator().manual_seed(seed)
    rules = relayed + 2 * local
    basis = torch.linalg.qr(torch.randn(d, n_features + 3 * relayed + 2 * local, generator=generator))[0].T
    every = torch.combinations(torch.arange(n_features))
    pairs = every[torch.randperm(len(every), generator=generator)[:rules]]
    born = torch.tensor([0] * relayed + [1] * local + [2] * local)
    writes = torch.zeros(rules, 3, d)
    writes[:relayed] = basis[n_features : n_features + 3 * relayed].view(relayed, 3, d)
    writes[torch.arange(relayed, rules), born[relayed:]] = basis[n_features + 3 * relayed :]
    return RelayWorld(basis[:n_features], pairs, born, writes)
