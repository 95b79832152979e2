"""Exercises 07.8 to 07.11: gradients between latents, faithful circuits, the metric of the years, activation patching.

A part of lesson 07 in a file of its own; `lesson_07` calls `add_to(lesson)` at its place. Probes use a tiny stand-in for a
language model, with hooks called as in TransformerLens, and a tiny ReLU autoencoder: a check takes milliseconds.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils import features
from course_utils.grading import Close, Draw, Lesson
from course_utils.lm.tasks import mass_above_minus_below

D, LATENTS, VOCABULARY, BLOCKS = 8, 14, 23, 3


def _weights(draw: Draw, *shape: int, std: float = 0.5) -> Tensor:
    return torch.from_numpy(draw.rng.normal(0, std, size=shape).astype(np.float32))


class TinyModel:
    """Embedding, blocks that mix earlier positions, unembedding; hook points and hooks as in TransformerLens."""

    def __init__(self, draw: Draw) -> None:
        self.embedding = _weights(draw, VOCABULARY, D, std=1.0)
        self.blocks = [(_weights(draw, D, D), _weights(draw, D, D)) for _ in range(BLOCKS)]
        self.W_U = _weights(draw, D, VOCABULARY)

    def run_with_hooks(self, tokens: Tensor, fwd_hooks: Any = (), **_: Any) -> Tensor:
        def pass_through(name: str, value: Tensor) -> Tensor:
            for where, hook in fwd_hooks:
                if where == name or (callable(where) and where(name)):
                    changed = hook(value, hook=SimpleNamespace(name=name))
                    value = value if changed is None else changed
            return value

        x = self.embedding[tokens]
        steps = torch.arange(1, tokens.shape[1] + 1)[:, None]
        for layer, (attention, mlp) in enumerate(self.blocks):
            x = x + torch.tanh(x.cumsum(dim=1) / steps @ attention)
            x = x + torch.tanh(x @ mlp)
            x = pass_through(f"blocks.{layer}.hook_resid_post", x)
        return x @ self.W_U

    def run_with_cache(self, tokens: Tensor, names_filter: Any = None, **_: Any) -> tuple[Tensor, dict[str, Tensor]]:
        cache: dict[str, Tensor] = {}

        def keep(value: Tensor, hook: Any) -> None:
            cache[hook.name] = value

        def wanted(name: str) -> bool:
            if names_filter is None:
                return True
            if callable(names_filter):
                return bool(names_filter(name))
            return name in ([names_filter] if isinstance(names_filter, str) else names_filter)

        return self.run_with_hooks(tokens, [(wanted, keep)]), cache

    def __call__(self, tokens: Tensor, **_: Any) -> Tensor:
        return self.run_with_hooks(tokens)


class TinySAE:
    """A random ReLU autoencoder: its decoder rows have different lengths, and its encoder is not its decoder transposed."""

    def __init__(self, draw: Draw, latents: int = LATENTS, d: int = D) -> None:
        self.W_enc, self.W_dec = _weights(draw, d, latents), _weights(draw, latents, d)
        self.b_enc, self.b_dec = _weights(draw, latents, std=0.3), _weights(draw, d, std=0.2)

    def encode(self, x: Tensor) -> Tensor:
        return torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)

    def decode(self, f: Tensor) -> Tensor:
        return f @ self.W_dec + self.b_dec


def point(layer: int) -> str:
    """Name of the hook point after a block."""
    return f"blocks.{layer}.hook_resid_post"


def some_tokens(draw: Draw, rows: int = 3, context: int = 6) -> Tensor:
    """Random token ids."""
    return draw.integers(0, VOCABULARY, rows, context)


def difference(logits: Tensor) -> Tensor:
    """A metric of all rows: one logit minus another at the last position, summed, bent so that its gradient is not constant."""
    gap = logits[:, -1, 3] - logits[:, -1, 7]
    return (gap + 0.2 * gap**2).sum()


class GradientError(RuntimeError):
    """Autograd finds no way from the metric back to the leaf."""


NOT_CONNECTED = (
    "Nothing connects metric and leaf: does the hook *return* the leaf, and is what the second hook notes not detached?"
)


def differentiated(f: Any, *args: Any) -> Any:
    """The answer's result. Where autograd finds no way back, the error gets a name of its own, and is told from others by it."""
    try:
        return f(*args)
    except RuntimeError as error:
        if "does not require grad" in str(error) or "not to have been used in the graph" in str(error):
            raise GradientError(str(error)).with_traceback(error.__traceback__) from None
        raise


# -- references -----------------------------------------------------------------------------------------------------


def gradients_of(model, upstream, up_name, downstream, down_name, tokens, position, latent):
    """The library's gradients for one target."""
    found = features.latent_to_latent_gradients(
        model, upstream, downstream, tokens, [(position, latent)], upstream_hook=up_name, downstream_hook=down_name
    )
    return found[0]


def scores_of(run, x, f, x_mean, f_mean, W_dec, latents):
    """The library's scores of a set of latents."""
    return features.circuit_scores(run, features.LatentStates(x, f, x_mean, f_mean, W_dec), latents)


def patched(model, clean, corrupt, names, metric):
    """Each clean state, one position at a time, put into the corrupt run."""
    with torch.no_grad():
        logits, cache = model.run_with_cache(clean, names_filter=lambda name: name in names)
        good, bad = float(metric(logits)), float(metric(model(corrupt)))
        table = torch.zeros(len(names), clean.shape[1])
        for row, name in enumerate(names):
            for position in range(clean.shape[1]):

                def put(x, hook, name=name, position=position):
                    x = x.clone()
                    x[:, position] = cache[name][:, position]
                    return x

                got = float(metric(model.run_with_hooks(corrupt, fwd_hooks=[(name, put)])))
                table[row, position] = (got - bad) / (good - bad)
    return table


def add_to(lesson: Lesson) -> None:
    """Define exercises 8 to 11 of lesson 07."""
    _add_gradients(lesson)
    _add_circuit(lesson)
    _add_years(lesson)
    _add_patching(lesson)


# -- 07.8 -----------------------------------------------------------------------------------------------------------


def _add_gradients(lesson: Lesson) -> None:
    exercise = lesson.exercise(
        8,
        title="How one latent moves another",
        answer="latent_to_latent_gradients",
        reference=gradients_of,
        points=4,
        difficulty=4,
        importance=4,
        minutes=25,
        hints=(
            "Two hooks in one run: the first hands the upstream activations to autograd as a fresh leaf, the second notes the "
            "downstream activations.",
            "Encode what the second hook noted, take the one number `[0, position, latent]`, and differentiate it with respect "
            "to the leaf. Raising an upstream latent by 1 adds its decoder row.",
            "`leaf = x.detach().requires_grad_(True)`; return it from the first hook; then "
            "`torch.autograd.grad(downstream.encode(y)[0, position, latent], leaf)[0][0] @ upstream.W_dec.T`.",
        ),
    )

    def setting(draw: Draw, context: int = 6):
        model, up, down = TinyModel(draw), TinySAE(draw), TinySAE(draw, latents=11)
        down.b_enc = down.b_enc + 30.0  # active everywhere: a silent latent has no gradient
        return model, up, down, some_tokens(draw, 1, context)

    @exercise.case("a latent two layers later, at the last position", weight=2)
    def _(f, draw):
        model, up, down, tokens = setting(draw)
        return differentiated(f, model, up, point(0), down, point(2), tokens, 5, 4)

    @exercise.case("a target in the middle of the text: nothing after it matters", weight=1)
    def _(f, draw):
        model, up, down, tokens = setting(draw, 7)
        return differentiated(f, model, up, point(0), down, point(1), tokens, 3, 2)

    @exercise.case("two SAEs at the same point: the direct path is all there is", weight=1)
    def _(f, draw):
        model, up, down, tokens = setting(draw, 4)
        return differentiated(f, model, up, point(1), down, point(1), tokens, 2, 6)

    @exercise.case("a silent target: all zeros", weight=1)
    def _(f, draw):
        model, up, down, tokens = setting(draw)
        down.b_enc[5] -= 200.0
        return differentiated(f, model, up, point(0), down, point(2), tokens, 4, 5)

    def variant(
        pick=lambda f, position, latent: f[0, position, latent],
        through=lambda x, up: x,
        write=None,
        after=None,
        read=lambda y, down: down.encode(y),
    ):
        def made(model, upstream, up_name, downstream, down_name, tokens, position, latent):
            seen = {}

            def enter(x, hook):
                seen["x"] = x.detach().requires_grad_(True)
                return through(seen["x"], upstream)

            def leave(x, hook):
                seen["y"] = x

            model.run_with_hooks(tokens, fwd_hooks=[(up_name, enter), (down_name, leave)])
            value = pick(read(seen["y"], downstream), position, latent)
            (gradient,) = torch.autograd.grad(value, seen["x"])
            found = gradient[0] @ (upstream.W_dec.T if write is None else write(upstream))
            return found if after is None else after(found, upstream, seen["x"])

        return made

    exercise.mistake(
        "The gradient is projected on the upstream *encoder*. Raising a latent adds its decoder row: use `W_dec`.",
        name="encoder_direction",
    )(variant(write=lambda up: up.W_enc))
    exercise.mistake(
        "The downstream latent is summed over all positions; only the one at `position` was asked for.",
        name="all_target_positions",
    )(variant(pick=lambda f, position, latent: f[0, :, latent].sum()))
    exercise.mistake(
        "The run goes through the upstream reconstruction, so the gradient is taken in a model whose error term is gone. Let "
        "the real activations pass.",
        name="through_the_reconstruction",
    )(variant(through=lambda x, up: up.decode(up.encode(x))))
    exercise.mistake(
        "These are gradients times activations, the edges of a circuit. The gradient itself was asked for.",
        name="times_activation",
    )(variant(after=lambda found, up, x: found * up.encode(x)[0].detach()))
    exercise.mistake(
        "The residual stream downstream is differentiated along the latent's decoder row; the latent's *activation*, after its "
        "encoder and nonlinearity, was asked for.",
        name="decoder_readout",
    )(_decoder_readout)
    exercise.mistake(
        "You differentiated the pre-activation. The latent's activation is asked for; where it is silent the gradient is 0.",
        name="preactivation",
    )(variant(read=lambda y, down: (y - down.b_dec) @ down.W_enc + down.b_enc))
    exercise.mistake(
        "These are virtual weights, the direct path alone. The gradient through the model follows all paths.",
        name="virtual_weights_only",
    )(_direct_path)
    exercise.mistake(
        "Silent upstream latents get 0. They have a gradient too: it says what would happen if they became active.",
        name="silent_upstream_left_out",
    )(variant(after=lambda found, up, x: found * (up.encode(x)[0] > 0)))
    exercise.mistake("`position` is ignored: the target is the latent at the last position.", name="last_position")(
        variant(pick=lambda f, position, latent: f[0, -1, latent])
    )
    exercise.mistake(
        "Drop the batch axis of size 1 (`[0]`): the result is [context, upstream latents].", name="batch_axis"
    )(variant(after=lambda found, up, x: found[None]))
    exercise.mistake(NOT_CONNECTED, name="not_connected")(variant(through=lambda x, up: x.detach()))
    exercise.alternative(_with_offsets, name="with_zero_offsets")


def _decoder_readout(model, upstream, up_name, downstream, down_name, tokens, position, latent):
    seen = {}

    def enter(x, hook):
        seen["x"] = x.detach().requires_grad_(True)
        return seen["x"]

    def leave(x, hook):
        seen["y"] = x

    model.run_with_hooks(tokens, fwd_hooks=[(up_name, enter), (down_name, leave)])
    value = seen["y"][0, position] @ downstream.W_dec[latent]
    return torch.autograd.grad(value, seen["x"])[0][0] @ upstream.W_dec.T


def _direct_path(model, upstream, up_name, downstream, down_name, tokens, position, latent):
    found = torch.zeros(tokens.shape[1], len(upstream.W_dec))
    found[position] = upstream.W_dec @ downstream.W_enc[:, latent]
    return found


def _with_offsets(model, upstream, up_name, downstream, down_name, tokens, position, latent):
    offset = torch.zeros(tokens.shape[1], len(upstream.W_dec), requires_grad=True)
    noted = []

    def enter(x, hook=None):
        return x + (offset @ upstream.W_dec)[None]

    model.run_with_hooks(
        tokens, fwd_hooks=[(up_name, enter), (down_name, lambda x, hook: noted.append(downstream.encode(x)))]
    )
    noted[0][0, position, latent].backward()
    return offset.grad


# -- 07.9 -----------------------------------------------------------------------------------------------------------


def _add_circuit(lesson: Lesson) -> None:
    exercise = lesson.exercise(
        9,
        title="Is the circuit faithful, and is it complete?",
        answer="circuit_scores",
        reference=scores_of,
        points=4,
        difficulty=4,
        importance=5,
        minutes=25,
        hints=(
            "Four runs: the real state (1 on the scale), the mean state (0), the mean state in which only the chosen latents "
            "deviate, and the real state in which only they do not.",
            "What a set of latents adds beyond the mean is `(f - f_mean)[..., latents] @ W_dec[latents]`. Keeping adds it to "
            "`x_mean`; removing subtracts it from `x`, which leaves the SAE's error in place.",
            "`score = lambda state: (run(state) - run(mean)) / (run(x) - run(mean))`, with `mean = x_mean.expand_as(x)`.",
        ),
    )

    def setting(draw: Draw, rows=5, context=4, zero_mean=False):
        sae = TinySAE(draw)
        x = draw.normal(rows, context, D)
        f, reference = sae.encode(x), draw.normal(20, context, D)
        x_mean, f_mean = reference.mean(dim=0), sae.encode(reference).mean(dim=0)
        if zero_mean:
            x_mean, f_mean = torch.zeros_like(x_mean), torch.zeros_like(f_mean)
        readout = draw.normal(context, D)

        def run(state):
            value = (state * readout).sum(dim=(1, 2))
            return float((value + 0.2 * value**2).mean() + 2.0)  # a baseline far from zero, and bent prompt by prompt

        return run, x, f, x_mean, f_mean, sae.W_dec

    def told(found):
        faithful, left = found
        return {"faithfulness": float(faithful), "what is left": float(left)}

    loose = Close(rtol=2e-3, atol=2e-4)

    @exercise.case("four of fourteen latents", weight=2, rule=loose)
    def _(f, draw):
        chosen = sorted(draw.rng.choice(LATENTS, 4, replace=False).tolist())
        return told(f(*setting(draw), chosen))

    @exercise.case("no latent at all", rule=loose)
    def _(f, draw):
        return told(f(*setting(draw), []))

    @exercise.case("all latents: what is missing is the error", rule=loose)
    def _(f, draw):
        return told(f(*setting(draw), list(range(LATENTS))))

    @exercise.case("one latent", rule=loose)
    def _(f, draw):
        return told(f(*setting(draw, rows=7), [int(draw.rng.integers(LATENTS))]))

    def variant(keep=None, drop=None, low=None, exchanged=False, after=lambda kept, left: (kept, left)):
        def made(run, x, f, x_mean, f_mean, W_dec, latents):
            latents = torch.as_tensor(latents, dtype=torch.long)
            part = (f - f_mean)[..., latents] @ W_dec[latents]
            mean = x_mean.expand_as(x)
            kept = mean + part if keep is None else keep(x, f, x_mean, f_mean, W_dec, latents)
            rest = x - part if drop is None else drop(x, f, x_mean, f_mean, W_dec, latents)
            base = run(mean) if low is None else low(run, x)
            full = run(x)
            scores = tuple((run(state) - base) / (full - base) for state in (kept, rest))
            return after(*(scores[::-1] if exchanged else scores))

        return made

    exercise.mistake(
        "Scores are divided by the full model's without subtracting what the mean state scores: an empty circuit must get 0.",
        name="baseline_not_subtracted",
    )(variant(low=lambda run, x: 0.0))
    exercise.mistake(
        "The baseline is the all-zero state, which the model never sees. The mean state is the reference.",
        name="zero_state_as_baseline",
    )(variant(low=lambda run, x: run(torch.zeros_like(x))))
    exercise.mistake(
        "Latents outside the set are put to zero instead of to their means: that removes the template too.",
        name="zero_instead_of_mean",
    )(
        variant(
            keep=lambda x, f, xm, fm, W, i: xm - fm @ W + f[..., i] @ W[i],
            drop=lambda x, f, xm, fm, W, i: x - f[..., i] @ W[i],
        )
    )
    to_zero = "Latents are set to zero, not to their mean: use f - f_mean"
    exercise.mistake(f"{to_zero}, both where you keep and where you remove.", name="activations_for_deviations")(
        variant(
            keep=lambda x, f, xm, fm, W, i: xm.expand_as(x) + f[..., i] @ W[i],
            drop=lambda x, f, xm, fm, W, i: x - f[..., i] @ W[i],
        )
    )
    exercise.mistake(f"{to_zero} where you remove, as you do where you keep.", name="removed_to_zero")(
        variant(drop=lambda x, f, xm, fm, W, i: x - f[..., i] @ W[i])
    )
    exercise.mistake(
        "What is kept is added to the mean state, which holds the latents' means already: use f - f_mean there too.",
        name="mean_counted_twice",
    )(variant(keep=lambda x, f, xm, fm, W, i: xm.expand_as(x) + f[..., i] @ W[i]))
    exercise.mistake("Removing *subtracts* what the latents deviate; you added it.", name="added_for_removed")(
        variant(drop=lambda x, f, xm, fm, W, i: x + (f - fm)[..., i] @ W[i])
    )
    exercise.mistake(
        "The second number is 1 minus what is left. What is left was asked for: low means complete.",
        name="one_minus_left",
    )(variant(after=lambda kept, left: (kept, 1 - left)))
    exercise.mistake(
        "The metric is given as it is. Scale it: the mean state scores 0 and the real state 1.", name="unscaled"
    )(_unscaled)
    exercise.mistake(
        "The means are those of the prompts you score. Use `x_mean` and `f_mean`, which come from other prompts.",
        name="own_means",
    )(lambda run, x, f, x_mean, f_mean, W, i: scores_of(run, x, f, x.mean(dim=0), f.mean(dim=0), W, i))
    exercise.mistake(
        "Removing rebuilds the state from the other latents, so the SAE's error is dropped with the circuit. Subtract from x.",
        name="error_dropped",
    )(
        variant(
            drop=lambda x, f, xm, fm, W, i: xm + (f - fm) @ W - (f - fm)[..., i] @ W[i],
        )
    )
    exercise.mistake(
        "The two numbers are exchanged: faithfulness is the score when only the circuit deviates.", name="exchanged"
    )(variant(exchanged=True))
    exercise.mistake(
        "Keeping starts from the real state: then everything else is kept as well, and any circuit looks faithful.",
        name="kept_on_top_of_the_real_state",
    )(variant(keep=lambda x, f, xm, fm, W, i: x + (f - fm)[..., i] @ W[i]))
    exercise.alternative(_with_masks, name="with_masks")


def _unscaled(run, x, f, x_mean, f_mean, W_dec, latents):
    part = (f - f_mean)[..., latents] @ W_dec[latents]
    return run(x_mean.expand_as(x) + part), run(x - part)


def _with_masks(run, x, f, x_mean, f_mean, W_dec, latents):
    chosen = torch.zeros(W_dec.shape[0])
    chosen[list(latents)] = 1
    error = x - f @ W_dec
    mean_rest = x_mean - f_mean @ W_dec
    only = mean_rest + (f_mean + chosen * (f - f_mean)) @ W_dec
    without = error + (f - chosen * (f - f_mean)) @ W_dec
    floor, top = run(x_mean[None].repeat(len(x), 1, 1)), run(x)
    return (run(only) - floor) / (top - floor), 1 - (top - run(without)) / (top - floor)


# -- 07.10 ----------------------------------------------------------------------------------------------------------


def _add_years(lesson: Lesson) -> None:
    exercise = lesson.exercise(
        10,
        title="Greater than: a metric of its own",
        answer="greater_than_metric",
        reference=mass_above_minus_below,
        points=2,
        difficulty=2,
        importance=4,
        minutes=10,
        hints=(
            "Softmax over the whole vocabulary first; then look at the ten digits only.",
            "A digit above the start year's tens digit counts +1, one below -1, the same digit 0.",
            "`sign = torch.sign(torch.arange(10) - tens[:, None])`; then the sum of probability times sign.",
        ),
    )

    def setting(draw: Draw, rows=9, tens=None, digits=None):
        logits = draw.normal(rows, 40, std=2.0)
        digits = draw.lend(draw.rng.permutation(40)[:10]) if digits is None else digits
        return logits, digits, draw.integers(1, 9, rows) if tens is None else tens

    @exercise.case("random logits", weight=2)
    def _(f, draw):
        return f(*setting(draw))

    @exercise.case("nearly all mass on the year's own digit")
    def _(f, draw):
        logits, digits, tens = setting(draw)
        logits = logits.clone()
        logits[torch.arange(len(logits)), digits[tens]] += 9.0
        return f(logits, digits, tens)

    @exercise.case("much mass on words that are no digits")
    def _(f, draw):
        logits, digits, tens = setting(draw)
        logits = logits.clone()
        others = np.setdiff1d(np.arange(40), digits.numpy())
        logits[:, others[:4]] += 5.0
        return f(logits, digits, tens)

    def variant(score=lambda logits, digits: logits.softmax(dim=-1)[:, digits], sign=torch.sign, flip=1.0):
        def made(logits, digits, tens):
            return flip * (score(logits, digits) * sign(torch.arange(10) - tens[:, None])).sum(dim=-1)

        return made

    exercise.mistake("The sign is the wrong way round: mass *above* the year's digit counts plus.", name="sign")(
        variant(flip=-1.0)
    )
    exercise.mistake(
        "The year's own digit counts as above. It can be right or wrong (1745 to 1743 or 1748), so it counts for neither.",
        name="own_digit_counts",
    )(variant(sign=lambda gap: torch.where(gap >= 0, 1, -1)))
    exercise.mistake(
        "The year's own digit counts as below. It can be right or wrong (1745 to 1743 or 1748), so it counts for neither.",
        name="own_digit_below",
    )(variant(sign=lambda gap: torch.where(gap > 0, 1, -1)))
    exercise.mistake(
        "`tens` is compared with token ids. Compare it with the digits themselves, `torch.arange(10)`.",
        name="token_ids_compared",
    )(lambda logits, digits, tens: (logits.softmax(dim=-1)[:, digits] * torch.sign(digits - tens[:, None])).sum(dim=-1))
    exercise.mistake(
        "The softmax runs over the prompts: each prompt's probabilities must add up to 1 over the vocabulary, `dim=-1`.",
        name="softmax_over_prompts",
    )(variant(score=lambda logits, digits: logits.softmax(dim=0)[:, digits]))
    exercise.mistake("Logits are summed, not probabilities: a digit with no chance at all counts too.", name="logits")(
        variant(score=lambda logits, digits: logits[:, digits])
    )
    exercise.mistake(
        "The softmax is taken over the ten digits only; a model that says something else entirely would look certain.",
        name="softmax_over_digits",
    )(variant(score=lambda logits, digits: logits[:, digits].softmax(dim=-1)))
    exercise.mistake(
        "Only the mass above is counted; what lies below must be subtracted.", name="below_not_subtracted"
    )(variant(sign=lambda gap: (gap > 0).float()))
    exercise.mistake(
        "Means over the digits above and below are compared; then one likely digit weighs more the fewer there are beside it.",
        name="means",
    )(_means)

    @exercise.alternative
    def with_a_loop(logits, digits, tens):
        probability = torch.exp(logits - logits.logsumexp(dim=-1, keepdim=True))
        rows = []
        for p, t in zip(probability, tens.tolist()):
            mass = p[digits]
            rows.append(mass[t + 1 :].sum() - mass[:t].sum())
        return torch.stack(rows)


def _means(logits, digits, tens):
    probability, gap = logits.softmax(dim=-1)[:, digits], torch.arange(10) - tens[:, None]
    above, below = (gap > 0).float(), (gap < 0).float()
    return (probability * above).sum(1) / above.sum(1).clamp(min=1) - (probability * below).sum(1) / below.sum(1)


# -- 07.11 ----------------------------------------------------------------------------------------------------------


def _add_patching(lesson: Lesson) -> None:
    exercise = lesson.exercise(
        11,
        title="Activation patching, position by position",
        answer="patch_positions",
        reference=patched,
        points=4,
        difficulty=3,
        importance=5,
        minutes=20,
        hints=(
            "Run the clean prompts once and keep their activations at every name. Then run the *corrupt* prompts, each time "
            "with one clean state put in.",
            "The hook returns a copy of its input in which `[:, position]` is the clean one. Scale so that the corrupt run is 0 "
            "and the clean run 1.",
            "`x = x.clone(); x[:, position] = cache[name][:, position]; return x`, then "
            "`(metric(patched) - metric(corrupt)) / (metric(clean) - metric(corrupt))`.",
        ),
    )

    def setting(draw: Draw, rows=3, context=5, changed=(1, 3)):
        model = TinyModel(draw)
        clean = draw.rng.integers(0, VOCABULARY, (rows, context))
        corrupt = clean.copy()
        for position in changed:
            corrupt[:, position] = (clean[:, position] + draw.rng.integers(1, VOCABULARY, rows)) % VOCABULARY
        return model, draw.lend(clean), draw.lend(corrupt)

    # recovered shares divide by a difference that may be small, so what is compared is multiplied by it again
    def told(f, draw, names, **where):
        model, clean, corrupt = setting(draw, **where)
        with torch.no_grad():
            scale = float(difference(model(clean)) - difference(model(corrupt)))
        return scale * torch.as_tensor(f(model, clean, corrupt, names, difference))

    loose = Close(rtol=1e-3, atol=1e-4)

    @exercise.case("two layers and five positions", weight=2, rule=loose)
    def _(f, draw):
        return told(f, draw, [point(0), point(1)])

    @exercise.case("the last layer: only the last position counts", rule=loose)
    def _(f, draw):
        return told(f, draw, [point(2)], rows=2, changed=(0, 2))

    @exercise.case("all layers, one exchanged token", rule=loose)
    def _(f, draw):
        return told(f, draw, [point(0), point(1), point(2)], rows=1, context=4, changed=(1,))

    @exercise.case("shares below 0 or above 1 stay as they are", rule=Close(rtol=5e-3, atol=2e-3))
    def _(f, draw):
        model, clean, corrupt = setting(draw, rows=2, context=4, changed=(0, 1))
        with torch.no_grad():
            good, bad = float(difference(model(clean))), float(difference(model(corrupt)))

        def bent(logits):  # 0 for the corrupt run, 1 for the clean run, far outside in between and beyond
            share = (difference(logits) - bad) / (good - bad)
            return share + 20 * share * (1 - share)

        return torch.as_tensor(f(model, clean, corrupt, [point(0), point(1)], bent))

    def variant(swap=False, scaled=lambda got, bad, good: (got - bad) / (good - bad), where=None, upto=None):
        def made(model, clean, corrupt, names, metric):
            source, target = (corrupt, clean) if swap else (clean, corrupt)
            with torch.no_grad():
                _, cache = model.run_with_cache(source)
                good, bad = float(metric(model(clean))), float(metric(model(corrupt)))
                rows = []
                for name in names:
                    row = []
                    for position in range(clean.shape[1]):
                        chosen = position if where is None else where(position)

                        def put(x, hook, name=name, chosen=chosen):
                            x = x.clone()
                            x[:upto, chosen] = cache[name][:upto, chosen]
                            return x

                        got = float(metric(model.run_with_hooks(target, fwd_hooks=[(name, put)])))
                        row.append(scaled(got, bad, good))
                    rows.append(row)
            return torch.tensor(rows)

        return made

    exercise.mistake(
        "The patch goes the wrong way, corrupt into clean. That asks what is *needed*; this exercise asks what is enough: clean "
        "into corrupt.",
        name="wrong_direction",
    )(variant(swap=True))
    exercise.mistake(
        "Clean and corrupt are exchanged throughout: corrupt states are put into the clean run, and the scale is turned round "
        "too. Put clean into corrupt; the corrupt run is 0 and the clean run 1.",
        name="exchanged_throughout",
    )(variant(swap=True, scaled=lambda got, bad, good: (good - got) / (good - bad)))
    exercise.mistake(
        "The corrupt run's score is not subtracted, so a patch that does nothing does not get 0.", name="no_baseline"
    )(variant(scaled=lambda got, bad, good: got / good))
    exercise.mistake("The scale is reversed: the corrupt run must be 0 and the clean run 1.", name="reversed_scale")(
        variant(scaled=lambda got, bad, good: (good - got) / (good - bad))
    )
    exercise.mistake(
        "All positions up to this one are patched together; the map shows single positions.", name="cumulative"
    )(variant(where=lambda position: slice(0, position + 1)))
    exercise.mistake(
        "This position and all after it are patched together; the map shows single positions.", name="from_here_on"
    )(variant(where=lambda position: slice(position, None)))
    exercise.mistake("Only the first prompt is patched: write `x[:, position]`, all prompts.", name="first_prompt")(
        variant(upto=1)
    )
    exercise.mistake(
        "Shares are cut to between 0 and 1. A patch may do harm, or more than the clean run: leave them as they are.",
        name="clamped",
    )(variant(scaled=lambda got, bad, good: min(max((got - bad) / (good - bad), 0.0), 1.0)))
    late = "All hooks use the last position: the lambda reads the loop's variable when it is *called*, not when it is made."
    exercise.mistake(late, name="late_binding")(variant(where=lambda position: -1))
    exercise.mistake(f"{late} The name is the last one too.", name="late_binding_of_both")(_late_binding)
    exercise.mistake(
        "All hook points are patched together. Each row is about one: use one hook in each run.", name="all_hooks_on"
    )(_all_hooks_on)
    exercise.mistake("Every position is patched at once, so each column of a row shows the same.", name="all_at_once")(
        variant(where=lambda position: slice(None))
    )
    exercise.mistake(
        "The map is in units of the metric: divide by the clean run minus the corrupt run.", name="not_divided"
    )(variant(scaled=lambda got, bad, good: got - bad))

    @exercise.alternative
    def all_positions_in_one_batch(model, clean, corrupt, names, metric):
        context = clean.shape[1]
        with torch.no_grad():
            logits, cache = model.run_with_cache(clean)
            bad = metric(model.run_with_hooks(corrupt))
            rows = []
            for name in names:
                eye = torch.eye(context, dtype=torch.bool).repeat_interleave(len(clean), dim=0)

                def mix(x, hook=None, name=name, eye=eye):
                    return torch.where(eye[..., None], cache[name].repeat(context, 1, 1), x)

                many = model.run_with_hooks(corrupt.repeat(context, 1), fwd_hooks=[(name, mix)])
                rows.append([(metric(part) - bad) / (metric(logits) - bad) for part in many.split(len(clean))])
        return np.array(rows, dtype=float)


def _with_hooks(model, clean, corrupt, names, metric, hooks_for):
    """The map where `hooks_for(name, position, put)` are the hooks of one run; `put(name, position)` makes a right one."""
    _, cache = model.run_with_cache(clean)
    good, bad = metric(model(clean)), metric(model(corrupt))

    def put(name, position):
        def hook(x, hook=None):
            x = x.clone()
            x[:, position] = cache[name][:, position]
            return x

        return hook

    def share(name, position):
        got = metric(model.run_with_hooks(corrupt, fwd_hooks=hooks_for(name, position, put)))
        return float((got - bad) / (good - bad))

    return torch.tensor([[share(name, position) for position in range(clean.shape[1])] for name in names])


def _late_binding(model, clean, corrupt, names, metric):
    return _with_hooks(model, clean, corrupt, names, metric, lambda name, position, put: [(name, put(names[-1], -1))])


def _all_hooks_on(model, clean, corrupt, names, metric):
    return _with_hooks(
        model, clean, corrupt, names, metric, lambda name, position, put: [(n, put(n, position)) for n in names]
    )
