"""Lesson 08: the frontier; transcoders, crosscoders, meta-SAEs, cross-layer transcoders, absorption, circles, heads, and the case."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from course_utils import sae
from course_utils.grading import Close, Draw, Exact, Lesson, Rule

lesson = Lesson("08", "The frontier", slug="08_the_frontier")


def _fill(draw: Draw, model, names):
    """Give the named parameters seeded values of the shape they have; the decoder's rows get unequal lengths."""
    for name in names:
        parameter = getattr(model, name)
        scale = 0.5 + draw.rng.uniform(size=(*parameter.shape[:-1], 1)) if "W" in name else 1.0
        values = 0.4 * scale * draw.rng.normal(size=tuple(parameter.shape))
        parameter.data = torch.from_numpy(values.astype(np.float32))
    return model


def _shapes(model, names):
    own = dict(model.named_parameters())
    return {name: str(tuple(own[name].shape)) if name in own else "not an nn.Parameter" for name in names}


def _gradients(model, loss, names):
    model.zero_grad()
    loss.backward()
    return {name: torch.zeros(1) if getattr(model, name).grad is None else getattr(model, name).grad for name in names}


def _start(model, limit: float, read: tuple[int, ...], write: tuple[int, ...], zero=("b_enc", "b_dec")):
    """How the parameters start. `limit`: of the product of a latent's encoder and decoder lengths, at the lesson's sizes."""
    encoder, decoder = model.W_enc.detach(), model.W_dec.detach()
    size = float(encoder.square().sum(read).mean().sqrt() * decoder.square().sum(write).mean().sqrt())
    varied = bool(encoder.std() > 0) and bool(decoder.std() > 0)
    small = "random and small" if size < limit else "too large: take 0.01 * torch.randn(...)"
    at_zero = {name: bool((getattr(model, name) == 0).all()) for name in zero}
    return {
        "W_enc and W_dec": small if varied else "not random",
        "biases": "zero" if at_zero["b_enc"] and at_zero["b_dec"] else "not zero",
    } | {name: "zero" if at_zero[name] else "not zero" for name in zero if name not in ("b_enc", "b_dec")}


_LARGE_START = (
    "The weights start too large, and training from there leaves much unfound. Start small: `0.01 * torch.randn(...)`."
)
_BIASES_START = "A bias does not start at zero. Only W_enc and W_dec start random."


def _scaled(cls, names, factor: float = 1.0, add: float = 0.0):
    """The same class with another start of the named parameters."""

    class Other(cls):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for name in names:
                parameter = getattr(self, name)
                if parameter is not None:
                    parameter.data = factor * parameter.data + add * torch.randn(parameter.shape)

    return Other


# -- 08.1 ---------------------------------------------------------------------------------------------------------

_T = ("W_enc", "b_enc", "W_dec", "b_dec")


def _transcoder_with(
    encode=lambda m, x: (x @ m.W_enc + m.b_enc).relu(),
    straight=lambda m, x: x @ m.W_skip,
    target=lambda x, y: y,
    error=lambda e: e.square().sum(-1).mean(),
    length=lambda m: m.W_dec.norm(dim=1),
    penalty=lambda costs: costs.sum(-1).mean(),
):
    class Transcoder(nn.Module):
        def __init__(self, d_in, d_out, d_sae, l1, skip=False):
            super().__init__()
            self.l1 = l1
            self.W_enc = nn.Parameter(F.normalize(torch.randn(d_in, d_sae), dim=0))
            self.b_enc = nn.Parameter(torch.zeros(d_sae))
            self.W_dec = nn.Parameter(0.1 * F.normalize(torch.randn(d_sae, d_out), dim=1))
            self.b_dec = nn.Parameter(torch.zeros(d_out))
            self.W_skip = nn.Parameter(torch.zeros(d_in, d_out)) if skip else None

        def encode(self, x):
            return encode(self, x)

        def forward(self, x):
            y_hat = self.encode(x) @ self.W_dec + self.b_dec
            return y_hat if self.W_skip is None else y_hat + straight(self, x)

        def loss(self, x, y):
            return error(target(x, y) - self(x)) + self.l1 * penalty(self.encode(x) * length(self))

    return Transcoder


transcoder = lesson.exercise(
    1,
    title="A transcoder, with and without a skip connection",
    answer="Transcoder",
    reference=_transcoder_with(),
    points=4,
    difficulty=2,
    importance=5,
    minutes=20,
    hints=(
        "It has an SAE's four parameters, but reads vectors of width `d_in` and writes vectors of width `d_out`. Nothing "
        "is subtracted from x.",
        "`forward` gives `encode(x) @ W_dec + b_dec`, and with a skip connection `+ x @ W_skip`. The target of the loss "
        "is y, the MLP's *output*.",
        "`loss`: `(y - self(x)).square().sum(-1).mean() + l1 * (f * W_dec.norm(dim=1)).sum(-1).mean()`; without a skip "
        "`self.W_skip = None`.",
    ),
)


@transcoder.case("parameters and their shapes", rule=Exact())
def _(f, draw):
    plain, skipping = f(5, 4, 9, 0.1), f(5, 4, 9, 0.1, skip=True)
    return _shapes(plain, _T) | {
        "W_skip": _shapes(skipping, ("W_skip",))["W_skip"],
        "without a skip": str(getattr(plain, "W_skip", None)),
    }


@transcoder.case("the start", rule=Exact())
def _(f, draw):
    return _start(f(32, 32, 60, 0.05, skip=True), 0.25, (0,), (1,), ("b_enc", "b_dec", "W_skip"))


@transcoder.case("the latents")
def _(f, draw):
    return _fill(draw, f(6, 6, 12, 0.1), _T).encode(draw.normal(20, 6))


@transcoder.case("the output, without a skip")
def _(f, draw):
    return _fill(draw, f(5, 4, 9, 0.1), _T)(draw.normal(20, 5))


@transcoder.case("the output, with a skip", weight=2)
def _(f, draw):
    return _fill(draw, f(6, 6, 9, 0.1, skip=True), (*_T, "W_skip"))(draw.normal(20, 6))


@transcoder.case("the loss", weight=2)
def _(f, draw):
    model = _fill(draw, f(6, 6, 9, 0.3), _T)
    return model.loss(draw.normal(20, 6), draw.normal(20, 6))


@transcoder.case("the gradient of the loss", weight=2, rule=Close(rtol=1e-3))
def _(f, draw):
    names = (*_T, "W_skip")
    model = _fill(draw, f(5, 4, 9, 0.3, skip=True), names)
    return _gradients(model, model.loss(draw.normal(20, 5), draw.normal(20, 4)), names)


transcoder.mistake(
    "The loss compares with the input x: that is an autoencoder. A transcoder must produce the MLP's output y.",
    name="reconstructs_the_input",
)(_transcoder_with(target=lambda x, y: x))
transcoder.mistake("The skip connection is made but never added to the output.", name="skip_forgotten")(
    _transcoder_with(straight=lambda m, x: 0)
)
transcoder.mistake(
    "x itself is added. The skip is a linear map of its own, `x @ W_skip`, and learned.", name="identity_skip"
)(_transcoder_with(straight=lambda m, x: x))
transcoder.mistake(
    "W_skip is applied from the wrong side: rows are samples here, so it is `x @ W_skip`.", name="skip_transposed"
)(_transcoder_with(straight=lambda m, x: x @ m.W_skip.T))
transcoder.mistake(
    "b_dec is subtracted from the input. In a transcoder it lives in the space of the output; nothing is subtracted from x.",
    name="subtracts_b_dec",
)(_transcoder_with(encode=lambda m, x: ((x - m.b_dec) @ m.W_enc + m.b_enc).relu()))
transcoder.mistake(
    "The penalty ignores the lengths of the decoder's rows: tiny latents with a huge decoder pass under it.",
    name="penalty_without_lengths",
)(_transcoder_with(length=lambda m: torch.ones_like(m.b_enc)))
transcoder.mistake(
    "The squared error is averaged over dimensions; sum over them, and average over the batch alone.",
    name="mean_over_dimensions",
)(_transcoder_with(error=lambda e: e.square().mean()))
transcoder.mistake(_LARGE_START, name="large_start")(_scaled(_transcoder_with(), ("W_enc", "W_dec"), 0, 32**-0.5))
transcoder.mistake(_BIASES_START, name="random_biases")(_scaled(_transcoder_with(), ("b_enc", "b_dec"), 0, 0.01))
transcoder.mistake("W_skip starts at zero, not at random.", name="random_skip")(
    _scaled(_transcoder_with(), ("W_skip",), 0, 0.01)
)
transcoder.mistake(
    "The penalty is averaged over latents too. Sum over the latents, and average over the batch alone.",
    name="penalty_averaged_over_latents",
)(_transcoder_with(penalty=lambda costs: costs.mean()))
transcoder.mistake(
    "The penalty uses the lengths of the encoder's columns; it is the decoder's rows that count.",
    name="lengths_of_the_encoder",
)(_transcoder_with(length=lambda m: m.W_enc.norm(dim=0)))
transcoder.mistake("The lengths in the penalty are squared; take the lengths themselves.", name="lengths_squared")(
    _transcoder_with(length=lambda m: m.W_dec.square().sum(1))
)
transcoder.mistake(
    "The penalty is subtracted, so that activity is rewarded. Add it to the error.", name="penalty_subtracted"
)(_transcoder_with(penalty=lambda costs: -costs.sum(-1).mean()))


@transcoder.alternative
class WithLinear(nn.Module):
    def __init__(self, d_in, d_out, d_sae, l1, skip=False):
        super().__init__()
        for name, shape in (("W_enc", (d_in, d_sae)), ("W_dec", (d_sae, d_out))):
            setattr(self, name, nn.Parameter(torch.empty(shape)))
            nn.init.normal_(getattr(self, name), std=0.01)
        self.b_enc, self.b_dec = nn.Parameter(torch.zeros(d_sae)), nn.Parameter(torch.zeros(d_out))
        self.register_parameter("W_skip", nn.Parameter(torch.zeros(d_in, d_out)) if skip else None)
        self.weight = l1

    def encode(self, x):
        return F.relu(F.linear(x, self.W_enc.T, self.b_enc))

    def forward(self, x):
        out = torch.addmm(self.b_dec, self.encode(x), self.W_dec)
        return out + torch.einsum("bi,io->bo", x, self.W_skip) if self.W_skip is not None else out

    def loss(self, x, y):
        l1 = torch.einsum("bs,s->b", self.encode(x), torch.linalg.vector_norm(self.W_dec, dim=-1))
        return F.mse_loss(self(x), y, reduction="sum") / len(x) + self.weight * l1.mean()


# -- 08.2 ---------------------------------------------------------------------------------------------------------


def _crosscoder_with(
    encode=lambda m, x: (torch.einsum("bsd,sdm->bm", x, m.W_enc) + m.b_enc).relu(),
    decode=lambda m, f: torch.einsum("bm,smd->bsd", f, m.W_dec) + m.b_dec,
    length=lambda m: m.W_dec.norm(dim=2).sum(dim=0),
    error=lambda e: e.square().sum((1, 2)).mean(),
    relative=lambda m: (lambda n: n[1] / (n[0] + n[1]))(m.W_dec.norm(dim=2)),
):
    class Crosscoder(nn.Module):
        def __init__(self, n_sources, d_in, d_sae, l1):
            super().__init__()
            self.l1 = l1
            self.W_enc = nn.Parameter(torch.randn(n_sources, d_in, d_sae) / (n_sources * d_in) ** 0.5)
            self.b_enc = nn.Parameter(torch.zeros(d_sae))
            self.W_dec = nn.Parameter(0.1 * F.normalize(torch.randn(n_sources, d_sae, d_in), dim=2))
            self.b_dec = nn.Parameter(torch.zeros(n_sources, d_in))

        def encode(self, x):
            return encode(self, x)

        def decode(self, f):
            return decode(self, f)

        def loss(self, x):
            f = self.encode(x)
            return error(x - self.decode(f)) + self.l1 * (f * length(self)).sum(1).mean()

        def relative_length(self):
            return relative(self)

    return Crosscoder


crosscoder = lesson.exercise(
    2,
    title="A crosscoder: what do two layers, or two models, share?",
    answer="Crosscoder",
    reference=_crosscoder_with(),
    points=4,
    difficulty=3,
    importance=5,
    minutes=25,
    hints=(
        "One set of latents for all sources: add up what each source's encoder says, then the bias, then one ReLU.",
        "Each source has a decoder of its own. `torch.einsum('bsd,sdm->bm', x, W_enc)` reads, "
        "`torch.einsum('bm,smd->bsd', f, W_dec)` writes.",
        "`lengths = W_dec.norm(dim=2)` is [sources, latents]; the penalty weights f by `lengths.sum(0)`, the relative "
        "length is `lengths[1] / lengths.sum(0)`.",
    ),
)


@crosscoder.case("parameters and their shapes", rule=Exact())
def _(f, draw):
    return _shapes(f(3, 4, 9, 0.1), _T)


@crosscoder.case("the start", rule=Exact())
def _(f, draw):
    return _start(f(2, 32, 40, 0.1), 1.6, (0, 1), (0, 2))


@crosscoder.case("the latents", weight=2)
def _(f, draw):
    return _fill(draw, f(3, 4, 9, 0.1), _T).encode(draw.normal(20, 3, 4))


@crosscoder.case("the reconstruction of each source", weight=2)
def _(f, draw):
    return _fill(draw, f(3, 4, 9, 0.1), _T).decode(draw.uniform(20, 9))


@crosscoder.case("the loss", weight=2)
def _(f, draw):
    return _fill(draw, f(2, 5, 9, 0.4), _T).loss(draw.normal(20, 2, 5))


@crosscoder.case("the gradient of the loss", rule=Close(rtol=1e-3))
def _(f, draw):
    model = _fill(draw, f(2, 5, 9, 0.4), _T)
    return _gradients(model, model.loss(draw.normal(20, 2, 5)), _T)


@crosscoder.case("the relative length", weight=2)
def _(f, draw):
    model = _fill(draw, f(2, 5, 9, 0.4), _T)
    model.W_dec.data[0, :2] = 0
    model.W_dec.data[1, 2:4] = 0
    return model.relative_length()


crosscoder.mistake(
    "The penalty uses the length of both decoders joined, a square root over all sources. That is an ordinary SAE on "
    "joined activations; the "
    "crosscoder's penalty adds up the lengths of the sources.",
    name="norm_of_the_concatenation",
)(_crosscoder_with(length=lambda m: m.W_dec.square().sum((0, 2)).sqrt()))
crosscoder.mistake(
    "The first source's decoder reconstructs every source. Each source has one of its own.", name="one_decoder_for_all"
)(_crosscoder_with(decode=lambda m, f: (f @ m.W_dec[0])[:, None] + m.b_dec))
crosscoder.mistake(
    "Each source goes through a ReLU of its own before they are added; a latent decides on the sum.", name="relu_each"
)(_crosscoder_with(encode=lambda m, x: (torch.einsum("bsd,sdm->bsm", x, m.W_enc) + m.b_enc).relu().sum(1)))
crosscoder.mistake("The sources are averaged where they should be added.", name="average_of_sources")(
    _crosscoder_with(encode=lambda m, x: (torch.einsum("bsd,sdm->bm", x, m.W_enc) / x.shape[1] + m.b_enc).relu())
)
crosscoder.mistake(
    "The relative length is measured on the encoder. What a source does with a latent stands in its decoder.",
    name="relative_of_the_encoder",
)(_crosscoder_with(relative=lambda m: (lambda n: n[1] / (n[0] + n[1]))(m.W_enc.norm(dim=1))))
crosscoder.mistake(
    "This is the ratio of the two lengths, which has no upper end; take the second's share of their sum.",
    name="ratio_instead_of_share",
)(_crosscoder_with(relative=lambda m: (lambda n: n[1] / n[0])(m.W_dec.norm(dim=2))))
crosscoder.mistake("The error is averaged over sources; add it up over them.", name="mean_over_sources")(
    _crosscoder_with(error=lambda e: e.square().sum(2).mean())
)
crosscoder.mistake(_LARGE_START, name="large_start")(_scaled(_crosscoder_with(), ("W_enc", "W_dec"), 0, 32**-0.5))
crosscoder.mistake(_BIASES_START, name="random_biases")(_scaled(_crosscoder_with(), ("b_enc", "b_dec"), 0, 0.01))
crosscoder.mistake(
    "This is the first source's share of the lengths; the second's is asked for.", name="share_of_the_first"
)(_crosscoder_with(relative=lambda m: (lambda n: n[0] / (n[0] + n[1]))(m.W_dec.norm(dim=2))))
crosscoder.mistake(
    "The relative length is made of squared lengths; take the lengths themselves.", name="relative_of_squares"
)(_crosscoder_with(relative=lambda m: (lambda n: n[1] / (n[0] + n[1]))(m.W_dec.square().sum(2))))
crosscoder.mistake(
    "The penalty ignores the lengths of the decoders: tiny latents with a huge decoder pass under it.",
    name="penalty_without_lengths",
)(_crosscoder_with(length=lambda m: torch.ones_like(m.b_enc)))
crosscoder.mistake(
    "The lengths in the penalty are averaged over sources; add them up.", name="lengths_averaged_over_sources"
)(_crosscoder_with(length=lambda m: m.W_dec.norm(dim=2).mean(dim=0)))
crosscoder.mistake("The lengths in the penalty are squared; take the lengths themselves.", name="lengths_squared")(
    _crosscoder_with(length=lambda m: m.W_dec.square().sum((0, 2)))
)


@crosscoder.alternative
class SourceBySource(nn.Module):
    def __init__(self, n_sources, d_in, d_sae, l1):
        super().__init__()
        self.n, self.l1 = n_sources, l1
        self.W_enc = nn.Parameter(0.1 * torch.randn(n_sources, d_in, d_sae))
        self.W_dec = nn.Parameter(0.1 * torch.randn(n_sources, d_sae, d_in))
        self.b_enc, self.b_dec = nn.Parameter(torch.zeros(d_sae)), nn.Parameter(torch.zeros(n_sources, d_in))

    def encode(self, x):
        return F.relu(sum(x[:, s] @ self.W_enc[s] for s in range(self.n)) + self.b_enc)

    def decode(self, f):
        return torch.stack([f @ self.W_dec[s] + self.b_dec[s] for s in range(self.n)], dim=1)

    def loss(self, x):
        f = self.encode(x)
        penalty = sum((f * self.W_dec[s].norm(dim=1)).sum(1) for s in range(self.n))
        return ((x - self.decode(f)) ** 2).flatten(1).sum(1).mean() + self.l1 * penalty.mean()

    def relative_length(self):
        lengths = torch.linalg.vector_norm(self.W_dec, dim=-1)
        return 1 - lengths[0] / lengths.sum(0)


# -- 08.3 ---------------------------------------------------------------------------------------------------------


def families_of(W_dec, meta, share):
    """The library's families as a plain tuple."""
    found = sae.meta_families(W_dec, meta, share=share)
    return found.strength, found.member, found.fvu


families = lesson.exercise(
    3,
    title="Latents made of latents: a meta-SAE",
    answer="meta_families",
    reference=families_of,
    points=3,
    difficulty=2,
    importance=3,
    minutes=15,
    hints=(
        "First make every row of `W_dec` a unit vector: a family is about directions, and a long row is not more of a member.",
        "What meta-latent j contributes to a direction is m_j times row j of the meta decoder: its length is `m * "
        "meta.W_dec.norm(dim=1)`.",
        "Members: `(strength > 0) & (strength >= share * strength.amax(dim=1, keepdim=True))`; unexplained: squared "
        "error over the squared distance from the mean row.",
    ),
)


class _Meta:
    """A small random SAE with a decoder whose rows have unequal lengths."""

    def __init__(self, draw: Draw, d: int, n: int) -> None:
        self.W_enc, self.b_enc = draw.normal(d, n), draw.normal(n, std=0.2)
        self.W_dec, self.b_dec = draw.normal(n, d) * draw.uniform(n, 1, low=0.3, high=2.0), draw.normal(d, std=0.2)

    def encode(self, x):
        return (x @ self.W_enc + self.b_enc).relu()

    def decode(self, f):
        return f @ self.W_dec + self.b_dec


def _dictionary(draw: Draw, n: int = 30, d: int = 6):
    return draw.lend((draw.rng.uniform(0.3, 4, (n, 1)) * (draw.rng.normal(size=(n, d)) + 0.7)).astype(np.float32))


@families.case("how strongly each part contributes", weight=2)
def _(f, draw):
    return f(_dictionary(draw), _Meta(draw, 6, 10), 0.5)[0]


@families.case("who belongs to which family", weight=2, rule=Exact())
def _(f, draw):
    return torch.as_tensor(f(_dictionary(draw), _Meta(draw, 6, 10), 0.4)[1]).bool()


@families.case("a direction that no part matches", rule=Exact())
def _(f, draw):
    meta = _Meta(draw, 6, 10)
    meta.b_enc = torch.full((10,), -1.0) - meta.W_enc.norm(dim=0)
    meta.b_enc[3] = 5.0
    meta.W_enc = meta.W_enc * (torch.arange(10) != 3)
    meta.W_enc[0, 3] = 40.0
    return torch.as_tensor(f(_dictionary(draw), meta, 0.5)[1]).bool()


@families.case("the variance left unexplained (this meta-SAE is untrained: more than 1 is possible)", weight=2)
def _(f, draw):
    return float(f(_dictionary(draw), _Meta(draw, 6, 10), 0.5)[2])


def _families_with(
    rows=lambda W: F.normalize(W, dim=1),
    strength=lambda m, meta: m * meta.W_dec.norm(dim=1),
    member=lambda s, share: (s > 0) & (s >= share * s.amax(dim=1, keepdim=True)),
    total=lambda rows: (rows - rows.mean(0)).square().sum(),
    error=lambda e: e.square().sum(),
    left=lambda fvu: fvu,
):
    def meta_families(W_dec, meta, share):
        d = rows(W_dec)
        m = meta.encode(d)
        s = strength(m, meta)
        return s, member(s, share), float(left(error(d - meta.decode(m)) / total(d)))

    return meta_families


families.mistake(
    "The rows go in with the lengths they have, so the longest rows decide everything: make them unit vectors first.",
    name="rows_not_normalised",
)(_families_with(rows=lambda W: W))
families.mistake(
    "The columns are normalised, not the rows: each latent's own direction has to become a unit vector.",
    name="normalised_along_the_wrong_axis",
)(_families_with(rows=lambda W: F.normalize(W, dim=0)))
families.mistake(
    "The activation of a meta-latent alone is not its contribution: its decoder row has a length too.",
    name="decoder_length_ignored",
)(_families_with(strength=lambda m, meta: m))
families.mistake(
    "Membership is measured against the strongest latent of the family. Ask of each latent what it is made of: compare within its row.",
    name="share_within_the_family",
)(_families_with(member=lambda s, share: (s > 0) & (s >= share * s.amax(dim=0, keepdim=True))))
families.mistake(
    "A latent without any part becomes a member of all families, because 0 >= 0: ask for a positive contribution too.",
    name="zero_is_a_member",
)(_families_with(member=lambda s, share: s >= share * s.amax(dim=1, keepdim=True)))
families.mistake(
    "The error is compared with the sum of squares. Unexplained *variance* is measured about the mean direction.",
    name="variance_without_a_mean",
)(_families_with(total=lambda rows: rows.square().sum()))
families.mistake(
    "This is the explained fraction, 1 minus what is asked for. Return what is left unexplained.",
    name="explained_instead_of_unexplained",
)(_families_with(left=lambda fvu: 1 - fvu))
families.mistake(
    "The error is taken about its own mean. Take the whole squared error; only the rows are measured from their mean.",
    name="error_about_its_mean",
)(_families_with(error=lambda e: (e - e.mean(0)).square().sum()))
families.mistake(
    "Membership is measured against the largest strength of the whole table. Compare within each latent's row.",
    name="share_of_the_whole_table",
)(_families_with(member=lambda s, share: (s > 0) & (s >= share * s.max())))
families.mistake(
    "The strength itself is compared with `share`. Compare it with `share` times the largest of its row.",
    name="share_as_a_threshold",
)(_families_with(member=lambda s, share: (s > 0) & (s >= share)))


@families.alternative
def latent_by_latent(W_dec, meta, share):
    rows = torch.stack([row / row.norm() for row in W_dec])
    parts = meta.encode(rows)[:, :, None] * meta.W_dec  # [latents, meta, d]
    strength = parts.norm(dim=2)
    member = torch.stack([(row >= share * row.max()) & (row != 0) for row in strength])
    left = ((rows - meta.decode(meta.encode(rows))) ** 2).mean(0).sum()
    return strength, member, left / rows.var(dim=0, unbiased=False).sum()


# -- 08.4 ---------------------------------------------------------------------------------------------------------


def _upper(n):
    return torch.ones(n, n).triu()


def _clt_with(
    allowed=_upper,
    swapped=False,
    length=lambda m, w: w.square().sum((1, 3)).sqrt(),
    error=lambda e: e.square().sum((1, 2)).mean(),
    encode=lambda m, x: (torch.einsum("bld,ldm->blm", x, m.W_enc) + m.b_enc).relu(),
    bias=lambda m: m.b_dec,
    write="bsm,stmd->btd",
    target=lambda x, y: y,
):
    class CrossLayerTranscoder(nn.Module):
        def __init__(self, n_layers, d, per_layer, l1):
            super().__init__()
            self.l1 = l1
            self.W_enc = nn.Parameter(torch.randn(n_layers, d, per_layer) / d**0.5)
            self.b_enc = nn.Parameter(torch.zeros(n_layers, per_layer))
            self.W_dec = nn.Parameter(0.1 * F.normalize(torch.randn(n_layers, n_layers, per_layer, d), dim=3))
            self.b_dec = nn.Parameter(torch.zeros(n_layers, d))

        def used(self):
            W = self.W_dec.transpose(0, 1) if swapped else self.W_dec
            return W * allowed(len(W))[:, :, None, None]

        def encode(self, x):
            return encode(self, x)

        def decode(self, f):
            return torch.einsum(write, f, self.used()) + bias(self)

        def loss(self, x, y):
            f = self.encode(x)
            return error(target(x, y) - self.decode(f)) + self.l1 * (f * length(self, self.used())).sum((1, 2)).mean()

    return CrossLayerTranscoder


clt = lesson.exercise(
    4,
    title="A cross-layer transcoder",
    answer="CrossLayerTranscoder",
    reference=_clt_with(),
    points=4,
    difficulty=4,
    importance=4,
    minutes=25,
    hints=(
        "Encoding happens layer by layer: `torch.einsum('bld,ldm->blm', x, W_enc)`. Decoding adds up, for each target "
        "layer, what the latents of that layer and of all earlier ones write there.",
        "`W_dec[source, target]`: only `source <= target` may be used. `torch.ones(L, L).triu()` is the mask.",
        "`used = W_dec * mask[:, :, None, None]`; `decode`: `torch.einsum('bsm,stmd->btd', f, used) + b_dec`; lengths: "
        "`used.square().sum((1, 3)).sqrt()`, [source, latent].",
    ),
)


@clt.case("parameters and their shapes", rule=Exact())
def _(f, draw):
    return _shapes(f(3, 4, 6, 0.1), _T)


@clt.case("the start", rule=Exact())
def _(f, draw):
    return _start(f(3, 64, 30, 0.05), 0.5, (1,), (3,))


@clt.case("the latents")
def _(f, draw):
    return _fill(draw, f(3, 4, 6, 0.1), _T).encode(draw.normal(15, 3, 4))


@clt.case("what the latents of a middle layer write", weight=2)
def _(f, draw):
    latents = np.zeros((10, 4, 5), np.float32)
    latents[:, 1] = draw.rng.uniform(0.5, 2, (10, 5))
    return _fill(draw, f(4, 6, 5, 0.1), _T).decode(draw.lend(latents))


@clt.case("what all layers write together", weight=2)
def _(f, draw):
    return _fill(draw, f(3, 4, 6, 0.1), _T).decode(draw.uniform(15, 3, 6))


@clt.case("the loss", weight=2)
def _(f, draw):
    return _fill(draw, f(3, 4, 6, 0.4), _T).loss(draw.normal(15, 3, 4), draw.normal(15, 3, 4))


@clt.case("the gradient of the loss, zero for forbidden decoders", rule=Close(rtol=1e-3))
def _(f, draw):
    model = _fill(draw, f(3, 4, 6, 0.4), _T)
    return _gradients(model, model.loss(draw.normal(15, 3, 4), draw.normal(15, 3, 4)), _T)


clt.mistake(
    "Latents write to earlier layers too. What layer 2 reads does not exist yet when layer 1 writes: only source <= target.",
    name="writes_to_earlier_layers",
)(_clt_with(allowed=lambda n: torch.ones(n, n)))
clt.mistake(
    "Each latent writes to its own layer only: that is one ordinary transcoder a layer.", name="own_layer_only"
)(_clt_with(allowed=torch.eye))
clt.mistake(
    "A latent does not write to its own layer. It reads the MLP's input, so the same MLP's output is its first target.",
    name="later_layers_only",
)(_clt_with(allowed=lambda n: torch.ones(n, n).triu(1)))
clt.mistake("Source and target of W_dec are exchanged: W_dec[source, target].", name="source_and_target_exchanged")(
    _clt_with(swapped=True)
)
clt.mistake(
    "The penalty counts decoders that may not be used. Mask them before taking lengths.", name="forbidden_lengths_count"
)(_clt_with(length=lambda m, w: m.W_dec.square().sum((1, 3)).sqrt()))
clt.mistake(
    "The penalty adds up the lengths of the targets. Here one latent that writes to three layers should be cheaper "
    "than three latents: take the length of all it writes, joined.",
    name="sum_of_target_lengths",
)(_clt_with(length=lambda m, w: w.norm(dim=3).sum(1)))
clt.mistake("Only the last layer's output is compared; every layer's MLP must be reproduced.", name="last_layer_only")(
    _clt_with(error=lambda e: e[:, -1].square().sum(1).mean())
)
clt.mistake(
    "The bias of a target is added once for every layer that writes to it; once is enough.",
    name="bias_for_every_source",
)(_clt_with(bias=lambda m: m.b_dec * torch.arange(1, len(m.b_dec) + 1)[:, None]))
clt.mistake(_LARGE_START, name="large_start")(_scaled(_clt_with(), ("W_enc", "W_dec"), 0, 64**-0.5))
clt.mistake(_BIASES_START, name="random_biases")(_scaled(_clt_with(), ("b_enc", "b_dec"), 0, 0.01))
clt.mistake(
    "The mask keeps the wrong half: latents write to their own and *earlier* layers. Keep source <= target (`triu`).",
    name="mask_on_the_wrong_half",
)(_clt_with(allowed=lambda n: torch.ones(n, n).tril()))
clt.mistake(
    "`decode` reads W_dec as [target, source] where the mask and the penalty read [source, target]: `'bsm,stmd->btd'`.",
    name="decode_reads_target_first",
)(_clt_with(write="bsm,tsmd->btd"))
clt.mistake(
    "The lengths are summed over the sources. A latent belongs to its source: sum over targets and dimensions, `(1, 3)`.",
    name="lengths_summed_over_sources",
)(_clt_with(length=lambda m, w: w.square().sum((0, 3)).sqrt()))
clt.mistake(
    "The penalty ignores the lengths of the decoders: tiny latents with a huge decoder pass under it.",
    name="penalty_without_lengths",
)(_clt_with(length=lambda m, w: torch.ones_like(m.b_enc)))
clt.mistake(
    "The loss compares with the input x: that is an autoencoder. It must produce the MLPs' outputs y.",
    name="reconstructs_the_input",
)(_clt_with(target=lambda x, y: x))
clt.mistake("The squared error is averaged over layers; add it up over them.", name="mean_over_layers")(
    _clt_with(error=lambda e: e.square().sum(2).mean())
)


@clt.alternative
class LayerByLayer(nn.Module):
    def __init__(self, n_layers, d, per_layer, l1):
        super().__init__()
        self.L, self.l1 = n_layers, l1
        self.W_enc = nn.Parameter(0.05 * torch.randn(n_layers, d, per_layer))
        self.W_dec = nn.Parameter(0.05 * torch.randn(n_layers, n_layers, per_layer, d))
        self.b_enc, self.b_dec = nn.Parameter(torch.zeros(n_layers, per_layer)), nn.Parameter(torch.zeros(n_layers, d))

    def encode(self, x):
        return torch.stack([F.relu(x[:, i] @ self.W_enc[i] + self.b_enc[i]) for i in range(self.L)], dim=1)

    def decode(self, f):
        outs = []
        for t in range(self.L):
            outs.append(self.b_dec[t] + sum(f[:, s] @ self.W_dec[s, t] for s in range(t + 1)))
        return torch.stack(outs, dim=1)

    def loss(self, x, y):
        f = self.encode(x)
        penalty = 0
        for s in range(self.L):
            joined = torch.cat(list(self.W_dec[s, s:]), dim=1)  # [latents, everything written]
            penalty = penalty + (f[:, s] * joined.norm(dim=1)).sum(1).mean()
        return ((y - self.decode(f)) ** 2).sum() / len(x) + self.l1 * penalty


# -- 08.5 ---------------------------------------------------------------------------------------------------------


def absorbed_parent(f, W_dec, present, projection, direction, parent, share):
    """The library's absorption as a plain tuple."""
    found = sae.feature_absorption(f, W_dec, present, projection, direction, parent, share=share)
    return found.silent, found.absorbed, found.absorber


absorption = lesson.exercise(
    5,
    title="Who carries the missing parent?",
    answer="feature_absorption",
    reference=absorbed_parent,
    points=4,
    difficulty=3,
    importance=4,
    minutes=20,
    hints=(
        "Look only at samples in which the parent is present. In how many of them is its own latent silent?",
        "What latent j writes along the parent: `f[:, j] * (W_dec[j] @ direction) / |direction|`. Leave the parent's "
        "latent out and take the largest of each sample.",
        "`absorbed = present & silent & (largest >= share * projection)`; both shares are over the samples with the "
        "parent present. `bincount` of the carriers gives the absorber.",
    ),
)


def _absorption_problem(draw: Draw, n: int = 300, absorbing: bool = True):
    """Parent direction, 8 latents: 2 is the parent's. Where it is silent, 5 absorbs often and weakly, 3 rarely but strongly
    and in the first sample; 1 carries a little everywhere, and where nobody absorbs 0, 1, 4 and 7 would together; 6 points
    against the parent."""
    d = 6
    unit = draw.rng.normal(size=d)
    unit /= np.linalg.norm(unit)
    W = draw.rng.normal(size=(8, d))
    W -= np.outer(W @ unit, unit)
    W[2] += unit
    W[3] += 0.9 * unit * absorbing
    W[5] += 0.6 * unit * absorbing
    W[[0, 1, 4, 7]] += 0.1 * unit
    W[6] -= 0.9 * unit
    present = draw.rng.uniform(size=n) < 0.4
    f = draw.rng.uniform(0.5, 1.5, (n, 8)) * (draw.rng.uniform(size=(n, 8)) < 0.3)
    f[:, 1] = draw.rng.uniform(0.5, 1.5, n)
    quiet = present & (draw.rng.uniform(size=n) < 0.5)
    f[:, 2] = draw.rng.uniform(0.8, 1.2, n) * (present & ~quiet)
    first = int(quiet.argmax())
    others = draw.rng.permutation(np.flatnonzero(quiet)[1:])
    rare, often = len(others) // 10, len(others) // 2 - 3
    f[quiet, 3] = f[quiet, 5] = 0
    f[[first, *others[:rare]], 3] = draw.rng.uniform(6, 8, rare + 1)
    f[others[rare : rare + often], 5] = draw.rng.uniform(0.5, 1.5, often)
    missed = others[rare + often :]
    for latent, low, high in ((0, 1.5, 1.9), (1, 2.0, 2.2), (4, 1.5, 1.9), (6, 0, 0), (7, 1.5, 1.9)):
        f[missed, latent] = draw.rng.uniform(low, high, len(missed))
    projection = draw.rng.uniform(0.4, 0.9, n) * present + 0.05
    return (
        draw.lend(f.astype(np.float32)),
        draw.lend(W.astype(np.float32)),
        draw.lend(present),
        draw.lend(projection.astype(np.float32)),
        draw.lend((0.4 * unit).astype(np.float32)),
        2,
        0.5,
    )


_ABSORBED = {"absorber": Exact(), "*": Close()}


def _absorbed(found):
    # 0 of 0 silent samples may be NaN or 0; where it matters, other cases say so
    return {"silent": float(found[0]), "absorbed": float(np.nan_to_num(float(found[1]))), "absorber": int(found[2])}


@absorption.case("how often the parent's latent is silent", weight=1)
def _(f, draw):
    return float(f(*_absorption_problem(draw))[0])


@absorption.case("how often another latent stands in, and which", weight=3, rule=_ABSORBED)
def _(f, draw):
    return _absorbed(f(*_absorption_problem(draw)))


@absorption.case("a parent that is missed, not absorbed", weight=2, rule=_ABSORBED)
def _(f, draw):
    return _absorbed(f(*_absorption_problem(draw, absorbing=False)))


@absorption.case("a parent whose latent always fires", rule=_ABSORBED)
def _(f, draw):
    latents, *rest = _absorption_problem(draw)
    latents = latents.clone()
    latents[:, 2] = 1.0
    return _absorbed(f(latents, *rest))


def _absorption_with(
    among=lambda present, n: (present, present.sum()),
    carries=lambda f, W, unit: f * (W @ unit),
    without=lambda c, parent: c.index_fill(1, torch.tensor([parent]), -1.0),
    silent=lambda f, parent: f[:, parent] <= 0,
    enough=lambda most, need: most >= need,
    need=lambda projection, share: share * projection,
    unit=lambda d: d / d.norm(),
    largest=lambda c: c.max(dim=1).values,
    over=lambda quiet, n: n,
    pick=lambda c, absorbed, quiet: int(c.argmax(dim=1)[absorbed].bincount().argmax()),
):
    def feature_absorption(f, W_dec, present, projection, direction, parent, share):
        inside, n = among(present, len(f))
        carried = without(carries(f, W_dec, unit(direction)), parent)
        quiet = inside & silent(f, parent)
        absorbed = quiet & enough(largest(carried), need(projection, share))
        absorber = pick(carried, absorbed, quiet) if absorbed.any() else -1
        return float(quiet.sum() / n), float(absorbed.sum() / over(quiet, n)), absorber

    return feature_absorption


absorption.mistake(
    "Samples without the parent are counted. Where there is no parent, its latent is rightly silent: ask that it is present.",
    name="forgets_that_the_parent_is_present",
)(_absorption_with(among=lambda present, n: (torch.ones_like(present), n)))
absorption.mistake(
    "The count is right, but it is divided by all samples; divide by those with the parent present.",
    name="divided_by_all_samples",
)(_absorption_with(among=lambda present, n: (present, n)))
absorption.mistake(
    "Every silence counts as absorption. A parent that nobody writes is missed, not absorbed: ask who carries it.",
    name="silence_is_absorption",
)(_absorption_with(enough=lambda most, need: most > -9))
absorption.mistake(
    "Only the decoder's direction is asked, not the activation: a latent that does not fire carries nothing.",
    name="activation_ignored",
)(_absorption_with(carries=lambda f, W, unit: (W @ unit).expand(len(f), -1)))
absorption.mistake(
    "Absolute values are taken: a latent that writes *against* the parent does not carry it.", name="sign_ignored"
)(_absorption_with(carries=lambda f, W, unit: (f * (W @ unit)).abs()))
absorption.mistake(
    "The direction is used with the length it has; make it a unit vector, or the projection is off by that factor.",
    name="direction_not_normalised",
)(_absorption_with(unit=lambda d: d))
absorption.mistake(
    "The parent's latent need not be silent here: that counts latents that merely help. Absorbed means in its place.",
    name="parent_may_fire",
)(_absorption_with(silent=lambda f, parent: f[:, parent] > -1))
absorption.mistake(
    "The absorbed share is divided by the silent samples. Both shares are among all samples with the parent present.",
    name="divided_by_the_silent",
)(_absorption_with(over=lambda quiet, n: quiet.sum()))
absorption.mistake(
    "All carriers are added up. Absorption asks for one latent that carries enough: take the largest.",
    name="carriers_added_up",
)(_absorption_with(largest=lambda c: c.where(c != -1, 0.0).sum(dim=1)))
absorption.mistake(
    "The largest carrier is compared with `share` alone. Compare it with `share` times the sample's projection.",
    name="projection_forgotten",
)(_absorption_with(need=lambda projection, share: share))
absorption.mistake(
    "The absorber is not the strongest or the first, but the latent that absorbs in the most samples: count them.",
    name="absorber_not_the_most_frequent",
)(_absorption_with(pick=lambda c, absorbed, quiet: int(c[absorbed].sum(dim=0).argmax())))
absorption.mistake(
    "For the absorber, count only the *largest* carrier of each *absorbed* sample. Others that carry a little do not count.",
    name="absorber_counts_small_parts",
)(_absorption_with(pick=lambda c, absorbed, quiet: int((c[absorbed] > 0).sum(dim=0).argmax())))


@absorption.alternative
def sample_by_sample(f, W_dec, present, projection, direction, parent, share):
    along = W_dec @ (direction / torch.linalg.vector_norm(direction))
    others = [j for j in range(f.shape[1]) if j != parent]
    quiet, stands_in = 0, []
    for i in present.nonzero()[:, 0].tolist():
        if f[i, parent] > 0:
            continue
        quiet += 1
        writes = {j: float(f[i, j] * along[j]) for j in others}
        best = max(writes, key=writes.__getitem__)
        if writes[best] >= share * float(projection[i]):
            stands_in.append(best)
    n = int(present.sum())
    return quiet / n, len(stands_in) / n, max(set(stands_in), key=stands_in.count) if stands_in else -1


# -- 08.6 ---------------------------------------------------------------------------------------------------------


def circle_of(means):
    """The library's circle as a plain tuple."""
    found = sae.circular_structure(means)
    return found.share, found.plane, found.line


circle = lesson.exercise(
    6,
    title="Is there a circle in the week?",
    answer="circular_structure",
    reference=circle_of,
    points=4,
    difficulty=4,
    importance=4,
    minutes=25,
    hints=(
        "Two waves over the n classes, cos(2πk/n) and sin(2πk/n), k = 0 ... n-1, each times √(2/n), are orthonormal. "
        "Project the centred means on them.",
        "`A = waves @ centred` is [2, d]. Its squared length over that of `centred` is the share. The plane is the span of its two rows.",
        "`_, s, Vh = torch.linalg.svd(A, full_matrices=False)`: the plane is `Vh`, the line's share is `s[0]**2 / (s**2).sum()`.",
    ),
)


def _cycle(draw: Draw, n: int, d: int, round_: float, rest: float, stretch: float = 1.0):
    angle = 2 * np.pi * np.arange(n) / n + draw.rng.uniform(0, 6)
    plane = np.linalg.qr(draw.rng.normal(size=(d, 2)))[0].T
    made = round_ * np.stack([stretch * np.cos(angle), np.sin(angle)], 1) @ plane + rest * draw.rng.normal(size=(n, d))
    return draw.lend((made + 3 * draw.rng.normal(size=d)).astype(np.float32))


@circle.case("the share of the circle, days", weight=2)
def _(f, draw):
    return float(f(_cycle(draw, 7, 9, 2.0, 0.4))[0])


@circle.case("the share of the circle, months with much else", weight=2)
def _(f, draw):
    return float(f(_cycle(draw, 12, 20, 1.0, 0.7))[0])


_PLANE = {"shape of the plane": Exact(), "*": Close(rtol=1e-3, atol=1e-4)}


@circle.case("the plane", weight=2, rule=_PLANE)
def _(f, draw):
    plane = torch.as_tensor(f(_cycle(draw, 7, 9, 2.0, 0.4, 1.5))[1]).detach().float()
    shape = str(list(plane.shape))
    if shape != "[2, 9]":  # no products of a wrong shape: the shape is what there is to say
        plane = torch.full((2, 9), torch.nan)
    return {"shape of the plane": shape, "plane @ plane.T": plane @ plane.T, "plane.T @ plane": plane.T @ plane}


@circle.case("what the best single direction holds", weight=2, rule=Close(rtol=1e-3))
def _(f, draw):
    return {
        "share of the line, round circle": float(f(_cycle(draw, 7, 9, 2.0, 0.1))[2]),
        "share of the line, flattened circle": float(f(_cycle(draw, 12, 9, 2.0, 0.3, 3.0))[2]),
    }


def _circle_with(
    angle=lambda n: 2 * torch.pi * torch.arange(n) / n,
    waves=lambda a: torch.stack([a.cos(), a.sin()]),
    scale=lambda n: (2 / n) ** 0.5,
    centre=lambda m: m - m.mean(0),
    amplitudes=None,
    line=lambda s, A, centred: s[0] ** 2 / (s**2).sum(),
    plane=lambda A, Vh: Vh[:2],
    share=lambda A, Vh, s, centred: (s**2).sum() / centred.square().sum(),
):
    def circular_structure(means):
        centred = centre(means)
        A = amplitudes(centred) if amplitudes else scale(len(means)) * waves(angle(len(means))) @ centred
        _, s, Vh = torch.linalg.svd(A, full_matrices=False)
        return float(share(A, Vh, s[:2], centred)), plane(A, Vh), float(line(s[:2], A, centred))

    return circular_structure


circle.mistake(
    "This is the plane of the largest variance (PCA). It exists in any order of the days; a circle is about their order.",
    name="principal_components",
)(_circle_with(amplitudes=lambda centred: centred))
circle.mistake(
    "The angle runs over n - 1 steps, so the last class falls on the first: it is 2πk/n.", name="one_step_too_few"
)(_circle_with(angle=lambda n: 2 * torch.pi * torch.arange(n) / (n - 1)))
circle.mistake("One direction is measured: the cosine alone misses half of a circle.", name="one_direction_only")(
    _circle_with(waves=lambda a: torch.stack([a.cos(), 0 * a]))
)
circle.mistake(
    "The waves are not orthonormal: over n points their squared length is n/2, so each needs a factor √(2/n).",
    name="waves_not_normalised",
)(_circle_with(scale=lambda n: 1 / n**0.5))
circle.mistake(
    "The means are not centred: what all classes have in common then counts as variance.", name="not_centred"
)(_circle_with(centre=lambda m: m))
circle.mistake(
    "The single direction's share is taken of lengths, not of their squares. Variance is squared length.",
    name="lengths_not_squared",
)(_circle_with(line=lambda s, A, centred: s[0] / s.sum()))
circle.mistake(
    "The two rows of the plane are not orthonormal: take the right singular vectors of the two amplitudes.",
    name="plane_not_orthonormal",
)(_circle_with(plane=lambda A, Vh: F.normalize(A, dim=1)))
circle.mistake("The plane is transposed: its two directions are rows, [2, d].", name="plane_transposed")(
    _circle_with(plane=lambda A, Vh: Vh[:2].T)
)


def _half_spectrum(A, Vh, s, centred):
    power = torch.fft.rfft(centred, dim=0).abs().square().sum(1)
    return power[1] / power[1:].sum()


circle.mistake(
    "`rfft` holds each frequency once, but for even n the last one has no partner and counts half: divide by the variance of "
    "the means instead.",
    name="last_frequency_counts_twice",
)(_circle_with(share=_half_spectrum))
circle.mistake(
    "This is all the variance that falls into the plane. Other frequencies fall into it too: count the lowest alone.",
    name="all_variance_in_the_plane",
)(_circle_with(share=lambda A, Vh, s, centred: (centred @ Vh[:2].T).square().sum() / centred.square().sum()))
circle.mistake(
    "The line's share is taken of all variance. It is a share of the circle's own.", name="line_of_all_variance"
)(_circle_with(line=lambda s, A, centred: s[0] ** 2 / centred.square().sum()))
circle.mistake(
    "The larger of cosine and sine need not be the best direction: the longest axis may lie between. Take `s[0]` of the svd.",
    name="larger_of_cosine_and_sine",
)(_circle_with(line=lambda s, A, centred: A.square().sum(1).max() / A.square().sum()))


@circle.alternative
def with_an_fft(means):
    n = len(means)
    spectrum = np.fft.fft(means.numpy() - means.numpy().mean(0), axis=0)
    power = (np.abs(spectrum) ** 2).sum(1)
    share = (power[1] + power[n - 1]) / power.sum()
    A = np.stack([spectrum[1].real, spectrum[1].imag])
    values, vectors = np.linalg.eigh(A @ A.T)
    plane = vectors.T @ A / np.sqrt(values)[:, None]
    return share, torch.from_numpy(plane), values.max() / values.sum()


# -- 08.7 ---------------------------------------------------------------------------------------------------------


def heads_of(z, W_O, W_enc, f):
    """The library's attribution."""
    return sae.head_attribution(z, W_O, W_enc, f)


heads = lesson.exercise(
    7,
    title="Which head does a latent come from?",
    answer="head_attribution",
    reference=heads_of,
    points=3,
    difficulty=3,
    importance=4,
    minutes=15,
    hints=(
        "Head h adds `z[:, h] @ W_O[h]` to the attention output. How much of a latent's pre-activation is that?",
        "`parts = torch.einsum('nhe,hed,dl->nhl', z, W_O, W_enc)`: each head's part on each sample. The latent's biases "
        "belong to no head.",
        "Average `parts` over the samples on which the latent fires: `(parts * (f > 0)[:, None]).sum(0) / (f > 0).sum(0).clamp(min=1)`.",
    ),
)


def _attention(draw: Draw, n=40, h=3, e=4, d=7, latents=6, silent=False):
    f = draw.rng.uniform(0.2, 3, (n, latents)) * (draw.rng.uniform(size=(n, latents)) < 0.4)
    if silent:
        f[:, [1, 4]] = 0
    return draw.normal(n, h, e), draw.normal(h, e, d), draw.normal(d, latents), draw.lend(f.astype(np.float32))


@heads.case("each head's part", weight=2)
def _(f, draw):
    return f(*_attention(draw))


@heads.case("as many heads as numbers in a head", weight=2)
def _(f, draw):
    return f(*_attention(draw, h=4, e=4, d=4, latents=4))


@heads.case("latents that never fire")
def _(f, draw):
    return f(*_attention(draw, silent=True))


def _heads_with(
    part=lambda z, W_O, W_enc: torch.einsum("nhe,hed,dl->nhl", z, W_O, W_enc),
    weight=lambda f: (f > 0).float(),
    mean=lambda parts, w: (parts * w[:, None]).sum(0) / w.sum(0).clamp(min=1e-9),
):
    def head_attribution(z, W_O, W_enc, f):
        return mean(part(z, W_O, W_enc), weight(f))

    return head_attribution


heads.mistake("All samples are averaged. What made a latent fire can be seen only where it fires.", name="all_samples")(
    _heads_with(weight=torch.ones_like)
)
heads.mistake(
    "Absolute values are averaged: a head that holds a latent back then looks like one that drives it.", name="absolute"
)(_heads_with(part=lambda z, W_O, W_enc: torch.einsum("nhe,hed,dl->nhl", z, W_O, W_enc).abs()))
heads.mistake(
    "The parts are added up over samples, so frequent latents look stronger: divide by how often each fires.",
    name="sum_over_samples",
)(_heads_with(mean=lambda parts, w: (parts * w[:, None]).sum(0)))
heads.mistake(
    "Heads and the numbers within a head are exchanged when z is laid flat: with z.mT every head gets pieces of all heads.",
    name="heads_mixed_up",
)(
    _heads_with(
        part=lambda z, W_O, W_enc: torch.einsum("nhe,hed,dl->nhl", z.mT.reshape(z.shape), W_O, W_enc),
    )
)
heads.mistake(
    "Each sample is weighted by the latent's activation; the plain mean over firings is asked for.",
    name="weighted_by_activation",
)(_heads_with(weight=lambda f: f))
heads.mistake(
    "The division is by the number of all samples, not by the number of firings.", name="divided_by_all_samples"
)(_heads_with(mean=lambda parts, w: (parts * w[:, None]).sum(0) / len(w)))


@heads.alternative
def latent_by_latent_heads(z, W_O, W_enc, f):
    rows = []
    for h in range(z.shape[1]):
        written = z[:, h] @ W_O[h]
        reads = written @ W_enc
        rows.append([float(reads[f[:, i] > 0, i].mean()) if (f[:, i] > 0).any() else 0.0 for i in range(f.shape[1])])
    return np.array(rows)


# -- 08.8 ---------------------------------------------------------------------------------------------------------

MARGIN = 0.1
ROUNDED = 0.0051
"""Numbers rounded to two decimals are as good."""
_TRUE_OF_DIRECTIONS = ("recovery", "stability", "explanation")


def _best_cosine(a, b, turned=False):
    a, b = (F.normalize(torch.as_tensor(m).float(), dim=1) for m in (a, b))
    cosines = a @ b.T
    return (cosines.abs() if turned else cosines).amax(dim=1)


def _balanced(fires, said):
    fires, said = torch.as_tensor(fires).bool(), torch.as_tensor(said).bool()
    return (float(said[fires].float().mean()) + float((~said[~fires]).float().mean())) / 2


def measured(name: str, data: dict, turned: bool = False) -> tuple[float, float]:
    """(value, baseline) of one named measurement; `turned`: with absolute cosines, which is wrong."""
    if name == "recovery":
        hits = [(_best_cosine(data["truth"], data[who], turned) > 0.9).float().mean() for who in ("found", "data")]
        return float(hits[0]), float(hits[1])
    if name == "stability":
        hits = [(_best_cosine(data["first"], data[who], turned) > 0.7).float().mean() for who in ("second", "random")]
        return float(hits[0]), float(hits[1])
    if name == "absorption":
        return float(data["absorbed"].float().mean()), float(data["control"].float().mean())
    if name == "circle":
        return sae.circular_structure(data["means"]).share, 2 / (len(data["means"]) - 1)
    if name == "explanation":
        return _balanced(data["fires"], data["predicted"]), _balanced(data["fires"], data["shuffled"])
    raise KeyError(name)


def side_of(name: str, value: float, baseline: float) -> str:
    """Whether a measurement speaks for features as single directions, or against."""
    above = value > baseline + MARGIN
    return "for" if above == (name in _TRUE_OF_DIRECTIONS) else "against"


def _case_with(
    names=("recovery", "absorption", "circle"),
    value=lambda name, data: measured(name, data),
    side=side_of,
    quote=lambda m: f"{m['name']}: {m['value']:.2f} against a baseline of {m['baseline']:.2f}",
    texts=None,
):
    def are_features_real(evidence):
        found = []
        for name in names:
            v, b = value(name, evidence[name])
            found.append({"name": name, "value": v, "baseline": b, "supports": side(name, v, b)})
        said = {}
        for which in ("for", "against"):
            quotes = [quote(m) for m in found if m["supports"] == which]
            opening = (
                "If features were convenient stories, the directions we find would not beat simple baselines, and other data "
                "would not know them. "
                if which == "for"
                else "If features were single directions that exist by themselves, none would vanish into another one or need a plane. "
            )
            said[which] = opening + (
                "Measured: " + "; ".join(quotes) + "." if quotes else "I have no measurement on this side."
            )
        said["conclusion"] = (
            "My conclusion follows the balance of these numbers in small worlds with known truth, so it is a statement about "
            "these methods; a world in which the sides changed places would change my mind."
        )
        if texts:
            said = texts(said)
        return {"measurements": found, **said}

    return are_features_real


case = lesson.exercise(
    8,
    title="Are features real? The case, with numbers",
    answer="are_features_real",
    reference=_case_with(),
    points=4,
    difficulty=3,
    importance=5,
    minutes=35,
    hints=(
        "Compute each measurement and its baseline first; only then ask which side it speaks for. The sentence must follow the number.",
        'Write the texts as f-strings, so that they quote whatever was measured: `f"... {value:.2f} against {baseline:.2f}"`.',
        "recovery, stability and explanation speak `for` when value > baseline + 0.1; absorption and circle speak `against` "
        'then. A side with nothing on it says "no measurement".',
    ),
)


_RANGES = {
    # value and baseline of each kind of evidence: clearly above the margin, below the baseline, or between the two
    "above": {"value": (0.62, 0.9), "baseline": (0.08, 0.35)},
    "below": {"value": (0.02, 0.1), "baseline": (0.18, 0.35)},
    "between": {"value": (0.36, 0.38), "baseline": (0.30, 0.32)},
}


def _unit(rng, n, d):
    rows = rng.normal(size=(n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _matching(rng, wanted, hits: int, n: int, above: float):
    """n rows of any length: the first `hits` of `wanted` have one at a cosine > `above`, the next two one turned round, two
    more one that does not quite reach it; the rest are at right angles to all."""
    beside = np.linalg.svd(wanted)[2][len(wanted) :]
    cosine = rng.uniform(above + 0.02, 0.99, len(wanted))
    cosine[hits : hits + 2] *= -1
    cosine[hits + 2 :] = rng.uniform(above - 0.2, above - 0.02, len(cosine[hits + 2 :]))
    cosine = np.append(cosine[: hits + 4], np.zeros(n))[:n, None]
    near = np.concatenate([wanted, np.zeros((n, wanted.shape[1]))])[:n]
    rows = cosine * near + (1 - cosine**2) ** 0.5 * _unit(rng, n, len(beside)) @ beside
    return rng.permutation(rows * rng.uniform(0.5, 2, (n, 1)))


def _means(rng, n: int, d: int, share: float):
    """Class means with exactly this share of their variance at the lowest frequency."""
    phase = 2 * np.pi * np.arange(n) / n
    made = 0
    for k, power in ((1, share), (2, (1 - share) / 2), (3, (1 - share) / 2)):
        plane = np.linalg.qr(rng.normal(size=(d, 2)))[0].T
        made = made + (3 * power) ** 0.5 * np.stack([np.cos(k * phase), np.sin(k * phase)], 1) @ plane
    return made + rng.normal(size=d)


def _some(rng, n: int, share: float):
    """n booleans, `share` of them true."""
    return rng.permutation(np.arange(n) < round(share * n))


def _said(rng, fires, accuracy: float):
    """Predictions with this balanced accuracy."""
    said = np.zeros(len(fires), bool)
    said[fires] = _some(rng, int(fires.sum()), accuracy)
    said[~fires] = _some(rng, int((~fires).sum()), 1 - accuracy)
    return said


def _evidence(draw: Draw, features: str, failures: str, n: int = 7):
    """Arrays for all five measurements. `features`: how recovery, stability and explanation come out, `failures`: how
    absorption and the circle do; both a key of `_RANGES`. n: classes on the circle."""
    rng, d = draw.rng, 32

    def numbers(kind):
        return rng.uniform(*_RANGES[kind]["value"]), rng.uniform(*_RANGES[kind]["baseline"])

    truth, first = np.linalg.qr(rng.normal(size=(d, d)))[0][:22], _unit(rng, 22, d)
    hits = {which: [round(22 * share) for share in numbers(features)] for which in ("recovery", "stability")}
    fires, (of_rule, of_shuffled) = _some(rng, 200, 0.3), numbers(features)
    of_parent, chance = numbers(failures), 2 / (n - 1)
    round_ = {"above": rng.uniform(0.6, 0.9), "below": chance / 4, "between": chance + rng.uniform(0.05, 0.07)}
    made = {
        "recovery": {
            "found": _matching(rng, truth, hits["recovery"][0], 24, 0.9),
            "truth": truth,
            "data": _matching(rng, truth, hits["recovery"][1], 24, 0.9),
        },
        "stability": {
            "first": first,
            "second": _matching(rng, first, hits["stability"][0], 24, 0.7),
            "random": _matching(rng, first, hits["stability"][1], 24, 0.7),
        },
        "absorption": {"absorbed": _some(rng, 300, of_parent[0]), "control": _some(rng, 300, of_parent[1])},
        "circle": {"means": _means(rng, n, 16, round_[failures])},
        "explanation": {
            "fires": fires,
            "predicted": _said(rng, fires, 0.5 + 0.5 * (of_rule - of_shuffled)),
            "shuffled": _said(rng, fires, 0.5),
        },
    }
    return {
        name: {
            key: draw.lend(value.astype(np.float32) if value.dtype.kind == "f" else value)
            for key, value in parts.items()
        }
        for name, parts in made.items()
    }


class _Finding(Rule):
    """Text of the form "kind" or "kind: what to tell": fine when the kind is "right", the same mistake when kinds agree."""

    def problem(self, got, want):
        kind, _, text = str(got).partition(": ")
        return None if kind == "right" else text

    def same(self, a, b):
        return str(a).partition(": ")[0] == str(b).partition(": ")[0]


def _finding_names(names, evidence):
    repeated = sorted({name for name in names if names.count(name) > 1})
    unknown = [name for name in names if name not in evidence]
    if unknown:
        return f"unknown: {unknown[0]!r} is not one of {', '.join(evidence)}"
    if repeated:
        return f"repeated: {repeated[0]} is listed more than once"
    return "right" if len(names) >= 3 else f"few: only {len(names)} measurements; at least three are asked for"


def _near(a: float, b: float) -> bool:
    return abs(a - b) < ROUNDED


def _finding_numbers(rows, i: int, truth, patterns):
    """Values (i = 0) or baselines (1) against the true ones; `patterns`: {kind: the wrong number a row would then hold}."""
    key = ("value", "baseline")[i]
    wrong = [row for row in rows if not _near(row[key], truth[row["name"]][i])]
    if not wrong:
        return "right"
    kind = next((kind for kind, fits in patterns.items() if fits(wrong)), "other")
    said = "; ".join(f"{row['name']} is {row[key]:.4g}, expected {truth[row['name']][i]:.4g}" for row in wrong)
    return f"{kind}: {said}"


_SIDES = {
    # how a learner may decide; the first that explains every row names the mistake
    "no margin": lambda name, v, b: "for" if (v > b) == (name in _TRUE_OF_DIRECTIONS) else "against",
    "decided": lambda name, v, b: "for" if name in _TRUE_OF_DIRECTIONS else "against",
    "above is for": lambda name, v, b: "for" if v > b + MARGIN else "against",
}


def _finding_sides(rows):
    wrong = [row for row in rows if row["supports"] != side_of(row["name"], row["value"], row["baseline"])]
    if not wrong:
        return "right"

    def explains(rule):
        return all(row["supports"] == rule(row["name"], row["value"], row["baseline"]) for row in rows)

    kind = next((kind for kind, rule in _SIDES.items() if explains(rule)), "other")
    said = "; ".join(
        f"{row['name']} says {row['supports']!r}, but {row['value']:.2f} is "
        f"{'' if row['value'] > row['baseline'] + MARGIN else 'not '}above {row['baseline']:.2f} + {MARGIN}"
        for row in wrong
    )
    return f"{kind}: {said}"


def _written_otherwise(text: str, number: float) -> bool:
    """Whether the text holds the number as a percentage or with other than two decimals."""
    for token, percent in re.findall(r"(\d*\.?\d+) ?(%?)", text):
        decimals = len(token.partition(".")[2])
        unit = 0.01 if percent else 1.0
        if abs(unit * float(token) - number) < 0.51 * unit * 10.0**-decimals + 1e-4:
            return True
    return False


def _finding_quotes(rows, which, text, truth):
    mine = [row for row in rows if row["supports"] == which]
    if not mine:
        silent = "no measurement" in text.lower()
        return "right" if silent else 'silent: no measurement supports this side; the text has to say "no measurement"'
    missing, kinds = [], set()
    for row in mine:
        for i, key in enumerate(("value", "baseline")):
            both = {f"{row[key]:.2f}"} | {f"{t[i]:.2f}" for t in [truth[row["name"]]] if _near(t[i], row[key])}
            if not any(re.search(rf"(?<![\d.]){re.escape(one)}(?![\d%])", text) for one in both):
                missing.append(f"{row['name']}, {key} {row[key]:.2f}")
                kinds.add("decimals" if _written_otherwise(text, row[key]) else "missing")
    if not missing:
        return "right"
    how = " (exactly two decimals: 0.53, not 53% or 0.533)"
    return f"{'decimals' if kinds == {'decimals'} else 'missing'}: not quoted: {'; '.join(missing)}{how}"


def _finding_words(texts):
    words = {which: len(set(re.findall(r"[A-Za-z]{2,}", text.lower()))) for which, text in texts.items()}
    short = {which: count for which, count in words.items() if count < 15}
    said = "; ".join(f'"{which}" has {count} different words, 15 are asked for' for which, count in short.items())
    return f"short {' '.join(short)}: {said}" if short else "right"


def _rows(values, prefix):
    rows = []
    while f"{prefix}measurements.{len(rows)}.name" in values and len(rows) < 20:
        at = f"{prefix}measurements.{len(rows)}."
        row = {key: values[at + key] for key in ("name", "value", "baseline", "supports")}
        rows.append({"name": str(row["name"]), "supports": str(row["supports"])})
        rows[-1] |= {key: float(row[key]) for key in ("value", "baseline")}
    return rows


def _findings(values, evidence, prefix=""):
    """Judge a memo on the trusted side: everything in it is computed again from the same evidence."""
    rows = _rows(values, prefix)
    texts = {which: str(values.get(prefix + which, "")) for which in ("for", "against", "conclusion")}
    names = _finding_names([row["name"] for row in rows], evidence)
    rows = [row for row in rows if row["name"] in evidence]
    truth = {name: measured(name, parts) for name, parts in evidence.items()}
    turned = {name: measured(name, parts, turned=True) for name, parts in evidence.items()}
    n = len(evidence["circle"]["means"])
    return {
        "measurements": names,
        "values": _finding_numbers(
            rows, 0, truth, {"turned": lambda wrong: all(_near(row["value"], turned[row["name"]][0]) for row in wrong)}
        ),
        "baselines": _finding_numbers(
            rows,
            1,
            truth,
            {
                "zero": lambda wrong: all(row["baseline"] == 0 for row in rows),
                "turned": lambda wrong: all(_near(row["baseline"], turned[row["name"]][1]) for row in wrong),
                "one wave": lambda wrong: (
                    {row["name"] for row in wrong} == {"circle"} and _near(wrong[0]["baseline"], 1 / (n - 1))
                ),
            },
        ),
        "sides": _finding_sides(rows),
        "the case for": _finding_quotes(rows, "for", texts["for"], truth),
        "the case against": _finding_quotes(rows, "against", texts["against"], truth),
        "length": _finding_words(texts),
    }


def _read(*kind):
    return lambda values, draw: _findings(values, _evidence(draw, *kind))


def _read_twice(values, draw):
    found = _findings(values, _evidence(draw, "above", "above"), "memo.")
    first, second = ([row["value"] for row in _rows(values, prefix)] for prefix in ("memo.", "again."))
    follows = "pasted: other evidence gives the same values" if first and first == second else "right"
    return found | {"values follow the evidence": follows}


@case.case("evidence in which both sides have something", weight=2, rule=_Finding(), measure=_read_twice)
def _(f, draw):
    first, second = _evidence(draw, "above", "above"), _evidence(draw, "below", "below")
    return {"memo": f(first), "again": f(second)}


@case.case("evidence in which everything speaks for features", rule=_Finding(), measure=_read("above", "below", 12))
def _(f, draw):
    return f(_evidence(draw, "above", "below", 12))


@case.case("evidence in which the dictionary is noise", rule=_Finding(), measure=_read("below", "above"))
def _(f, draw):
    return f(_evidence(draw, "below", "above"))


@case.case("evidence within the margin of 0.1", rule=_Finding(), measure=_read("between", "between", 12))
def _(f, draw):
    return f(_evidence(draw, "between", "between", 12))


case.mistake(
    "Every measurement is put on the side it was expected on. Decide from the value and its baseline: the same "
    "measurement can come out either way.",
    name="sides_decided_beforehand",
)(_case_with(side=lambda name, v, b: "against" if name in ("absorption", "circle") else "for"))
case.mistake("The margin of 0.1 is missing: a measurement is above if value > baseline + 0.1.", name="margin_missing")(
    _case_with(side=_SIDES["no margin"])
)
case.mistake(
    '"Above" is read as "for" in all five. Absorption and the circle speak *against* single directions when they are above.',
    name="above_read_as_for",
)(_case_with(side=_SIDES["above is for"]))
case.mistake(
    "The circle's baseline is 2/(n-1): one frequency has two waves, a cosine and a sine.", name="baseline_of_one_wave"
)(_case_with(value=lambda name, data: (measured(name, data)[0], measured(name, data)[1] / (1 + (name == "circle")))))
case.mistake(
    "Cosines are taken without their sign. A direction turned round is another direction: no `.abs()`.",
    name="cosine_sign_ignored",
)(_case_with(value=lambda name, data: measured(name, data, turned=True)))
case.mistake(
    "The baselines are 0. A number means nothing without what chance, or a simple method, would give.",
    name="no_baseline",
)(_case_with(value=lambda name, data: (measured(name, data)[0], 0.0)))
case.mistake(
    "The numbers are pasted from another run: compute them from the evidence that is passed in.", name="pasted_numbers"
)(_case_with(value=lambda name, data: (0.83, 0.21)))
case.mistake(
    "The texts do not quote every measurement. Each belongs, with its baseline, in the text of the side it speaks for.",
    name="texts_without_numbers",
)(_case_with(quote=lambda m: f"the {m['name']} says so"))
case.mistake(
    "Quote with exactly two decimals: 0.53, not 53% or 0.533.",
    name="numbers_written_otherwise",
)(_case_with(quote=lambda m: f"{m['name']}: {m['value']:.1%} against a baseline of {m['baseline']:.1%}"))
case.mistake("Only one side is argued. Write the best case against your own view too.", name="one_sided")(
    _case_with(texts=lambda said: {**said, "against": ""})
)
case.mistake("Only two measurements or fewer are made; at least three are asked for.", name="too_few_measurements")(
    _case_with(names=("recovery", "circle"))
)
case.mistake(
    "One measurement is listed more than once; three *different* ones are asked for.", name="one_measurement_repeated"
)(_case_with(names=("recovery", "recovery", "recovery")))


@case.alternative
def five_measurements(evidence):
    rows = []
    for name in ("explanation", "stability", "recovery", "circle", "absorption"):
        value, baseline = measured(name, evidence[name])
        supports = side_of(name, value, baseline)
        rows.append({"name": name, "value": round(value, 4), "baseline": round(baseline, 4), "supports": supports})
    out = {"measurements": rows}
    for which in ("for", "against"):
        lines = [
            f"In {r['name']} we saw {r['value']:.2f}, where the control gave {r['baseline']:.2f}."
            for r in rows
            if r["supports"] == which
        ]
        out[which] = " ".join(lines or ["There is no measurement for this view in what I was given today."])
        out[which] += (
            " Each number was computed here from data that nobody chose after looking, and its control beside it."
        )
    out["conclusion"] = (
        "Whether a direction is a feature depends on what it predicts and survives; I weigh the sides by how far each number "
        "lies above its control, and say that other data, other seeds or wider dictionaries may turn them around."
    )
    return out
