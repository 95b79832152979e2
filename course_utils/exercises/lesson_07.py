"""Lesson 07: steering and circuits; hooks, controls, intervals, attribution, virtual weights. Exercises 8 to 11: `circuits_07`."""

from __future__ import annotations

import inspect

import numpy as np
import torch

from course_utils import features
from course_utils.exercises import circuits_07
from course_utils.exercises.circuits_07 import (
    BLOCKS,
    LATENTS,
    NOT_CONNECTED,
    VOCABULARY,
    D,
    TinyModel,
    TinySAE,
    difference,
    differentiated,
    point,
    some_tokens,
)
from course_utils.grading import Between, Close, Draw, Exact, Lesson

lesson = Lesson("07", "Steering and circuits: from what a latent says to what it does", slug="07_steering_and_circuits")

# -- 07.1 ---------------------------------------------------------------------------------------------------------


def unit_steering(sae, latent, alpha, positions):
    """The library's hook with the direction scaled to length one."""
    return features.steering_hook(sae, latent, alpha, positions=positions, unit=True)


steering = lesson.exercise(
    1,
    title="Push along a latent",
    answer="steering_hook",
    reference=unit_steering,
    points=3,
    difficulty=2,
    importance=5,
    minutes=12,
    hints=(
        "What a latent writes is its decoder row. Bring that row to length one, so that `alpha` alone says how hard you push.",
        "The hook gets the activations `x` [batch, context, d] and returns the activations the model goes on with. Change a copy.",
        "`x = x.clone(); x[:, positions] += alpha * direction; return x`, with `direction = row / row.norm()`.",
    ),
)


def _sae_and_x(draw: Draw, rows=2, context=5):
    return TinySAE(draw), draw.normal(rows, context, D)


class HookError(TypeError):
    """What the answer returned cannot be called as TransformerLens calls a hook."""


def _applied(hook, x):
    """The hook's result, called as TransformerLens calls it."""
    if callable(hook):
        try:
            inspect.signature(hook).bind(x, hook=None)
        except TypeError:
            raise HookError("it cannot be called as `hook(x, hook=point)`") from None
    return hook(x, hook=None)


_HOOK_PARAMETER = (
    "The hook you returned could not be called. It is called as `hook(x, hook=point)`: its second parameter must be named "
    "`hook`."
)


@steering.case("one position is pushed, the others are not")
def _(f, draw):
    sae, x = _sae_and_x(draw)
    return _applied(f(sae, 3, 2.5, [2]), x)


@steering.case("several positions, a longer text", weight=2)
def _(f, draw):
    sae, x = _sae_and_x(draw, 3, 8)
    return _applied(f(sae, 9, 4.0, [1, 2, 6, 7]), x)


@steering.case("the length of the push is alpha, whatever the length of the decoder row")
def _(f, draw):
    sae, x = _sae_and_x(draw)
    sae.W_dec[5] *= 4
    return (_applied(f(sae, 5, 3.0, [4]), x) - x)[:, 4].norm(dim=-1)


@steering.case("a negative dose, and none at all")
def _(f, draw):
    sae, x = _sae_and_x(draw)
    return _applied(f(sae, 1, -2.0, [0, 3]), x), _applied(f(sae, 1, 0.0, [0, 3]), x)


def _steering_with(
    direction=lambda sae, i: sae.W_dec[i] / sae.W_dec[i].norm(), add=lambda x, push, sae, i: x + push, everywhere=False
):
    def made(sae, latent, alpha, positions):
        def hook(x, hook=None):
            where = torch.zeros(x.shape[1], 1)
            where[slice(None) if everywhere else positions] = 1
            pushed = add(x, alpha * direction(sae, latent), sae, latent)
            return torch.where(where > 0, pushed, x)

        return hook

    return made


steering.mistake(
    "The decoder row is not brought to length one, so the same alpha pushes one latent harder than another.",
    name="unnormalised",
)(_steering_with(direction=lambda sae, i: sae.W_dec[i]))
steering.mistake("The push is added at every position, not only at those asked for.", name="every_position")(
    _steering_with(everywhere=True)
)
steering.mistake(
    "The push follows the *encoder* column, which says what a latent reads. What it writes is its decoder row.",
    name="encoder_direction",
)(_steering_with(direction=lambda sae, i: sae.W_enc[:, i] / sae.W_enc[:, i].norm()))
steering.mistake("The activations are replaced by the push; it should be added to them.", name="replaces")(
    _steering_with(add=lambda x, push, sae, i: torch.zeros_like(x) + push)
)
steering.mistake(
    "The push is multiplied by the latent's present activation: where the latent is silent nothing happens.",
    name="times_activation",
)(_steering_with(add=lambda x, push, sae, i: x + sae.encode(x)[..., [i]] * push))


steering.mistake("The push is subtracted: a positive alpha should *raise* the latent.", name="sign")(
    _steering_with(add=lambda x, push, sae, i: x - push)
)
steering.mistake(
    "The row is divided by its squared length. A vector divided by its length has length one: `row / row.norm()`.",
    name="squared_length",
)(_steering_with(direction=lambda sae, i: sae.W_dec[i] / sae.W_dec[i].square().sum()))


@steering.mistake("Only the first prompt is pushed: write `x[:, positions]`, all prompts.", name="first_prompt")
def _first_prompt(sae, latent, alpha, positions):
    def hook(x, hook=None):
        return torch.cat([_steering_with()(sae, latent, alpha, positions)(x[:1]), x[1:]])

    return hook


@steering.mistake(_HOOK_PARAMETER, name="hook_parameter")
def _steering_with_another_name(sae, latent, alpha, positions):
    return lambda x, point: x


@steering.mistake(
    "The positions are one too far to the right: position 0 is BOS, and lists count from 0 as tensors do.",
    name="one_too_far",
)
def _one_too_far(sae, latent, alpha, positions):
    def hook(x, hook=None):
        return _steering_with()(sae, latent, alpha, [min(p + 1, x.shape[1] - 1) for p in positions])(x)

    return hook


@steering.mistake(
    "The hook changes the activations it was given. Whoever keeps them, a cache of the clean run for instance, finds them steered."
)
def in_place(sae, latent, alpha, positions):
    def hook(x, hook=None):
        x[:, positions] += alpha * sae.W_dec[latent] / sae.W_dec[latent].norm()
        return x

    return hook


@steering.alternative
def with_a_mask(sae, latent, alpha, positions):
    direction = torch.nn.functional.normalize(sae.W_dec, dim=-1)[latent]

    def hook(x, hook=None):
        mask = torch.isin(torch.arange(x.shape[1]), torch.tensor(positions)).float()
        return x + alpha * mask[None, :, None] * direction

    return hook


# -- 07.2 ---------------------------------------------------------------------------------------------------------


def clamped(sae, latent, value, positions):
    """The library's hook."""
    return features.clamp_latent(sae, latent, value, positions=positions)


clamp = lesson.exercise(
    2,
    title="Clamp and ablate, and keep what the SAE misses",
    answer="clamp_latent",
    reference=clamped,
    points=3,
    difficulty=3,
    importance=5,
    minutes=15,
    hints=(
        "Write x as reconstruction plus error. Only one latent of the reconstruction is to change; everything else stays as it is.",
        "The change is `(value - now)` times the latent's decoder row, where `now` is the latent's activation at each position.",
        "`now = sae.encode(x)[..., latent]`; `x[:, positions] + (value - now)[:, positions, None] * sae.W_dec[latent]`.",
    ),
)


@clamp.case("ablating: the latent set to 0", weight=2)
def _(f, draw):
    sae, x = _sae_and_x(draw, 3, 6)
    sae.b_enc[4] += 2.0  # active nearly everywhere
    return _applied(f(sae, 4, 0.0, [1, 2, 3, 4, 5]), x)


@clamp.case("a silent latent set to 3")
def _(f, draw):
    sae, x = _sae_and_x(draw)
    sae.b_enc[7] -= 30.0
    return _applied(f(sae, 7, 3.0, [1, 3]), x)


@clamp.case("an active latent set to 3, here and there", weight=2)
def _(f, draw):
    sae, x = _sae_and_x(draw, 2, 7)
    return _applied(f(sae, 2, 3.0, [0, 2, 5]), x)


@clamp.case("what the SAE does not reconstruct is still there")
def _(f, draw):
    sae, x = _sae_and_x(draw)
    y = _applied(f(sae, 6, 1.5, [2, 4]), x)
    return y - sae.decode(sae.encode(x))


def _clamp_with(change, everywhere=False):
    def made(sae, latent, value, positions):
        def hook(x, hook=None):
            where = torch.zeros(x.shape[1], 1)
            where[slice(None) if everywhere else positions] = 1
            return torch.where(where > 0, change(sae, x, latent, value), x)

        return hook

    return made


def _now(sae, x, i):
    return sae.encode(x)[..., [i]]


def _edited(sae, x, i, value):
    f = sae.encode(x).clone()
    f[..., i] = value
    return sae.decode(f)


clamp.mistake(
    "The activations are replaced by the reconstruction: the SAE's error is dropped, and its effect is mixed with the latent's.",
    name="error_dropped",
)(_clamp_with(lambda sae, x, i, value: _edited(sae, x, i, value)))


@clamp.mistake(
    "All activations are replaced by the reconstruction: the SAE's error is dropped at every position. Change only what the "
    "latent contributes.",
    name="error_dropped_everywhere",
)
def _decoded(sae, latent, value, positions):
    def hook(x, hook=None):
        f = sae.encode(x).clone()
        f[:, positions, latent] = value
        return sae.decode(f)

    return hook


clamp.mistake(
    "The value is added to what the latent does already. Clamping *sets* it: add (value - now).", name="adds"
)(_clamp_with(lambda sae, x, i, value: x + value * sae.W_dec[i]))
clamp.mistake("The change is made at every position, not only at those asked for.", name="every_position")(
    _clamp_with(lambda sae, x, i, value: x + (value - _now(sae, x, i)) * sae.W_dec[i], everywhere=True)
)
clamp.mistake(
    "The component of x along the decoder row is set. Other latents and the error also lie partly along it: change only what "
    "this latent contributes.",
    name="projection",
)(
    _clamp_with(
        lambda sae, x, i, value: (
            x + (value - (x @ sae.W_dec[i] / sae.W_dec[i].square().sum())[..., None]) * sae.W_dec[i]
        )
    )
)
clamp.mistake(
    "The latent is changed only where it is active, so a silent one cannot be switched on.", name="only_where_active"
)(
    _clamp_with(
        lambda sae, x, i, value: x + (_now(sae, x, i) > 0) * (value - _now(sae, x, i)) * sae.W_dec[i],
    )
)
clamp.mistake(
    "The pre-activation is subtracted. Where it is negative the latent contributes nothing, and there is nothing to subtract.",
    name="pre_activation",
)(
    _clamp_with(
        lambda sae, x, i, value: x + (value - ((x - sae.b_dec) @ sae.W_enc + sae.b_enc)[..., [i]]) * sae.W_dec[i],
    )
)
clamp.mistake(
    "The pre-activation is subtracted (and `b_dec` is forgotten in it). `sae.encode(x)` gives the latent's activation.",
    name="pre_activation_by_hand",
)(
    _clamp_with(
        lambda sae, x, i, value: x + (value - (x @ sae.W_enc + sae.b_enc)[..., [i]]) * sae.W_dec[i],
    )
)
clamp.mistake("The sign is wrong: the change is (value - now), what is wanted minus what is there.", name="sign")(
    _clamp_with(lambda sae, x, i, value: x + (_now(sae, x, i) - value) * sae.W_dec[i])
)
clamp.mistake(
    "The decoder row is brought to length one. Here the row's own length counts: it is part of the latent's contribution.",
    name="unit_row",
)(_clamp_with(lambda sae, x, i, value: x + (value - _now(sae, x, i)) * sae.W_dec[i] / sae.W_dec[i].norm()))
clamp.mistake("`value` is ignored: the latent is always set to 0.", name="value_ignored")(
    _clamp_with(lambda sae, x, i, value: x - _now(sae, x, i) * sae.W_dec[i])
)
clamp.mistake(
    "The activations come back unchanged. An error computed from the *edited* latents undoes the edit: compute it before.",
    name="error_of_the_edited",
)(_clamp_with(lambda sae, x, i, value: x))


@clamp.mistake(_HOOK_PARAMETER, name="hook_parameter")
def _clamp_with_another_name(sae, latent, value, positions):
    return lambda x, point: x


@clamp.alternative
def with_the_error_spelled_out(sae, latent, value, positions):
    def hook(x, hook=None):
        f = sae.encode(x)
        error = x - sae.decode(f)
        f = f.clone()
        f[:, positions, latent] = value
        return sae.decode(f) + error

    return hook


# -- 07.3 ---------------------------------------------------------------------------------------------------------


def compared_with_random(effect_of, direction, n, generator):
    """Effect of a direction, of n random ones as long, and a two-sided p-value that counts the direction itself."""
    effect = float(effect_of(direction))
    noise = torch.randn(n, len(direction), generator=generator)
    noise = noise * direction.norm() / noise.norm(dim=1, keepdim=True)
    controls = [float(effect_of(vector)) for vector in noise]
    return effect, controls, (1 + sum(abs(c) >= abs(effect) for c in controls)) / (1 + n)


control = lesson.exercise(
    3,
    title="A random direction as long as yours",
    answer="against_random",
    reference=compared_with_random,
    points=3,
    difficulty=2,
    importance=5,
    minutes=12,
    hints=(
        "Any push of that length moves the model. The question is whether yours moves it further than pushes that mean nothing.",
        "Normal noise has no preferred direction: draw `torch.randn`, then scale each vector to the length of `direction`.",
        "Two-sided, and with the direction itself among the candidates: `(1 + number of |control| >= |effect|) / (1 + n)`.",
    ),
)


def _recorder(direction, effects, own):
    """An `effect_of` that notes what it is called with: `own` for the direction itself, the next of `effects` for others."""
    seen, queue = [], list(effects)

    def effect_of(vector):
        vector = torch.as_tensor(vector, dtype=torch.float32).reshape(-1)
        if torch.allclose(vector, direction, atol=1e-6):
            return own
        seen.append(vector.clone())
        return queue.pop(0) if queue else 0.0

    return effect_of, seen


_LENGTH = Between(0.999, 1.001)


@control.case(
    "each control is as long as the direction",
    rule={"shortest / direction": _LENGTH, "longest / direction": _LENGTH, "controls": Exact()},
)
def _(f, draw):
    direction = draw.normal(40, std=0.5)
    effect_of, seen = _recorder(direction, [], 1.0)
    f(effect_of, direction, 30, torch.Generator().manual_seed(draw.seed))
    lengths = torch.stack(seen).norm(dim=1) / direction.norm()
    return {"shortest / direction": lengths.min(), "longest / direction": lengths.max(), "controls": len(seen)}


@control.case(
    "the controls point everywhere, and differ",
    rule={"length of their mean": Between(0, 0.25), "pairwise cosines": Between(0.05, 0.2), "different ones": Exact()},
)
def _(f, draw):
    direction = draw.normal(60, std=0.5)
    effect_of, seen = _recorder(direction, [], 1.0)
    f(effect_of, direction, 120, torch.Generator().manual_seed(draw.seed))
    unit = torch.nn.functional.normalize(torch.stack(seen), dim=1)
    cosines = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)]
    different = len({tuple(row) for row in np.round(unit.numpy(), 4).tolist()})
    return {
        "length of their mean": float(unit.mean(dim=0).norm()),
        "pairwise cosines": float(cosines.square().mean().sqrt()),
        "different ones": different,
    }


@control.case(
    "a direction along one axis: the controls spread over all",
    rule={"largest entry / length": Between(0, 0.7)},
)
def _(f, draw):
    direction = draw.lend(np.eye(60, dtype=np.float32)[int(draw.rng.integers(60))] * 2)
    effect_of, seen = _recorder(direction, [], 1.0)
    f(effect_of, direction, 20, torch.Generator().manual_seed(draw.seed))
    shares = [float(v.abs().max() / v.norm()) for v in seen] or [1.0]  # none was noted: all were the direction itself
    return {"largest entry / length": float(np.mean(shares))}


@control.case("the noise comes from `generator`", rule=Exact())
def _(f, draw):
    direction, generator = draw.normal(20), torch.Generator().manual_seed(draw.seed)
    start = generator.get_state()
    f(_recorder(direction, [], 1.0)[0], direction, 5, generator)
    return {"drawn from": "elsewhere" if torch.equal(start, generator.get_state()) else "generator"}


def _told(found):
    effect, controls, p = found
    return {"effect": float(effect), "controls": np.sort([float(c) for c in controls]), "p": float(p)}


@control.case("effect, controls and p-value", weight=2)
def _(f, draw):
    direction = draw.normal(30)
    effects = [*draw.rng.normal(0, 0.4, 17), -1.9, 1.5]
    effect_of, _ = _recorder(direction, effects, 1.2)
    return _told(f(effect_of, direction, len(effects), torch.Generator().manual_seed(draw.seed)))


@control.case("an effect that lowers, beyond all controls")
def _(f, draw):
    direction = draw.normal(30)
    effect_of, _ = _recorder(direction, draw.rng.uniform(-1, 1, 9), -3.0)
    return _told(f(effect_of, direction, 9, torch.Generator().manual_seed(draw.seed)))


@control.case("controls that do exactly as much")
def _(f, draw):
    direction = draw.normal(30)
    return _told(f(lambda vector: 1.0, direction, 8, torch.Generator().manual_seed(draw.seed)))


def _control_with(
    noise=lambda n, d, g: torch.randn(n, d, generator=g),
    scale=lambda noise, direction: noise * direction.norm() / noise.norm(dim=1, keepdim=True),
    p=lambda effect, controls: (1 + sum(abs(c) >= abs(effect) for c in controls)) / (1 + len(controls)),
):
    def made(effect_of, direction, n, generator):
        effect = float(effect_of(direction))
        controls = [float(effect_of(v)) for v in scale(noise(n, len(direction), generator), direction)]
        return effect, controls, p(effect, controls)

    return made


control.mistake(
    "The noise keeps its own length: scale each control to the length of the direction. A longer push does more, whatever it "
    "means.",
    name="not_scaled",
)(_control_with(scale=lambda noise, direction: noise))
control.mistake("The controls have length one; they should be as long as the direction.", name="length_one")(
    _control_with(scale=lambda noise, direction: noise / noise.norm(dim=1, keepdim=True))
)
control.mistake("All controls are the same vector: draw a new one each time.", name="one_vector")(
    _control_with(noise=lambda n, d, g: torch.randn(1, d, generator=g).expand(n, d))
)
control.mistake(
    "`torch.rand` is positive everywhere, so all controls point the same way. Normal noise has no preferred direction.",
    name="positive_noise",
)(_control_with(noise=lambda n, d, g: torch.rand(n, d, generator=g)))
control.mistake(
    "A p-value of exactly 0 cannot follow from finitely many controls: count the direction itself, (1 + count) / (1 + n).",
    name="p_without_itself",
)(_control_with(p=lambda effect, controls: sum(abs(c) >= abs(effect) for c in controls) / len(controls)))
control.mistake(
    "Only controls *above* the effect are counted. Compare absolute values: a control may lower as much as yours raises.",
    name="one_sided",
)(_control_with(p=lambda effect, controls: (1 + sum(c >= effect for c in controls)) / (1 + len(controls))))
control.mistake(
    "The p-value is the wrong way round: it is the share of controls that move the answer at least as much.",
    name="p_reversed",
)(_control_with(p=lambda effect, controls: (1 + sum(abs(c) < abs(effect) for c in controls)) / (1 + len(controls))))
control.mistake("Controls that equal the effect count too (≥).", name="strict")(
    _control_with(p=lambda effect, controls: (1 + sum(abs(c) > abs(effect) for c in controls)) / (1 + len(controls)))
)
control.mistake(
    "The divisor is n. With your own direction counted there are 1 + n candidates: (1 + count) / (1 + n).",
    name="divided_by_n",
)(_control_with(p=lambda effect, controls: (1 + sum(abs(c) >= abs(effect) for c in controls)) / len(controls)))
control.mistake(
    "The noise does not come from `generator`: the result cannot be repeated.",
    name="generator_ignored",
)(_control_with(noise=lambda n, d, g: torch.randn(n, d)))


@control.mistake(
    "The controls hold the direction's own entries in another order. Draw normal noise instead: it knows nothing of the direction.",
    name="shuffled",
)
def _shuffled(effect_of, direction, n, generator):
    def noise(n, d, g):
        return torch.stack([direction[torch.randperm(d, generator=g)] for _ in range(n)])

    return _control_with(noise=noise)(effect_of, direction, n, generator)


@control.alternative
def one_at_a_time(effect_of, direction, n, generator):
    controls = []
    for _ in range(n):
        vector = torch.empty_like(direction).normal_(generator=generator)
        controls.append(float(effect_of(torch.nn.functional.normalize(vector, dim=0) * torch.linalg.norm(direction))))
    effect = float(effect_of(direction))
    beaten = np.abs(np.array([effect, *controls])) >= abs(effect)
    return effect, controls, beaten.mean()


# -- 07.4 ---------------------------------------------------------------------------------------------------------


def interval_of_change(before, after, topic, resamples, rng):
    """Mean change of the log-odds of one topic, with a percentile interval over resampled messages."""

    def log_odds(scores):
        others = torch.cat([scores[:, :topic], scores[:, topic + 1 :]], dim=1)
        return scores[:, topic] - others.logsumexp(dim=1)

    change = (log_odds(after) - log_odds(before)).double().numpy()
    means = change[rng.integers(len(change), size=(resamples, len(change)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(change.mean()), float(low), float(high)


interval = lesson.exercise(
    4,
    title="Did the answer move? An interval over messages",
    answer="change_in_log_odds",
    reference=interval_of_change,
    points=4,
    difficulty=3,
    importance=5,
    minutes=18,
    hints=(
        "Each message is measured twice, before and after. Take the difference message by message first; then average.",
        "Log-odds of one topic against the others together: its score minus the `logsumexp` of the others' scores.",
        "Draw row numbers with `rng.integers(n, size=(resamples, n))`, average each draw of the *changes*, and take the 2.5% and "
        "97.5% points of those averages.",
    ),
)


def _scores(draw: Draw, n=48, topics=4, before_spread=2.0, push=0.6):
    before = draw.rng.normal(0, before_spread, (n, topics)) + draw.rng.normal(0, 1, (n, 1))
    after = before + draw.rng.normal(0, 0.4, (n, topics))
    after[:, 2] += push
    return draw.lend(before.astype(np.float32)), draw.lend(after.astype(np.float32))


# 8,000 resamples place each end to within 1.6% of its distance from the mean (one standard deviation)
_ENDS = {"mean": Close(), "*": Close(rtol=0.1, atol=1e-4)}


def _ends(found):
    mean, low, high = found
    mean, low, high = float(mean), float(low), float(high)
    return {"mean": mean, "mean − lower end": mean - low, "upper end − mean": high - mean}


@interval.case("the mean change", weight=2)
def _(f, draw):
    return float(f(*_scores(draw), 2, 50, draw.rng)[0])


@interval.case("the mean change of the first and of the last topic")
def _(f, draw):
    before, after = _scores(draw, 20)
    return float(f(before, after, 0, 50, draw.rng)[0]), float(f(before, after, 3, 50, draw.rng)[0])


@interval.case("both ends of the interval", weight=2, rule=_ENDS)
def _(f, draw):
    return _ends(f(*_scores(draw), 2, 8000, draw.rng))


@interval.case("a few messages that react strongly", rule=_ENDS)
def _(f, draw):
    before, after = _scores(draw, 60)
    after = after.clone()
    after[:6, 1] += 5.0
    return _ends(f(before, after, 1, 8000, draw.rng))


@interval.case(
    "twelve messages, one of which reacts strongly: the interval is lopsided",
    rule={"mean": Close(), "*": Close(rtol=0.2, atol=1e-4)},
)
def _(f, draw):
    before, after = _scores(draw, 12)
    after = after.clone()
    after[:, 1], after[5, 1] = before[:, 1], before[5, 1] + 6.0
    return _ends(f(before, after, 1, 8000, draw.rng))


@interval.case("the draws come from `rng`", rule=Exact())
def _(f, draw):
    before, after = _scores(draw, 12)
    start = str(draw.rng.bit_generator.state)
    f(before, after, 1, 50, draw.rng)
    return {"drawn from": "elsewhere" if start == str(draw.rng.bit_generator.state) else "rng"}


@interval.case("with `resamples` = 1 both ends are that one mean", rule=Exact())
def _(f, draw):
    _, low, high = f(*_scores(draw, 12), 2, 1, draw.rng)
    return {"ends": "one point" if abs(float(high) - float(low)) < 1e-6 else "apart"}


@interval.case("scores that all rise together change no odds", rule=Close(atol=1e-4))
def _(f, draw):
    before, _ = _scores(draw, 12)
    mean, low, high = f(before, before + 2.5, 1, 50, draw.rng)
    return [float(mean), float(low), float(high)]


def _others(scores, topic):
    return torch.cat([scores[:, :topic], scores[:, topic + 1 :]], dim=1)


def _interval_with(
    odds=lambda s, t: s[:, t] - _others(s, t).logsumexp(dim=1),
    ends=(0.025, 0.975),
    draw=None,
    sign=1.0,
    spread=False,
    average=np.mean,
    first=None,
):
    def made(before, after, topic, resamples, rng):
        a, b = (odds(part, topic).double().numpy() for part in (before, after))
        change = sign * (b - a)
        n = len(change)
        if spread:
            means = change
        elif draw:
            means = draw(a, b, resamples, rng)
        else:
            means = average(change[rng.integers(n, size=(resamples, n))], axis=1)
        low, high = np.quantile(means, ends)
        return float(average(change) if first is None else first(means)), float(low), float(high)

    return made


interval.mistake(
    "Before and after are resampled separately. It is the same messages twice: resample the differences, or the spread between "
    "messages swamps the effect.",
    name="unpaired",
)(
    _interval_with(
        draw=lambda a, b, m, rng: (
            b[rng.integers(len(b), size=(m, len(b)))].mean(axis=1)
            - a[rng.integers(len(a), size=(m, len(a)))].mean(axis=1)
        )
    )
)
interval.mistake(
    "This is where 95% of the *messages* lie; the interval asked for is that of their mean.", name="spread_of_messages"
)(_interval_with(spread=True))
interval.mistake("The change is before minus after; a topic that gains must get a plus.", name="sign")(
    _interval_with(sign=-1.0)
)
interval.mistake(
    "This is the topic's score alone. Scores of all topics may rise together; take the odds against the others.",
    name="score_alone",
)(_interval_with(odds=lambda s, t: s[:, t]))
interval.mistake(
    "This is the change of the probability. It shrinks where the answer was already sure; log-odds were asked for.",
    name="probability",
)(_interval_with(odds=lambda s, t: s.softmax(dim=1)[:, t]))
interval.mistake(
    "The topic itself stands in the denominator: that is a log-probability, not log-odds.", name="log_probability"
)(_interval_with(odds=lambda s, t: s.log_softmax(dim=1)[:, t]))
interval.mistake("The interval holds 90%: for 95% cut 2.5% at each end, not 5%.", name="ninety_percent")(
    _interval_with(ends=(0.05, 0.95))
)
interval.mistake("The others' scores are averaged. Their probabilities add: use logsumexp.", name="mean_of_others")(
    _interval_with(odds=lambda s, t: s[:, t] - _others(s, t).mean(dim=1))
)
interval.mistake("The 2.5% point comes before the 97.5% point.", name="ends_exchanged")(
    _interval_with(ends=(0.975, 0.025))
)
interval.mistake(
    "The first number is the mean of the changes themselves; the mean of the resampled means only adds noise to it.",
    name="mean_of_the_draws",
)(_interval_with(first=np.mean))
interval.mistake("`np.percentile` counts from 0 to 100: give it 2.5 and 97.5.", name="percentile_scale")(
    _interval_with(ends=(0.00025, 0.00975))
)
interval.mistake("This is the median of the changes; the mean was asked for.", name="median")(
    _interval_with(average=np.median)
)
interval.mistake(
    "Drawn without replacement, each resample holds the same messages: the interval has no width.",
    name="without_replacement",
)(_interval_with(draw=lambda a, b, m, rng: rng.permuted(np.tile(b - a, (m, 1)), axis=1).mean(axis=1)))
interval.mistake(
    "The draws do not come from `rng` but from a generator of your own: whoever calls can no longer choose the seed.",
    name="rng_ignored",
)(
    _interval_with(
        draw=lambda a, b, m, rng: (b - a)[np.random.default_rng(0).integers(len(a), size=(m, len(a)))].mean(axis=1)
    )
)


interval.mistake(
    "`resamples` is not used: draw as many times as it says.",
    name="resamples_ignored",
)(_interval_with(draw=lambda a, b, m, rng: (b - a)[rng.integers(len(a), size=(10_000, len(a)))].mean(axis=1)))


@interval.mistake(
    "This is mean ± 1.96 standard errors: a formula for bell-shaped means. A bootstrap was asked for: resample the messages.",
    name="normal_formula",
)
def _normal_formula(before, after, topic, resamples, rng):
    def odds(s):
        return s[:, topic] - _others(s, topic).logsumexp(dim=1)

    change = (odds(after) - odds(before)).double().numpy()
    mean, error = change.mean(), change.std(ddof=1) / len(change) ** 0.5
    return float(mean), float(mean - 1.96 * error), float(mean + 1.96 * error)


@interval.alternative
def with_tensors(before, after, topic, resamples, rng):
    odds = [s[:, topic] - s[:, torch.arange(s.shape[1]) != topic].logsumexp(dim=1) for s in (before, after)]
    d = odds[1] - odds[0]
    means = d[torch.from_numpy(rng.integers(0, len(d), (resamples, len(d))))].mean(dim=1)
    q = torch.quantile(means, torch.tensor([0.025, 0.975]))
    return d.mean(), q[0], q[1]


@interval.alternative
def only_the_mean_a_tensor(before, after, topic, resamples, rng):
    mean, low, high = interval_of_change(before, after, topic, resamples, rng)
    return torch.tensor(mean), low, high


@interval.alternative
def as_one_tensor(before, after, topic, resamples, rng):
    return torch.tensor(interval_of_change(before, after, topic, resamples, rng))


@interval.alternative
def with_a_loop(before, after, topic, resamples, rng):
    p, q = torch.softmax(before.double(), 1)[:, topic], torch.softmax(after.double(), 1)[:, topic]
    change = (torch.logit(q) - torch.logit(p)).numpy()
    means = np.sort([rng.choice(change, len(change)).mean() for _ in range(resamples)])
    return change.mean(), means[int(0.025 * resamples)], means[int(0.975 * resamples) - 1]


# -- 07.5 ---------------------------------------------------------------------------------------------------------


def frozen_norm_attribution(f, W_dec, final, gain, eps, W_U, answer, wrong):
    """Each latent's part of the logit difference, the final norm's divisor frozen."""
    divisor = (final.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    readout = (W_U[:, answer] - W_U[:, wrong]).T * gain / divisor
    return f * (readout @ W_dec.T)


direct = lesson.exercise(
    5,
    title="Who says it? Direct logit attribution by latent",
    answer="direct_logit_attribution",
    reference=frozen_norm_attribution,
    points=3,
    difficulty=3,
    importance=5,
    minutes=15,
    hints=(
        "The final stream is a sum, and each latent's summand is `f_i * W_dec[i]`. Follow that summand through norm and unembedding.",
        "Freeze the divisor at its value for the *whole* stream, `sqrt(mean(final**2) + eps)`; then the norm is linear.",
        "`readout = (W_U[:, answer] - W_U[:, wrong]).T * gain / divisor`; contributions are `f * (readout @ W_dec.T)`.",
    ),
)


def _final(draw: Draw, rows=4):
    sae = TinySAE(draw)
    f = torch.relu(draw.normal(rows, LATENTS))
    final = f @ sae.W_dec + draw.normal(rows, D)
    gain = draw.uniform(D, low=0.3, high=2.0)
    W_U = draw.normal(D, VOCABULARY)
    ids = np.stack([draw.rng.permutation(VOCABULARY)[:2] for _ in range(rows)])
    return draw.lend(f.numpy()), sae.W_dec, final, gain, 1e-5, W_U, draw.lend(ids[:, 0]), draw.lend(ids[:, 1])


@direct.case("contributions on four prompts", weight=2)
def _(f, draw):
    return f(*_final(draw))


@direct.case("with everything else they add up to the logit difference", weight=1)
def _(f, draw):
    acts, W_dec, final, gain, eps, W_U, answer, wrong = _final(draw, 6)
    found = torch.as_tensor(f(acts, W_dec, final, gain, eps, W_U, answer, wrong)).sum(dim=-1)
    divisor = (final.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    rest = ((final - acts @ W_dec) / divisor * gain) @ W_U
    rows = torch.arange(6)
    return found + rest[rows, answer] - rest[rows, wrong]


@direct.case("a stream that is nearly zero: eps counts")
def _(f, draw):
    acts, W_dec, final, gain, _, W_U, answer, wrong = _final(draw, 2)
    return f(acts, W_dec, final * 1e-2, gain, 1e-2, W_U, answer, wrong)


def _direct_with(
    divisor=lambda final, eps: (final.square().mean(dim=-1, keepdim=True) + eps).sqrt(),
    logits=lambda W_U, a, w: W_U[:, a] - W_U[:, w],
    use_gain=True,
    times=True,
):
    def made(f, W_dec, final, gain, eps, W_U, answer, wrong):
        readout = logits(W_U, answer, wrong).T * (gain if use_gain else 1) / divisor(final, eps)
        return (f if times else torch.ones_like(f)) * (readout @ W_dec.T)

    return made


direct.mistake("The metric's sign is wrong: answer minus wrong, so that a latent that helps gets a plus.", name="sign")(
    _direct_with(logits=lambda W_U, a, w: W_U[:, w] - W_U[:, a])
)
direct.mistake(
    "The final norm's divisor is missing: contributions do not add up to the logit difference.", name="no_norm"
)(_direct_with(divisor=lambda final, eps: 1.0))
direct.mistake("The final norm's gain is missing.", name="no_gain")(_direct_with(use_gain=False))
direct.mistake(
    "Only the right answer's logit is used. What counts is how much further a latent lifts it than the wrong one.",
    name="answer_only",
)(_direct_with(logits=lambda W_U, a, w: W_U[:, a]))
direct.mistake(
    "The latents' activations are missing: this is what one unit of each would add, active or not.",
    name="without_activation",
)(_direct_with(times=False))
direct.mistake(
    "The norm divides by the length of the stream; RMS norm divides by the root of the *mean* square.", name="length"
)(_direct_with(divisor=lambda final, eps: (final.square().sum(dim=-1, keepdim=True) + eps).sqrt()))
direct.mistake("`eps` is missing under the root.", name="no_eps")(
    _direct_with(divisor=lambda final, eps: final.square().mean(dim=-1, keepdim=True).sqrt())
)
direct.mistake("`eps` is added outside the root; it belongs under it, beside the mean square.", name="eps_outside")(
    _direct_with(divisor=lambda final, eps: final.square().mean(dim=-1, keepdim=True).sqrt() + eps)
)


@direct.mistake(
    "The divisor is that of the latents' sum `f @ W_dec`. It belongs to the whole final stream.",
    name="norm_of_the_latents",
)
def _norm_of_the_latents(f, W_dec, final, gain, eps, W_U, answer, wrong):
    return frozen_norm_attribution(f, W_dec, f @ W_dec, gain, eps, W_U, answer, wrong)


@direct.mistake(
    "Each latent's own summand is normalised. The divisor belongs to the whole stream, the same for all latents."
)
def own_norm(f, W_dec, final, gain, eps, W_U, answer, wrong):
    parts = f[..., None] * W_dec
    parts = parts / (parts.square().mean(dim=-1, keepdim=True) + eps).sqrt() * gain
    return torch.einsum("bld,db->bl", parts, W_U[:, answer] - W_U[:, wrong])


@direct.alternative
def summand_by_summand(f, W_dec, final, gain, eps, W_U, answer, wrong):
    rows = []
    for i in range(len(f)):
        scale = torch.rsqrt(torch.mean(final[i] ** 2) + eps)
        logits = (f[i][:, None] * W_dec * scale * gain) @ W_U
        rows.append(logits[:, answer[i]] - logits[:, wrong[i]])
    return torch.stack(rows)


# -- 07.6 ---------------------------------------------------------------------------------------------------------


def first_order_removal(model, sae, tokens, hook_name, metric):
    """The library's estimate."""
    return features.attribution_patching(model, sae, tokens, metric, hook_name=hook_name).effect


attribution = lesson.exercise(
    6,
    title="All ablations at once, to first order",
    answer="attribution_patching",
    reference=first_order_removal,
    points=4,
    difficulty=4,
    importance=5,
    minutes=20,
    hints=(
        "Removing a latent moves x by `-f_i * W_dec[i]`. To first order the metric then moves by that vector times its gradient.",
        "In the hook, make the activations a fresh leaf: `leaf = x.detach().requires_grad_(True)`, keep it, return it. Then the "
        "metric of the logits, and `torch.autograd.grad(metric, leaf)`.",
        "`-sae.encode(leaf) * (gradient @ sae.W_dec.T)`, without gradients.",
    ),
)


@attribution.case("every latent at every position", weight=2)
def _(f, draw):
    model, sae = TinyModel(draw), TinySAE(draw)
    return differentiated(f, model, sae, some_tokens(draw), point(1), difference)


@attribution.case("another layer, more prompts")
def _(f, draw):
    model, sae = TinyModel(draw), TinySAE(draw, latents=9)
    return differentiated(f, model, sae, some_tokens(draw, 5, 4), point(0), difference)


@attribution.case("a metric that reads the middle of the text")
def _(f, draw):
    model, sae = TinyModel(draw), TinySAE(draw)
    tokens = some_tokens(draw, 2, 6)
    return differentiated(f, model, sae, tokens, point(BLOCKS - 1), lambda logits: logits[:, 2, 5].pow(2).sum())


def _attribution_with(
    through=lambda x, sae: x, write=lambda sae: sae.W_dec.T, times=lambda sae, x: sae.encode(x), sign=-1.0
):
    def made(model, sae, tokens, hook_name, metric):
        kept = {}

        def hook(x, hook=None):
            kept["x"] = x.detach().requires_grad_(True)
            return through(kept["x"], sae)

        value = metric(model.run_with_hooks(tokens, fwd_hooks=[(hook_name, hook)]))
        (gradient,) = torch.autograd.grad(value, kept["x"])
        with torch.no_grad():
            return sign * times(sae, kept["x"]) * (gradient @ write(sae))

    return made


attribution.mistake(
    "The sign is wrong: removing a latent that helps *lowers* the metric, so its effect is negative.", name="sign"
)(_attribution_with(sign=1.0))
attribution.mistake(
    "The gradient runs through the SAE's reconstruction: a model whose error term is gone, differentiated through the encoder "
    "besides. Let the real activations pass.",
    name="through_the_reconstruction",
)(_attribution_with(through=lambda x, sae: sae.decode(sae.encode(x))))
attribution.mistake(
    "The gradient is projected on the encoder. What disappears with a latent is its decoder row.",
    name="encoder_direction",
)(_attribution_with(write=lambda sae: sae.W_enc))
attribution.mistake(
    "The latents' activations are missing: a silent latent cannot be removed, and its effect is 0.",
    name="without_activation",
)(_attribution_with(times=lambda sae, x: 1.0))
attribution.mistake(
    "The activations are multiplied by the gradient of the latents' own sum somewhere; removal is linear in f, not in f squared.",
    name="activation_squared",
)(_attribution_with(times=lambda sae, x: sae.encode(x) ** 2))
attribution.mistake(
    "The pre-activations are used. Removal takes away the activation `sae.encode(x)`: a silent latent has nothing to remove.",
    name="pre_activation",
)(_attribution_with(times=lambda sae, x: (x - sae.b_dec) @ sae.W_enc + sae.b_enc))


@attribution.mistake("The sign is lost: a latent may lower the metric or raise it. Take no absolute value.", name="abs")
def _without_sign(model, sae, tokens, hook_name, metric):
    return first_order_removal(model, sae, tokens, hook_name, metric).abs()


@attribution.mistake(
    "The latents' reconstruction goes on without the error, so the gradient is that of another model. Let the real activations "
    "pass.",
    name="latents_as_leaf",
)
def _latents_as_leaf(model, sae, tokens, hook_name, metric):
    kept = {}

    def hook(x, hook=None):
        kept["f"] = sae.encode(x).detach().requires_grad_(True)
        return sae.decode(kept["f"])

    value = metric(model.run_with_hooks(tokens, fwd_hooks=[(hook_name, hook)]))
    return -kept["f"].detach() * torch.autograd.grad(value, kept["f"])[0]


@attribution.mistake(
    "Each latent is really removed: exact, but not the first-order estimate, and thousands of runs instead of one.",
    name="real_ablation",
)
def _real_ablation(model, sae, tokens, hook_name, metric):
    acts = {}
    model.run_with_hooks(tokens, fwd_hooks=[(hook_name, lambda x, hook: acts.update(f=sae.encode(x)))])
    f = acts["f"]
    which = torch.eye(f.numel()).reshape(-1, *f.shape)  # one removal each

    def remove(x, hook=None):
        return x - ((which * f) @ sae.W_dec).flatten(0, 1)

    logits = model.run_with_hooks(tokens.repeat(f.numel(), 1), fwd_hooks=[(hook_name, remove)])
    before = metric(model.run_with_hooks(tokens, fwd_hooks=[]))
    return torch.stack([metric(part) - before for part in logits.split(len(tokens))]).reshape(f.shape)


@attribution.mistake(NOT_CONNECTED, name="not_connected")
def _leaf_not_returned(model, sae, tokens, hook_name, metric):
    kept = {}

    def hook(x, hook=None):
        kept["x"] = x.detach().requires_grad_(True)

    return torch.autograd.grad(metric(model.run_with_hooks(tokens, fwd_hooks=[(hook_name, hook)])), kept["x"])[0]


@attribution.mistake(
    "Effects are summed over positions; they were asked for at each position.", name="summed_over_positions"
)
def _summed(model, sae, tokens, hook_name, metric):
    return first_order_removal(model, sae, tokens, hook_name, metric).sum(dim=1)


@attribution.alternative
def with_a_gate_on_each_latent(model, sae, tokens, hook_name, metric):
    found = {}

    def hook(x, hook=None):
        x = x.detach()
        acts = sae.encode(x).detach()
        found["gate"] = torch.ones_like(acts).requires_grad_(True)
        return x + (found["gate"] - 1) * acts @ sae.W_dec

    metric(model.run_with_hooks(tokens, fwd_hooks=[(hook_name, hook)])).backward()
    return -found["gate"].grad


# -- 07.7 ---------------------------------------------------------------------------------------------------------


def direct_path_weights(upstream, downstream):
    """The library's product."""
    return features.virtual_weights(upstream, downstream)


virtual = lesson.exercise(
    7,
    title="Virtual weights between two layers",
    answer="virtual_weights",
    reference=direct_path_weights,
    points=2,
    difficulty=2,
    importance=4,
    minutes=10,
    hints=(
        "An upstream latent writes its decoder row into the stream. On the direct path nothing changes it. "
        "What does a downstream latent read?",
        "A latent reads with its encoder column. One number for each pair: a matrix product.",
        "`upstream.W_dec @ downstream.W_enc`, shape [upstream latents, downstream latents].",
    ),
)


def _pair(draw: Draw, up=LATENTS, down=11):
    def made(latents):
        sae = TinySAE(draw, latents)
        sae.W_enc, sae.W_dec = draw.lend(sae.W_enc.numpy()), draw.lend(sae.W_dec.numpy())
        return sae

    return made(up), made(down)


@virtual.case("SAEs of different sizes", weight=2)
def _(f, draw):
    return f(*_pair(draw))


@virtual.case("SAEs of the same size")
def _(f, draw):
    return f(*_pair(draw, 10, 10))


@virtual.case("twice the decoder, twice the weights")
def _(f, draw):
    up, down = _pair(draw, 7, 9)
    up.W_dec = up.W_dec * 2
    return f(up, down)


@virtual.mistake("Encoder and decoder are exchanged: the upstream latent writes (decoder), the downstream one reads.")
def exchanged(upstream, downstream):
    return upstream.W_enc.T @ downstream.W_dec.T


@virtual.mistake(
    "Two decoders are compared: that says whether the latents write alike, not whether one reads the other."
)
def two_decoders(upstream, downstream):
    return upstream.W_dec @ downstream.W_dec.T


@virtual.mistake("These are cosines. The size of a weight matters too: do not normalise.")
def cosines(upstream, downstream):
    up, down = upstream.W_dec, downstream.W_enc
    return (up / up.norm(dim=1, keepdim=True)) @ (down / down.norm(dim=0, keepdim=True))


@virtual.mistake("The decoder rows are normalised. Their length is part of the weight: do not normalise.")
def decoder_normalised(upstream, downstream):
    return torch.nn.functional.normalize(upstream.W_dec, dim=1) @ downstream.W_enc


@virtual.mistake(
    "The roles are exchanged: the *upstream* latent writes (`W_dec`), the *downstream* one reads (`W_enc`).",
    name="roles",
)
def _roles(upstream, downstream):
    return downstream.W_dec @ upstream.W_enc


@virtual.mistake(
    "Two encoders are compared: that says whether the latents read alike, not whether one reads what the other writes."
)
def two_encoders(upstream, downstream):
    return upstream.W_enc.T @ downstream.W_enc


@virtual.mistake("The bias is added. It is there whatever the upstream latent does, so it is no part of the weight.")
def bias_added(upstream, downstream):
    return upstream.W_dec @ downstream.W_enc + downstream.b_enc


@virtual.mistake("`encode` also adds biases and cuts at 0. The weight is the product of the two matrices alone.")
def encoded(upstream, downstream):
    return downstream.encode(upstream.W_dec)


@virtual.mistake("Negative weights are cut off. A latent that holds another one down is part of the picture.")
def only_positive(upstream, downstream):
    return torch.relu(upstream.W_dec @ downstream.W_enc)


@virtual.mistake("The matrix is transposed: rows are upstream latents, columns downstream ones.")
def transposed(upstream, downstream):
    return (upstream.W_dec @ downstream.W_enc).T


@virtual.alternative
def with_einsum(upstream, downstream):
    return torch.einsum("ud,dv->uv", upstream.W_dec, downstream.W_enc)


circuits_07.add_to(lesson)
