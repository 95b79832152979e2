"""Lesson 06: feature dashboards; examples, densities, logit effects, heatmaps, concept search, scored explanations, one HTML page."""

from __future__ import annotations

import html
import itertools
import re
from collections import Counter
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import torch

from course_utils import features
from course_utils.grading import Between, Close, Draw, Exact, Lesson

lesson = Lesson("06", "Feature dashboards: what does latent 1234 mean?", slug="06_feature_dashboards")

# -- 06.1 ---------------------------------------------------------------------------------------------------------


def strongest_contexts(batches, k, left, right):
    """The library's streaming scan over one latent, as plain tuples."""
    stream, first = [], 0
    for tokens, acts in batches:
        stream.append(features.LatentBatch(tokens, acts[..., None], torch.ones_like(tokens, dtype=torch.bool), first))
        first += len(tokens)
    found = features.max_activating_examples(None, stream, k, left=left, right=right)[0]
    return [(e.value, e.sequence, e.position, list(e.tokens)) for e in found]


examples = lesson.exercise(
    1,
    title="The contexts a latent likes best",
    answer="max_activating_examples",
    reference=strongest_contexts,
    points=4,
    difficulty=3,
    importance=5,
    minutes=20,
    hints=(
        "Offer each sequence's strongest position as a candidate. Count sequences across batches, not within each batch.",
        "Sort the candidates by value. Walk down the list and skip one whose tokens up to its peak were there already.",
        "The window is `row[max(0, position - left) : position + right + 1]`; what counts as the same context is "
        "`row[max(0, position - left) : position + 1]`.",
    ),
)


def _stream(draw: Draw, sizes, context=9, vocabulary=50, high=5.0, density=0.4):
    """Batches of tokens and of one latent's activations, mostly zero, as a generator: it can be read once."""
    made = []
    for size in sizes:
        tokens = draw.integers(0, vocabulary, size, context)
        values = draw.rng.uniform(0, high, (size, context)) * (draw.rng.uniform(size=(size, context)) < density)
        made.append((tokens, draw.lend(values.astype(np.float32))))
    return (pair for pair in made)


def _told(found):
    return {
        "values": np.array([float(example[0]) for example in found]),
        "places": " ".join(f"({int(example[1])},{int(example[2])})" for example in found),
        "contexts": " | ".join(" ".join(str(int(t)) for t in example[3]) for example in found),
    }


_EXAMPLES = {"values": Close(), "*": Exact()}


@examples.case("the best five of eleven sequences in one batch", weight=2, rule=_EXAMPLES)
def _(f, draw):
    return _told(f(_stream(draw, [11]), 5, 2, 1))


@examples.case("a stream of three batches of unequal size", weight=2, rule=_EXAMPLES)
def _(f, draw):
    return _told(f(_stream(draw, [4, 6, 1]), 6, 3, 2))


@examples.case("a peak at the beginning or the end of a sequence", rule=_EXAMPLES)
def _(f, draw):
    acts = draw.rng.uniform(0, 1, (6, 8)).astype(np.float32)
    acts[[0, 1, 2], [0, 1, 7]] = [9, 8, 7]
    return _told(f(iter([(draw.integers(0, 50, 6, 8), draw.lend(acts))]), 3, 4, 3))


@examples.case("a context that occurs several times", weight=2, rule=_EXAMPLES)
def _(f, draw):
    tokens = draw.rng.integers(0, 50, (8, 7))
    acts = draw.rng.uniform(0, 1, (8, 7)).astype(np.float32)
    for row, value in ((1, 5.0), (4, 6.0), (6, 5.5)):  # the same words before the peak, other words after it
        tokens[row, 2:5] = [7, 8, 9]
        acts[row, 4] = value
    tokens[4, 5:] = tokens[1, 5:]  # for one of them the words after it too
    return _told(
        f(iter([(draw.lend(tokens[:5]), draw.lend(acts[:5])), (draw.lend(tokens[5:]), draw.lend(acts[5:]))]), 4, 2, 2)
    )


@examples.case("a latent that fires in fewer sequences than are asked for", rule=_EXAMPLES)
def _(f, draw):
    acts = np.zeros((6, 7), np.float32)
    acts[2, 3], acts[4, [1, 5]] = draw.rng.uniform(1, 2), draw.rng.uniform(1, 2, 2)
    return _told(f(iter([(draw.integers(0, 50, 6, 7), draw.lend(acts))]), 5, 2, 2))


def _examples_with(
    candidates=lambda row: [int(row.argmax())],
    window=lambda position, left, right: slice(max(0, position - left), position + right + 1),
    same=lambda row, position, left: tuple(row[max(0, position - left) : position + 1].tolist()),
    local=False,
    silent=False,
):
    def made(batches, k, left, right):
        found, first = [], 0
        for tokens, acts in batches:
            for i in range(len(tokens)):
                for position in candidates(acts[i]):
                    if silent or acts[i, position] > 0:
                        context = tokens[i][window(position, left, right)].tolist()
                        found.append(
                            (float(acts[i, position]), first + i, position, context, same(tokens[i], position, left))
                        )
            first += 0 if local else len(tokens)
        kept, seen = [], set()
        for *example, key in sorted(found, key=lambda example: -example[0]):
            if key is None or key not in seen:
                kept.append(tuple(example))
            seen.add(key)
        return kept[:k]

    return made


examples.mistake(
    "The window is one token short on the right: a slice stops before its end, so it must go to position + right + 1.",
    name="window_one_short",
)(_examples_with(window=lambda position, left, right: slice(max(0, position - left), position + right)))
examples.mistake(
    "The window is shifted by one token: the peak should have `left` tokens before it and `right` after it.",
    name="window_off_by_one",
)(_examples_with(window=lambda position, left, right: slice(max(0, position - left + 1), position + right + 2)))
examples.mistake(
    "Near the beginning of a sequence the window starts at a negative index, which Python counts from the end: clamp it at 0.",
    name="negative_start",
)(_examples_with(window=lambda position, left, right: slice(position - left, position + right + 1)))
examples.mistake(
    "A context that repeats in the corpus fills several places of the list; keep it once, with its highest value.",
    name="repeated_contexts",
)(_examples_with(same=lambda row, position, left: None))
examples.mistake(
    "Repeats are recognised by the whole window. What follows the peak cannot influence it: compare the tokens up to the peak.",
    name="compares_what_follows",
)(_examples_with(same=lambda row, position, left: tuple(row[max(0, position - left) : position + left + 1].tolist())))
examples.mistake(
    "Several positions of one sequence are listed; their windows overlap and show the same text again. Keep one a sequence.",
    name="several_per_sequence",
)(_examples_with(candidates=lambda row: range(len(row))))
examples.mistake(
    "Sequences are numbered within each batch. Over a stream, count on: the second batch begins where the first ended.",
    name="numbered_within_batch",
)(_examples_with(local=True))
examples.mistake(
    "Contexts in which the latent is 0 fill up the list: they are not activating examples.", name="silent_contexts"
)(_examples_with(silent=True))


@examples.mistake("The position is counted within the window. Give the peak's position in its *sequence*.")
def position_in_the_window(batches, k, left, right):
    return [(v, n, min(place, left), ids) for v, n, place, ids in strongest_contexts(batches, k, left, right)]


@examples.mistake(
    "The list is cut to k before repeats are taken out, so it comes out too short. Take repeats out first, then cut."
)
def cut_before_repeats(batches, k, left, right):
    kept, seen = [], set()
    for value, number, place, ids in _examples_with(same=lambda row, position, left: None)(batches, k, left, right):
        before = tuple(ids[: min(place, left) + 1])
        if before not in seen:
            kept.append((value, number, place, ids))
        seen.add(before)
    return kept


@examples.mistake("Of repeats the first in the stream is kept; keep the strongest.")
def keeps_first_repeat(batches, k, left, right):
    kept = {}
    every = _examples_with(same=lambda row, position, left: None)(batches, None, left, right)
    for example in sorted(every, key=lambda example: example[1]):
        kept.setdefault(tuple(example[3][: min(example[2], left) + 1]), example)
    return sorted(kept.values(), key=lambda example: -example[0])[:k]


examples.alternative(_examples_with(), name="sorted_at_the_end")

# -- 06.2 ---------------------------------------------------------------------------------------------------------


def density_of_stream(batches):
    """The library's count over a stream in which some positions do not count."""
    fired = features.activation_density(acts[counted] for acts, counted in batches)
    return torch.from_numpy(fired.density)


density = lesson.exercise(
    2,
    title="How often does a latent fire?",
    answer="activation_density",
    reference=density_of_stream,
    points=2,
    difficulty=2,
    importance=5,
    minutes=10,
    hints=(
        "Density: on which share of the tokens that count is the latent above zero?",
        "Batches differ in size. Add up two counts, firings and tokens, and divide once at the end.",
        "`fired += (acts[counted] > 0).sum(dim=0)` and `seen += counted.sum()`.",
    ),
)


def _counted_stream(draw: Draw, sizes, latents=6, bos=True):
    for i, size in enumerate(sizes):
        on = draw.rng.uniform(size=(size, 7, latents)) < np.linspace(0.05, 0.9, latents) * (1.0 if i else 0.3)
        acts = draw.rng.uniform(0.5, 3, on.shape) * on
        counted = np.ones((size, 7), dtype=bool)
        if bos:
            counted[:, 0] = False
            acts[:, 0] = 40.0
        yield draw.lend(acts.astype(np.float32)), draw.lend(counted)


@density.case("one batch in which every position counts", rule=Close(atol=1e-6))
def _(f, draw):
    return f(_counted_stream(draw, [9], bos=False))


@density.case("batches of unequal size", weight=2, rule=Close(atol=1e-6))
def _(f, draw):
    return f(_counted_stream(draw, [9, 8, 2], bos=False))


@density.case("positions that do not count, such as BOS", weight=2, rule=Close(atol=1e-6))
def _(f, draw):
    return f(_counted_stream(draw, [6, 6, 3]))


@density.mistake("Densities of batches are averaged: the tokens of a short last batch then weigh more than the others.")
def mean_over_batches(batches):
    return torch.stack([(acts[counted] > 0).float().mean(dim=0) for acts, counted in batches]).mean(dim=0)


@density.mistake("This is the mean activation. Density counts how often a latent is above zero, however strongly.")
def mean_activation(batches):
    return torch.cat([acts[counted] for acts, counted in batches]).mean(dim=0)


@density.mistake("Positions that do not count are counted: every latent that fires on BOS looks dense.")
def counts_everything(batches):
    return torch.cat([(acts > 0).flatten(0, 1) for acts, _ in batches]).float().mean(dim=0)


@density.mistake("Firings are counted where it counts, but divided by all positions, BOS included.")
def divided_by_all(batches):
    fired, seen = 0, 0
    for acts, counted in batches:
        fired, seen = fired + (acts[counted] > 0).sum(dim=0), seen + counted.numel()
    return fired / seen


@density.mistake("This is the share of *sequences* in which a latent fires somewhere; density is a share of tokens.")
def over_sequences(batches):
    on = torch.cat([((acts > 0) & counted[..., None]).any(dim=1) for acts, counted in batches])
    return on.float().mean(dim=0)


@density.mistake("This is a percentage; a density is a share between 0 and 1.")
def in_percent(batches):
    return 100 * density_of_stream(batches)


@density.mistake("Zero counts as firing: use a strict comparison.")
def zero_counts(batches):
    return torch.cat([(acts[counted] >= 0) for acts, counted in batches]).float().mean(dim=0)


@density.alternative
def with_numpy(batches):
    rows = np.concatenate([acts.numpy()[counted.numpy()] for acts, counted in batches])
    return np.count_nonzero(rows, axis=0) / len(rows)


# -- 06.3 ---------------------------------------------------------------------------------------------------------


def bands_of_firings(values, bands, per_band):
    """Firings ranked, cut into equal shares, and evenly spread members of each share."""
    order = torch.argsort(values, descending=True)
    order = order[values[order] > 0]
    size = len(order) // bands
    step = size // per_band
    return [order[b * size : (b + 1) * size : step][:per_band].tolist() for b in range(bands)]


quantiles = lesson.exercise(
    3,
    title="Examples from strong to weak",
    answer="examples_by_quantile",
    reference=bands_of_firings,
    points=2,
    difficulty=2,
    importance=5,
    minutes=10,
    hints=(
        "Leave out the tokens on which the latent is silent before ranking: most of them are.",
        "Sort the firings, strongest first, and cut the sorted list into `bands` pieces of equal length.",
        "From a piece of length m take every (m // per_band)-th member: `piece[:: m // per_band][:per_band]`.",
    ),
)


def _firings(draw: Draw, n: int, silent: int):
    values = np.concatenate([np.exp(draw.rng.normal(size=n)), np.zeros(silent)])
    return draw.lend(draw.rng.permutation(values).astype(np.float32))


def _bands(found, values) -> str:
    """Indices band by band; a token on which the latent is silent is called that, for which one it is does not matter."""
    return " | ".join(" ".join(str(int(i)) if values[int(i)] > 0 else "silent" for i in band) for band in found)


@quantiles.case("four bands of three, with many silent tokens", weight=2, rule=Exact())
def _(f, draw):
    values = _firings(draw, 24, 60)
    return _bands(f(values, 4, 3), values)


@quantiles.case("a latent that always fires", rule=Exact())
def _(f, draw):
    values = _firings(draw, 40, 0)
    return _bands(f(values, 5, 2), values)


@quantiles.case("bands with no member to spare", rule=Exact())
def _(f, draw):
    values = _firings(draw, 12, 30)
    return _bands(f(values, 3, 4), values)


@quantiles.case("firings that do not divide evenly", weight=2, rule=Exact())
def _(f, draw):
    values = _firings(draw, 31, 20)
    return _bands(f(values, 4, 3), values)


@quantiles.mistake("Silent tokens are ranked too, so most bands show text on which the latent is 0.")
def silent_ranked(values, bands, per_band):
    order = torch.argsort(values, descending=True, stable=True)
    size = len(order) // bands
    return [order[b * size : (b + 1) * size : size // per_band][:per_band].tolist() for b in range(bands)]


@quantiles.mistake("The *range* of values is cut into equal widths; nearly all firings then fall into the lowest band.")
def equal_widths(values, bands, per_band):
    edges = np.linspace(0, float(values.max()), bands + 1)[::-1]
    order = torch.argsort(values, descending=True)
    found = []
    for high, low in itertools.pairwise(edges):
        piece = [i for i in order.tolist() if low < float(values[i]) <= high]
        found.append(piece[:: max(1, len(piece) // per_band)][:per_band])
    return found


@quantiles.mistake(
    "The strongest members of each band are taken. Spread them evenly, or the band looks cleaner than it is."
)
def strongest_of_each(values, bands, per_band):
    order = torch.argsort(values, descending=True)
    order = order[values[order] > 0]
    size = len(order) // bands
    return [order[b * size : (b + 1) * size][:per_band].tolist() for b in range(bands)]


@quantiles.mistake("The firings are ranked from weak to strong: sort with `descending=True`.")
def ranked_upwards(values, bands, per_band):
    order = torch.argsort(values)
    order = order[values[order] > 0]
    size = len(order) // bands
    return [order[b * size : (b + 1) * size : size // per_band][:per_band].tolist() for b in range(bands)]


@quantiles.mistake(
    "The members are spread from a band's first to its last. Asked for is every (m // per_band)-th, beginning with the first."
)
def first_to_last(values, bands, per_band):
    order = torch.argsort(values, descending=True)
    size = int((values > 0).sum()) // bands
    steps = torch.linspace(0, size - 1, per_band).long()
    return [order[b * size : (b + 1) * size][steps].tolist() for b in range(bands)]


@quantiles.mistake("The weakest band comes first; the strongest should.")
def weakest_first(values, bands, per_band):
    return bands_of_firings(values, bands, per_band)[::-1]


@quantiles.mistake(
    "Where a band does not divide evenly it gives more than `per_band` members: cut the list with `[:per_band]`."
)
def more_than_per_band(values, bands, per_band):
    order = torch.argsort(values, descending=True)
    order = order[values[order] > 0]
    size = len(order) // bands
    return [order[b * size : (b + 1) * size : size // per_band].tolist() for b in range(bands)]


@quantiles.mistake(
    "The bands differ in size where the firings do not divide evenly. Equal length is asked: leave out the few weakest."
)
def unequal_bands(values, bands, per_band):
    order = torch.argsort(values, descending=True)
    pieces = order[values[order] > 0].tensor_split(bands)
    return [piece[:: len(piece) // per_band][:per_band].tolist() for piece in pieces]


@quantiles.mistake("Where the firings do not divide evenly the strongest are left out; leave out the few weakest.")
def strongest_left_out(values, bands, per_band):
    order = torch.argsort(values, descending=True)
    order = order[values[order] > 0]
    order, size = order[len(order) % bands :], len(order) // bands
    return [order[b * size : (b + 1) * size : size // per_band][:per_band].tolist() for b in range(bands)]


@quantiles.alternative
def with_a_reshape(values, bands, per_band):
    on = values.nonzero()[:, 0]
    ranked = on[values[on].argsort(descending=True)]
    table = ranked[: len(ranked) // bands * bands].reshape(bands, -1)
    return table[:, torch.arange(per_band) * (table.shape[1] // per_band)]


# -- 06.4 ---------------------------------------------------------------------------------------------------------


def promoted_and_suppressed(sae, latent, norm, W_U, k):
    """The library's logit effects through a given linear map for the final norm."""
    found = features.logit_effects(SimpleNamespace(W_U=W_U), sae, [latent], k, norm=features.FinalNorm(norm, True))
    return found.top_tokens[0], found.top_values[0], found.bottom_tokens[0], found.bottom_values[0]


logits = lesson.exercise(
    4,
    title="Which words does a latent promote?",
    answer="logit_effects",
    reference=promoted_and_suppressed,
    points=3,
    difficulty=2,
    importance=5,
    minutes=12,
    hints=(
        "What does a latent *write* into the residual stream? Which matrix holds that, and which row?",
        "Follow the direction: first the final norm (here a matrix), then the unembedding. "
        "Softmax ignores a common shift: subtract the mean.",
        "`effects = sae.W_dec[latent] @ norm @ W_U`, minus its mean; then `topk(k)` and `topk(k, largest=False)`.",
    ),
)


def _reader(draw: Draw, d=6, d_sae=10, vocabulary=30):
    sae = SimpleNamespace(W_enc=draw.normal(d, d_sae), W_dec=draw.normal(d_sae, d))
    return sae, draw.normal(d, d), draw.lend((draw.rng.normal(size=(d, vocabulary)) + 1.0).astype(np.float32))


def _ids(tokens) -> str:
    return " ".join(str(int(t)) for t in tokens)


@logits.case("the tokens a latent raises and lowers most", weight=2, rule=Exact())
def _(f, draw):
    sae, norm, W_U = _reader(draw)
    top, _, bottom, _ = f(sae, 3, norm, W_U, 5)
    return {"raised": _ids(top), "lowered": _ids(bottom)}


@logits.case("by how much")
def _(f, draw):
    sae, norm, W_U = _reader(draw)
    _, top, _, bottom = f(sae, 4, norm, W_U, 4)
    return {"raised": top, "lowered": bottom}


@logits.case("as many latents as dimensions", weight=1)
def _(f, draw):
    sae, norm, W_U = _reader(draw, d=8, d_sae=8, vocabulary=40)
    top_tokens, top, bottom_tokens, bottom = f(sae, 5, norm, W_U, 3)
    return {"raised": top, "lowered": bottom, "tokens": _ids(top_tokens) + " / " + _ids(bottom_tokens)}


def _logits_with(
    direction=lambda sae, i: sae.W_dec[i], through=lambda v, norm, W_U: v @ norm @ W_U, centre=True, lowest=None
):
    def made(sae, latent, norm, W_U, k):
        effects = through(direction(sae, latent), norm, W_U)
        effects = effects - effects.mean() if centre else effects
        top = effects.topk(k)
        bottom = lowest(effects, k) if lowest else effects.topk(k, largest=False).indices
        return top.indices, top.values, bottom, effects[bottom]

    return made


logits.mistake(
    "The encoder's column is followed: it says what the latent reads. What it writes is its row of the decoder.",
    name="through_the_encoder",
)(_logits_with(direction=lambda sae, i: sae.W_enc[:, i]))
logits.mistake(
    "The decoder row is divided by its length first. `W_dec` holds what the latent writes per unit of activation: take it as it is.",
    name="row_normalised",
)(_logits_with(direction=lambda sae, i: sae.W_dec[i] / sae.W_dec[i].norm()))
logits.mistake("The final norm is left out: the direction goes straight into the unembedding.", name="norm_left_out")(
    _logits_with(through=lambda v, norm, W_U: v @ W_U)
)
logits.mistake(
    "The norm's matrix is applied from the wrong side (`norm @ direction`): directions are rows here.",
    name="norm_transposed",
)(_logits_with(through=lambda v, norm, W_U: v @ norm.T @ W_U))
logits.mistake(
    "The mean over the vocabulary is not removed; a shift shared by all tokens changes no probability.",
    name="not_centred",
)(_logits_with(centre=False))
logits.mistake(
    "For the lowered tokens the *smallest* effects in absolute value are taken; take the most negative ones.",
    name="smallest_not_lowest",
)(_logits_with(lowest=lambda effects, k: effects.abs().topk(k, largest=False).indices))
logits.mistake("The lowered tokens should start with the one that is lowered most.", name="least_lowered_first")(
    _logits_with(lowest=lambda effects, k: effects.topk(k, largest=False).indices.flip(0))
)


@logits.alternative
def by_sorting(sae, latent, norm, W_U, k):
    effects = (sae.W_dec @ (norm @ (W_U - W_U.mean(dim=1, keepdim=True))))[latent]
    order = effects.argsort()
    return order.flip(0)[:k].tolist(), effects[order.flip(0)[:k]], order[:k].tolist(), effects[order[:k]]


# -- 06.5 ---------------------------------------------------------------------------------------------------------


def shaded_tokens(tokens, acts, maximum):
    """One span a token: escaped text, background by activation, value in the tooltip."""
    spans = []
    for token, act in zip(tokens, acts, strict=True):
        alpha = min(max(float(act) / maximum, 0.0), 1.0) if maximum > 0 else 0.0
        text = html.escape(token.replace("\n", "↵"))
        spans.append(f'<span style="background:rgba(230,159,0,{alpha:.3f})" title="{float(act):.2f}">{text}</span>')
    return "".join(spans)


heatmap = lesson.exercise(
    5,
    title="Shade the tokens, and escape them",
    answer="token_heatmap_html",
    reference=shaded_tokens,
    points=2,
    difficulty=2,
    importance=3,
    minutes=12,
    hints=(
        "A token may be `<s>` or `</script>`. In HTML, `<`, `>`, `&` and quotes must be written another way.",
        "`html.escape(token)` does that. The share of the colour is the activation over `maximum`, between 0 and 1.",
        '`f\'<span style="background:rgba(230,159,0,{alpha:.3f})" title="{act:.2f}">{text}</span>\'`, joined with nothing between.',
    ),
)


class _Page(HTMLParser):
    """What a browser would see: elements in order, and the text inside them."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.spans: list[list] = []
        self.text, self.titles, self.headings, self._open = "", "", "", ""
        self.declared = ""
        self.feed(str(source))
        self.close()

    def handle_starttag(self, tag, attrs):
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        self._open = tag
        if tag == "span":
            self.spans.append([found, ""])

    def handle_endtag(self, tag):
        self._open = ""

    def handle_decl(self, decl):
        self.declared = decl.lower()

    def handle_data(self, data):
        if self._open == "style":
            return
        self.text += data
        if self._open == "span":
            self.spans[-1][1] += data
        if self._open == "title":
            self.titles += data
        if self._open in ("h1", "h2"):
            self.headings += data


def _alpha(style: str) -> float:
    found = re.search(r"rgba?\(\s*230\s*,\s*159\s*,\s*0\s*,\s*([0-9.eE+-]+)\s*\)", style)
    return float(found.group(1)) if found else -1.0


def _spans(source: str):
    page = _Page(source)
    return {
        "words": "·".join(text for _, text in page.spans),
        "alpha": np.array([_alpha(attributes.get("style", "")) for attributes, _ in page.spans]),
        "values": " ".join(attributes.get("title", "") for attributes, _ in page.spans),
        "between the spans": page.text.replace("".join(text for _, text in page.spans), "", 1)
        if page.spans
        else page.text,
        "elements": " ".join(sorted({tag for tag, _ in page.elements})),
    }


_HOSTILE = [" the", "</script>", "<s>", " a&b", '"quoted"', "<img src=x onerror=alert(1)>", " &lt;", "שלום", "🙂"]
_SPANS = {"alpha": Close(rtol=0, atol=2e-3), "*": Exact()}


@heatmap.case("ordinary words", weight=2, rule=_SPANS)
def _(f, draw):
    acts = draw.uniform(6, high=8.0)
    return _spans(f([" the", " house", " by", " the", " river", "."], acts.tolist(), float(acts.max())))


@heatmap.case("one scale for several texts", rule=_SPANS)
def _(f, draw):
    acts = draw.uniform(4, low=0.5, high=4.0)
    return _spans(f([" a", " b", " c", " d"], acts.tolist(), float(draw.rng.uniform(6, 9))))


@heatmap.case("tokens that look like HTML", weight=2, rule=_SPANS)
def _(f, draw):
    words = [_HOSTILE[i] for i in draw.rng.permutation(len(_HOSTILE))]
    return _spans(f(words, draw.uniform(len(words), high=3.0).tolist(), 3.0))


@heatmap.case("line ends become visible", rule=_SPANS)
def _(f, draw):
    return _spans(f(["end", ".\n", "\n\n", "New"], draw.uniform(4, high=2.0).tolist(), 2.0))


@heatmap.case("a value above the maximum or below zero, and a maximum of zero", rule=Close(rtol=0, atol=2e-3))
def _(f, draw):
    above = f([" x", " y"], [float(draw.rng.uniform(5, 9)), 1.0], 4.0)
    return {
        "above": _spans(above)["alpha"],
        "below": _spans(f([" x"], [-1.0], 4.0))["alpha"],
        "zero": _spans(f([" x", " y"], [0.0, 0.0], 0.0))["alpha"],
    }


def _heatmap_with(text=lambda token: html.escape(token.replace("\n", "↵")), share=None):
    share = share or (lambda act, acts, top: min(max(act / top, 0.0), 1.0) if top > 0 else 0.0)

    def made(tokens, acts, maximum):
        return "".join(
            f'<span style="background:rgba(230,159,0,{share(act, acts, maximum):.3f})" title="{act:.2f}">{text(token)}</span>'
            for token, act in zip(tokens, acts)
        )

    return made


heatmap.mistake(
    "Tokens are put into the page as they are: `<s>` vanishes, and `</script>` or `<img onerror=...>` would act. Escape them.",
    name="not_escaped",
)(_heatmap_with(text=lambda token: token.replace("\n", "↵")))
heatmap.mistake(
    "Each text is scaled by its own largest value, so a weak example looks as strong as a strong one: use `maximum`.",
    name="own_scale",
)(_heatmap_with(share=lambda act, acts, top: act / max(acts) if max(acts) > 0 else 0.0))
heatmap.mistake(
    "Spaces at the ends of tokens are stripped: ` the` and `the` are different tokens.", name="spaces_stripped"
)(_heatmap_with(text=lambda token: html.escape(token.replace("\n", "↵").strip())))
heatmap.mistake(
    "A line end is invisible on the page, and latents love line ends: show it as ↵.", name="line_ends_hidden"
)(_heatmap_with(text=html.escape))
heatmap.mistake(
    "There is something between the spans. Tokens carry their own spaces: join with nothing, or words get gaps that the text has not.",
    name="joined_with_spaces",
)(lambda tokens, acts, maximum: " ".join(shaded_tokens([t], [a], maximum) for t, a in zip(tokens, acts)))
heatmap.mistake(
    "A value above `maximum` gives a share above 1: keep it between 0 and 1.",
    name="not_kept_below_one",
)(_heatmap_with(share=lambda act, acts, top: act / top if top > 0 else 0.0))
heatmap.mistake(
    "A value below 0 gives a negative share: keep it between 0 and 1.",
    name="not_kept_above_zero",
)(_heatmap_with(share=lambda act, acts, top: min(act / top, 1.0) if top > 0 else 0.0))
heatmap.mistake("A maximum of zero divides by zero: a latent that is silent has no colour.", name="divides_by_zero")(
    _heatmap_with(share=lambda act, acts, top: min(act / top, 1.0))
)
heatmap.mistake("Values are shifted by one token: each token should carry its own activation.", name="off_by_one")(
    lambda tokens, acts, maximum: shaded_tokens(tokens, [0.0, *list(acts)[:-1]], maximum)
)


@heatmap.alternative
def with_replace(tokens, acts, maximum):
    page = ""
    for token, act in zip(tokens, acts):
        for raw, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\n", "&#8629;")):
            token = token.replace(raw, safe)
        strength = 0 if maximum == 0 else float(np.clip(act / maximum, 0, 1))
        page += f"<span title='{act:.2f}' style='padding:1px;background: rgba(230, 159, 0, {strength})'>{token}</span>"
    return page


# -- 06.6 ---------------------------------------------------------------------------------------------------------


def strongest_rows(acts, k):
    """The k strongest latents of one text, in the order in which they peak; BOS set to zero."""
    acts = acts.clone()
    acts[0] = 0
    peak, place = acts.max(dim=0)
    best = peak.topk(k).indices.tolist()
    chosen = sorted(best, key=lambda i: (int(place[i]), -float(peak[i])))
    return chosen, acts[:, chosen].T


sentence = lesson.exercise(
    6,
    title="A sentence against its latents",
    answer="sentence_heatmap",
    reference=strongest_rows,
    points=2,
    difficulty=2,
    importance=4,
    minutes=10,
    hints=(
        "BOS (position 0) excites latents that say nothing about the text. Set its row to zero, on a copy.",
        "Strength of a latent: its largest activation over the tokens. Take the k strongest, then "
        "sort them by where that largest value stands.",
        "`peak, place = acts.max(dim=0)`; `sorted(peak.topk(k).indices.tolist(), key=lambda i: (int(place[i]), -float(peak[i])))`.",
    ),
)


def _sentence(draw: Draw, tokens=8, latents=20):
    acts = draw.rng.uniform(0, 4, (tokens, latents)) * (draw.rng.uniform(size=(tokens, latents)) < 0.3)
    acts[0] = draw.rng.uniform(0, 60, latents) * (draw.rng.uniform(size=latents) < 0.5)
    return draw.lend(acts.astype(np.float32))


@sentence.case("which latents, in which order", weight=2, rule=Exact())
def _(f, draw):
    return _ids(f(_sentence(draw), 6)[0])


@sentence.case("the table [latents, tokens]", weight=2)
def _(f, draw):
    return f(_sentence(draw, tokens=9, latents=24), 5)[1]


@sentence.case("a latent that fires weakly on every token, and one that fires once", rule=Exact())
def _(f, draw):
    acts = draw.rng.uniform(1.0, 2.0, (10, 5))
    acts[:, 2:] = 0
    acts[[4, 7], [2, 3]] = draw.rng.uniform(3, 5, 2)
    return _ids(f(draw.lend(acts.astype(np.float32)), 2)[0])


def _sentence_with(strength=lambda a: a.amax(dim=0), bos=False, by_place=True, transpose=False):
    def made(acts, k):
        acts = acts.clone()
        if not bos:
            acts[0] = 0
        peak, place = acts.max(dim=0)
        best = strength(acts).topk(k).indices.tolist()
        if by_place:
            best = sorted(best, key=lambda i: (int(place[i]), -float(peak[i])))
        return best, acts[:, best] if transpose else acts[:, best].T

    return made


sentence.mistake(
    "BOS counts: latents that fire on it are listed although they say nothing about the sentence.", name="bos_counts"
)(_sentence_with(bos=True))
sentence.mistake(
    "Latents are ranked by their mean; one that fires strongly on a single word, the interesting kind, is then lost.",
    name="ranked_by_mean",
)(_sentence_with(strength=lambda a: a.mean(dim=0)))
sentence.mistake(
    "The right latents, but sorted by strength: sort them by where they peak, so that the picture reads left to right.",
    name="sorted_by_strength",
)(_sentence_with(by_place=False))
sentence.mistake("The table is transposed: latents are rows, tokens columns.", name="transposed")(
    _sentence_with(transpose=True)
)


@sentence.mistake(
    "Position 0 is cut off, so column t of the table belongs to token t + 1; set BOS to zero and keep its column."
)
def off_by_one_token(acts, k):
    chosen, table = strongest_rows(acts, k)
    return chosen, table[:, 1:]


@sentence.alternative
def with_lexsort(acts, k):
    body = acts.numpy().copy()
    body[0] = 0
    best = np.argsort(-body.max(axis=0))[:k]
    best = best[np.lexsort((-body.max(axis=0)[best], body.argmax(axis=0)[best]))]
    return best.tolist(), body.T[best]


# -- 06.7 ---------------------------------------------------------------------------------------------------------


def best_latents(positive, negative, k, method):
    """The library's AUC by ranks, or the difference of means."""
    if method == "auc":
        score = torch.from_numpy(features.find_latents_for_concept(positive, negative, 1).auc)
    else:
        score = (positive.mean(dim=0) - negative.mean(dim=0)).double()
    best = score.argsort(descending=True, stable=True)[:k]
    return best.tolist(), score[best]


concept = lesson.exercise(
    7,
    title="Find the latents of a concept",
    answer="find_latents_for_concept",
    reference=best_latents,
    points=3,
    difficulty=3,
    importance=5,
    minutes=15,
    hints=(
        "Contrast: mean over texts with the concept minus mean over texts without. AUC: in which "
        "share of pairs does the text with the concept score higher?",
        "Compare each positive text with each negative one, for all latents at once; a tie (often 0 against 0) counts half.",
        "`gap = positive[:, None] - negative[None]`, then `((gap > 0).double() + 0.5 * (gap == 0)).mean(dim=(0, 1))`.",
    ),
)


def _pooled(draw: Draw, n: int, m: int, latents=12):
    rate = draw.rng.uniform(0.1, 0.9, (2, latents))
    rate[:, :3] = [[0.9, 0.8, 0.7], [0.1, 0.2, 0.2]]
    size = draw.rng.uniform(0.3, 6, latents)

    def made(rows, p):
        return draw.lend(
            (draw.rng.uniform(0.5, 1.5, (rows, latents)) * size * (draw.rng.uniform(size=(rows, latents)) < p)).astype(
                np.float32
            )
        )

    return made(n, rate[0]), made(m, rate[1])


def _by_latent(found):
    latents, scores = found
    table = {int(latent): float(score) for latent, score in zip(latents, scores, strict=True)}
    return np.array([table[latent] for latent in sorted(table)])


@concept.case("the AUC of every latent", weight=2, rule=Close(atol=1e-6))
def _(f, draw):
    return _by_latent(f(*_pooled(draw, 15, 22), 12, "auc"))


@concept.case("the contrast of every latent", rule=Close(atol=1e-5))
def _(f, draw):
    return _by_latent(f(*_pooled(draw, 15, 22), 12, "contrast"))


@concept.case("the three largest contrasts, largest first", rule={"latents": Exact(), "scores": Close(atol=1e-5)})
def _(f, draw):
    latents, scores = f(*_pooled(draw, 15, 22), 3, "contrast")
    return {"latents": _ids(latents), "scores": scores}


@concept.case("the best three latents, best first", weight=2)
def _(f, draw):
    positive, negative = draw.rng.uniform(0, 1, (20, 9)), draw.rng.uniform(0, 1, (30, 9))
    order = draw.rng.permutation(9)
    negative[:, order[0]] *= 0.01  # rank 1: nearly perfect; then two that overlap more and more
    positive[:, order[1]] = 0.3 + 0.7 * positive[:, order[1]]
    negative[:, order[1]] *= 0.5
    positive[:, order[2]] *= 0.001  # silent on the concept
    latents, scores = f(draw.lend(positive.astype(np.float32)), draw.lend(negative.astype(np.float32)), 3, "auc")
    return {"two best": _ids(list(latents)[:2]), "scores": scores}


def _concept_with(auc=None, contrast=lambda p, n: p.mean(0) - n.mean(0), lowest_first=()):
    auc = auc or (lambda p, n: ((p[:, None] > n[None]).double() + 0.5 * (p[:, None] == n[None])).mean(dim=(0, 1)))

    def made(positive, negative, k, method):
        score = (auc if method == "auc" else contrast)(positive, negative)
        best = score.argsort(descending=method not in lowest_first)[:k]
        return best.tolist(), score[best]

    return made


concept.mistake(
    "Ties count as nothing: a sparse latent is 0 on most texts, and 0 against 0 should count half.", name="ties_lose"
)(_concept_with(auc=lambda p, n: (p[:, None] > n[None]).double().mean(dim=(0, 1))))
concept.mistake("Ties count as wins: a latent that never fires would get AUC 1.", name="ties_win")(
    _concept_with(auc=lambda p, n: (p[:, None] >= n[None]).double().mean(dim=(0, 1)))
)
concept.mistake(
    "A latent that is *silent* on the concept is taken for one that finds it (AUC below 0.5 turned round).",
    name="either_direction",
)(
    _concept_with(
        auc=lambda p, n: (
            0.5 + (((p[:, None] > n[None]).double() + 0.5 * (p[:, None] == n[None])).mean(dim=(0, 1)) - 0.5).abs()
        )
    )
)
concept.mistake(
    '`method` is ignored: with "auc" the ranking must be by AUC, not by the difference of means, which favours loud latents.',
    name="contrast_always",
)(_concept_with(auc=lambda p, n: p.mean(0) - n.mean(0)))
concept.mistake(
    'With "contrast" the latents with the smallest difference come first; take the largest, as for "auc".',
    name="lowest_contrasts",
)(_concept_with(lowest_first=("contrast",)))
concept.mistake("Positive and negative texts are exchanged.", name="exchanged")(
    lambda positive, negative, k, method: best_latents(negative, positive, k, method)
)
concept.mistake(
    "This is the share of positive texts on which a latent fires; a latent that always fires gets 1.",
    name="recall_only",
)(_concept_with(auc=lambda p, n: (p > 0).double().mean(dim=0)))


@concept.alternative
def with_ranks(positive, negative, k, method):
    from sklearn.metrics import roc_auc_score

    both, labels = torch.cat([positive, negative]).numpy(), [1] * len(positive) + [0] * len(negative)
    if method == "auc":
        score = np.array([roc_auc_score(labels, both[:, j]) for j in range(both.shape[1])])
    else:
        score = positive.numpy().mean(0) - negative.numpy().mean(0)
    best = np.argsort(-score)[:k]
    return best, score[best]


# -- 06.8 ---------------------------------------------------------------------------------------------------------


def score_rule(rule, texts, fires, written_from, rng):
    """Balanced accuracy of a rule on the texts it was not written from, and the 97.5% point of shuffled labels."""
    seen = set(written_from)
    kept = [i for i, text in enumerate(texts) if text not in seen]
    labels, said = np.asarray(fires, bool)[kept], np.array([bool(rule(texts[i])) for i in kept])
    # how many of the firing texts get a yes after a shuffle is hypergeometric: so many draws cost next to nothing, and in a
    # comparison only the 500 shuffles of the answer scatter
    hits = rng.hypergeometric(said.sum(), (~said).sum(), labels.sum(), size=20_000)
    shuffled = (hits / labels.sum() + 1 - (said.sum() - hits) / (~labels).sum()) / 2
    return features.balanced_accuracy(labels, said), float(np.quantile(shuffled, 0.975))


scoring = lesson.exercise(
    8,
    title="An explanation is a prediction",
    answer="score_explanation",
    reference=score_rule,
    points=4,
    difficulty=3,
    importance=5,
    minutes=20,
    hints=(
        "First leave out every text that is in `written_from`. Then compare the rule's yes and no with whether the latent fires.",
        "Balanced accuracy: the mean of (share of firing texts called firing) and (share of silent texts called silent).",
        "For the baseline shuffle the labels 500 times with `rng.permutation`, score each time, and take `np.quantile(scores, 0.975)`.",
    ),
)

_FILLERS = (
    "the",
    "a",
    "of",
    "and",
    "to",
    "was",
    "with",
    "from",
    "over",
    "under",
    "near",
    "some",
    "every",
    "old",
    "new",
    "green",
)


def _river_texts(draw: Draw, n: int, rate: float, hit=0.85, false=0.15):
    """Texts, whether a latent fires in each, and a rule ("mentions river") that is often right."""
    fires = draw.rng.uniform(size=n) < rate
    fires[:6] = [True, True, True, False, False, False]
    texts = []
    for i, on in enumerate(fires):
        words = [_FILLERS[j] for j in draw.rng.integers(0, len(_FILLERS), 5)] + [f"n{i}"]
        if draw.rng.uniform() < (hit if on else false):
            words[2] = "river"
        texts.append(" ".join(words))
    return texts, fires


def _says_river(text: str) -> bool:
    return "river" in text.split()


# the mean over the twelve sets scatters by 0.002 (one standard deviation); the 95% point lies 0.011 lower, the 99% point 0.012 higher
_CHANCE = Close(rtol=0, atol=0.0062)


@scoring.case("balanced accuracy on texts that are half firing", rule=Close(atol=1e-6))
def _(f, draw):
    texts, fires = _river_texts(draw, 60, 0.5)
    return float(f(_says_river, texts, fires, [], draw.rng)[0])


@scoring.case("balanced accuracy of a rare latent", weight=2, rule=Close(atol=1e-6))
def _(f, draw):
    texts, fires = _river_texts(draw, 90, 0.15)
    return float(f(_says_river, texts, fires, [], draw.rng)[0])


@scoring.case("texts the explanation was written from do not count", weight=2, rule=Close(atol=1e-6))
def _(f, draw):
    texts, fires = _river_texts(draw, 60, 0.4)
    seen = [text for text, on in zip(texts, fires) if on and _says_river(text)][:9]
    return float(f(_says_river, texts, fires, seen, draw.rng)[0])


@scoring.case("what shuffled labels reach, a mean over twelve sets of texts", weight=2, rule=_CHANCE)
def _(f, draw):
    sets = [_river_texts(draw, 200, rate) for rate in np.linspace(0.35, 0.65, 12)]
    return float(np.mean([f(_says_river, texts, fires, [], draw.rng)[1] for texts, fires in sets]))


@scoring.case("the shuffles come from `rng`", rule=Exact())
def _(f, draw):
    texts, fires = _river_texts(draw, 30, 0.5)
    start = str(draw.rng.bit_generator.state)
    f(_says_river, texts, fires, [], draw.rng)
    return {"drawn from": "elsewhere" if start == str(draw.rng.bit_generator.state) else "rng"}


@scoring.case("a rule that always says yes", rule=Close(atol=1e-6))
def _(f, draw):
    texts, fires = _river_texts(draw, 40, 0.3)
    score, chance = f(lambda text: True, texts, fires, [], draw.rng)
    return {"score": float(score), "chance": float(chance)}


def _balanced(fires, said):
    return (said[fires].mean() + (~said[~fires]).mean()) / 2


def _scoring_with(
    measure=_balanced,
    leave_out=True,
    baseline=lambda scores: np.quantile(scores, 0.975),
    keep_seen=False,
    source=lambda rng: rng,
):
    def made(rule, texts, fires, written_from, rng):
        kept = [i for i, text in enumerate(texts) if not leave_out or text not in written_from]
        if keep_seen and written_from:
            kept = [i for i, text in enumerate(texts) if text in written_from or not fires[i]]
        labels = np.asarray(fires, bool)[kept]
        said = np.array([bool(rule(texts[i])) for i in kept])
        rng = source(rng)
        return measure(labels, said), baseline([measure(rng.permutation(labels), said) for _ in range(500)])

    return made


scoring.mistake(
    "The score includes texts the explanation was written from: of course it fits those.",
    name="scored_on_its_own_texts",
)(_scoring_with(leave_out=False))
scoring.mistake(
    'This is plain accuracy: for a rare latent, "never" would score high. Average the two classes\' shares.',
    name="plain_accuracy",
)(_scoring_with(measure=lambda fires, said: (fires == said).mean()))
scoring.mistake(
    "Only the firing texts are looked at: a rule that always says yes would be perfect.", name="sensitivity_only"
)(_scoring_with(measure=lambda fires, said: said[fires].mean()))
scoring.mistake(
    "The baseline is the mean over shuffles, which is 0.5 for every rule; half of all useless rules beat it. Take the 97.5% point.",
    name="mean_of_shuffles",
)(_scoring_with(baseline=np.mean))
scoring.mistake(
    "The baseline is the largest of all shuffles: it grows with their number. Take the 97.5% point.",
    name="largest_shuffle",
)(_scoring_with(baseline=np.max))
scoring.mistake(
    "The baseline is the 95% point, which 5% of all useless rules exceed. Take the 97.5% point: `np.quantile(scores, 0.975)`.",
    name="point_95",
)(_scoring_with(baseline=lambda scores: np.quantile(scores, 0.95)))
scoring.mistake(
    "The shuffles do not come from `rng` but from a generator of your own: whoever calls can no longer choose the seed.",
    name="rng_ignored",
)(_scoring_with(source=lambda rng: np.random.default_rng(0)))
scoring.mistake(
    "Of the firing texts only those in `written_from` are kept; it is the other way round: they are the ones to leave out.",
    name="kept_the_wrong_ones",
)(_scoring_with(keep_seen=True))


@scoring.alternative
def with_sklearn(rule, texts, fires, written_from, rng):
    from sklearn.metrics import balanced_accuracy_score

    pairs = [(bool(on), bool(rule(text))) for text, on in zip(texts, fires) if text not in written_from]
    labels, said = (np.array(column) for column in zip(*pairs))
    hits = [rng.permutation(said) for _ in range(800)]
    chance = sorted((h[labels].mean() + 1 - h[~labels].mean()) / 2 for h in hits)
    return balanced_accuracy_score(labels, said), chance[int(0.975 * len(chance))]


# -- 06.9 ---------------------------------------------------------------------------------------------------------


def encode_file(cfg, weights, x):
    """Encode with the contents of a SAELens folder: standard, topk or jumprelu."""
    weights = {name: tensor.float() for name, tensor in weights.items()}
    x = x.float() - weights["b_dec"] if cfg["apply_b_dec_to_input"] else x.float()
    z = (x @ weights["W_enc"] + weights["b_enc"]).relu()
    if cfg["architecture"] == "topk":
        best = z.topk(cfg["k"], dim=-1)
        return torch.zeros_like(z).scatter(-1, best.indices, best.values)
    if cfg["architecture"] == "jumprelu":
        return z * (z > weights["threshold"])
    return z


saelens = lesson.exercise(
    9,
    title="Encode with the weights of a SAELens file",
    answer="encode_from_file",
    reference=encode_file,
    points=3,
    difficulty=3,
    importance=4,
    minutes=15,
    hints=(
        "Stored numbers are often float16: convert weights and input to float32 before you multiply.",
        "All three kinds begin with ReLU((x - b_dec) W_enc + b_enc); b_dec is subtracted only if "
        "the configuration says so. What comes after the ReLU differs.",
        "topk: keep each row's k largest, zero the rest (`scatter`). jumprelu: `z * (z > threshold)`. standard: nothing more.",
    ),
)


def _file(draw: Draw, kind: str, apply: bool, d=16, d_sae=40):
    weights = {
        "W_enc": draw.normal(d, d_sae),
        "b_enc": draw.normal(d_sae, std=0.5),
        "W_dec": draw.normal(d_sae, d),
        "b_dec": draw.normal(d, mean=1.0),
    }
    if kind == "jumprelu":
        weights["threshold"] = draw.uniform(d_sae, low=0.5, high=3.0)
    weights = {name: tensor.half() for name, tensor in weights.items()}
    return {"architecture": kind, "apply_b_dec_to_input": apply, "k": 5, "d_in": d, "d_sae": d_sae}, weights


_PRECISE = Close(rtol=1e-4, atol=1e-4)


@saelens.case("standard", rule=_PRECISE)
def _(f, draw):
    return f(*_file(draw, "standard", True), draw.normal(6, 16))


@saelens.case("standard, with b_dec not subtracted", rule=_PRECISE)
def _(f, draw):
    return f(*_file(draw, "standard", False), draw.normal(6, 16))


@saelens.case("topk, on sequences [batch, positions, d_in]", weight=2, rule=_PRECISE)
def _(f, draw):
    return f(*_file(draw, "topk", True), draw.normal(3, 4, 16))


@saelens.case("topk where fewer than k latents are positive", rule=_PRECISE)
def _(f, draw):
    cfg, weights = _file(draw, "topk", True)
    weights["b_enc"] = weights["b_enc"] - 9.0
    return f(cfg, weights, draw.normal(6, 16))


@saelens.case("jumprelu", weight=2, rule=_PRECISE)
def _(f, draw):
    return f(*_file(draw, "jumprelu", False), draw.normal(6, 16))


def _encode_with(centre=lambda cfg: cfg["apply_b_dec_to_input"], number=torch.float32, top="row", jump=None):
    jump = jump or (lambda z, threshold: z * (z > threshold))

    def made(cfg, weights, x):
        w = {name: tensor.to(number) for name, tensor in weights.items()}
        x = x.to(number)
        pre = (x - w["b_dec"] if centre(cfg) else x) @ w["W_enc"] + w["b_enc"]
        z = pre.relu()
        if cfg["architecture"] == "topk":
            if top == "batch":
                rows = z[..., 0].numel()
                return z * (z >= z.flatten().topk(rows * cfg["k"]).values[-1])
            if top == "absolute":
                best = pre.abs().topk(cfg["k"], dim=-1).indices
                return torch.zeros_like(pre).scatter(-1, best, pre.gather(-1, best))
            if top == "signed":
                best = pre.topk(cfg["k"], dim=-1)
                return torch.zeros_like(pre).scatter(-1, best.indices, best.values)
            if top == "none":
                return z
            best = z.topk(cfg["k"], dim=-1)
            return torch.zeros_like(z).scatter(-1, best.indices, best.values)
        if cfg["architecture"] == "jumprelu":
            return jump(z, w["threshold"])
        return z

    return made


saelens.mistake(
    "b_dec is always subtracted; the file says whether it was in training (`apply_b_dec_to_input`).",
    name="always_centred",
)(_encode_with(centre=lambda cfg: True))
saelens.mistake(
    "b_dec is never subtracted; the file says whether it was in training (`apply_b_dec_to_input`).",
    name="never_centred",
)(_encode_with(centre=lambda cfg: False))
saelens.mistake(
    "The arithmetic is done in float16, three digits: near-ties in the top k then go another way. Convert to float32 first.",
    name="half_precision",
)(_encode_with(number=torch.float16))
saelens.mistake(
    "The top k are taken over the whole batch; a token's latents would depend on its neighbours.",
    name="topk_over_batch",
)(_encode_with(top="batch"))
saelens.mistake(
    "The top k are chosen by absolute value, so strongly negative pre-activations come through.",
    name="topk_by_absolute",
)(_encode_with(top="absolute"))
saelens.mistake(
    "The ReLU is missing for topk: where fewer than k are positive, negative values come through.",
    name="topk_without_relu",
)(_encode_with(top="signed"))
saelens.mistake("For topk the k is ignored: this is a plain ReLU.", name="k_ignored")(_encode_with(top="none"))
saelens.mistake(
    "The threshold is subtracted. JumpReLU jumps: above the threshold the value itself passes.",
    name="threshold_subtracted",
)(_encode_with(jump=lambda z, threshold: (z - threshold).relu()))
saelens.mistake("The threshold is ignored: this is a plain ReLU.", name="threshold_ignored")(
    _encode_with(jump=lambda z, threshold: z)
)


@saelens.alternative
def with_einsum(cfg, weights, x):
    W, b = weights["W_enc"].double(), weights["b_enc"].double()
    centred = x.double() - (weights["b_dec"].double() if cfg["apply_b_dec_to_input"] else 0)
    pre = torch.einsum("...d,ds->...s", centred, W) + b
    if cfg["architecture"] == "topk":
        least = pre.sort(dim=-1, descending=True).values[..., cfg["k"] - 1 : cfg["k"]]
        pre = torch.where(pre >= least, pre, 0.0)
    if cfg["architecture"] == "jumprelu":
        pre = torch.where(pre > weights["threshold"].double(), pre, 0.0)
    return pre.clamp(min=0)


# -- 06.10 --------------------------------------------------------------------------------------------------------


def share_by_token(train_tokens, train_acts, test_tokens, test_acts):
    """1 - squared error / variance on the test part, with token means from the training part."""
    overall = float(train_acts.mean())
    means = {int(t): float(train_acts[train_tokens == t].mean()) for t in train_tokens.unique()}
    guess = torch.tensor([means.get(int(t), overall) for t in test_tokens])
    return float(1 - (test_acts - guess).square().sum() / (test_acts - test_acts.mean()).square().sum())


share = lesson.exercise(
    10,
    title="How much of a latent is only the current token?",
    answer="token_only_share",
    reference=share_by_token,
    points=3,
    difficulty=3,
    importance=4,
    minutes=15,
    hints=(
        "The best prediction from the token alone is the latent's mean activation on that token. On which half do you take the means?",
        "Means come from the training part, the score from the test part; a token that was never seen gets the overall training mean.",
        "`1 - (acts - guess)².sum() / (acts - acts.mean())².sum()`, all on the test part.",
    ),
)


def _token_acts(draw: Draw, n: int, vocabulary: int, noise: float):
    """Tokens, and activations that depend on the token in part; the dependence is the same for every call of one case."""
    tokens = draw.integers(0, vocabulary, n)
    level = np.array([(t * 7919 % 13) / 13 for t in range(vocabulary)])
    return tokens, draw.lend((3 * level[tokens.numpy()] + noise * draw.rng.uniform(0, 2, n)).astype(np.float32))


_SHARE = Close(rtol=0, atol=1e-4)


@share.case("a latent that depends on the token in part", weight=2, rule=_SHARE)
def _(f, draw):
    return float(f(*_token_acts(draw, 200, 12, 1.0), *_token_acts(draw, 150, 12, 1.0)))


@share.case("tokens that occur only in the test part", weight=2, rule=_SHARE)
def _(f, draw):
    return float(f(*_token_acts(draw, 80, 20, 0.5), *_token_acts(draw, 120, 40, 0.5)))


@share.case("noise and rare tokens: nothing is explained", weight=2, rule=_SHARE)
def _(f, draw):
    made = [(draw.integers(0, 150, 100), draw.uniform(100)) for _ in range(2)]
    return float(f(*made[0], *made[1]))


@share.case("a test part with another mean", rule=_SHARE)
def _(f, draw):
    tokens, acts = _token_acts(draw, 100, 10, 0.8)
    return float(f(tokens, acts, *_token_acts(draw, 60, 6, 0.8)))


def _share_with(fit=None, unseen=None, variance=None, shift=0, finish=lambda value: value):
    def made(train_tokens, train_acts, test_tokens, test_acts):
        fit_tokens, fit_acts = (
            fit(train_tokens, train_acts, test_tokens, test_acts) if fit else (train_tokens, train_acts)
        )
        means = {int(t): float(fit_acts[fit_tokens == t].mean()) for t in fit_tokens.unique()}
        other = float(fit_acts.mean()) if unseen is None else unseen
        words = torch.roll(test_tokens, shift)
        guess = torch.tensor([means.get(int(t), other) for t in words])
        total = variance(test_acts, train_acts) if variance else (test_acts - test_acts.mean()).square().sum()
        return finish(float(1 - (test_acts - guess).square().sum() / total))

    return made


share.mistake(
    "The means are taken from the part that is scored: every rare token then explains itself, even for noise.",
    name="scored_on_its_own_part",
)(_share_with(fit=lambda a, b, c, d: (c, d)))
share.mistake(
    "The means come from both parts together, so the part that is scored helps to predict itself.", name="fit_on_both"
)(_share_with(fit=lambda a, b, c, d: (torch.cat([a, c]), torch.cat([b, d]))))
share.mistake(
    "A token that was not seen in training is predicted as 0; the overall training mean is the better guess.",
    name="zero_for_unseen",
)(_share_with(unseen=0.0))
share.mistake(
    "The previous token is used instead of the current one: token and activation are off by one.",
    name="off_by_one_token",
)(_share_with(shift=1))
share.mistake(
    "The error is compared with the sum of squares, not with the variance: a constant latent would look explained.",
    name="sum_of_squares",
)(_share_with(variance=lambda test, train: test.square().sum()))
share.mistake(
    "The variance of the test part is taken about the training part's mean. The mean in the denominator is that of the test part.",
    name="variance_about_training_mean",
)(_share_with(variance=lambda test, train: (test - train.mean()).square().sum()))
share.mistake(
    "A negative share is cut off at 0. It is information: the token's means predict worse than one constant.",
    name="clamped_at_zero",
)(_share_with(finish=lambda value: max(value, 0.0)))


@share.alternative
def with_one_hot(train_tokens, train_acts, test_tokens, test_acts):
    size = int(torch.cat([train_tokens, test_tokens]).max()) + 1
    count = torch.bincount(train_tokens, minlength=size)
    total = torch.zeros(size).index_add(0, train_tokens, train_acts)
    table = torch.where(count > 0, total / count.clamp(min=1), train_acts.mean())
    return 1 - ((test_acts - table[test_tokens]) ** 2).mean() / test_acts.var(unbiased=False)


# -- 06.11 --------------------------------------------------------------------------------------------------------


def one_page(latent, density, examples, promoted):
    """One self-contained HTML page of a latent."""
    ranked = sorted(examples, key=lambda example: -max(example[1]))
    top = max((max(acts) for _, acts in ranked), default=0.0)
    rows = "".join(f"<p>{shaded_tokens(tokens, acts, top)}</p>" for tokens, acts in ranked)
    words = "".join(f"<tr><td>{html.escape(token)}</td><td>{value:+.2f}</td></tr>" for token, value in promoted)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>latent {latent}</title></head><body>'
        f"<h1>latent {latent}</h1><p>fires on {100 * density:.3f}% of tokens</p>"
        f"<h2>Strongest examples</h2>{rows}<h2>Promoted tokens</h2><table>{words}</table></body></html>"
    )


page = lesson.exercise(
    11,
    title="The dashboard, in one file",
    answer="build_dashboard",
    reference=one_page,
    points=4,
    difficulty=3,
    importance=4,
    minutes=20,
    hints=(
        'Begin with `<!doctype html>` and `<meta charset="utf-8">`. Inline styles only: nothing may be fetched.',
        "Use your `token_heatmap_html` for the examples, strongest first, with the largest "
        "activation of all examples as the common maximum. Escape promoted tokens too.",
        '`title` and `h1` hold `latent 1234`; the density is shown as `f"{100 * density:.3f}%"`; '
        'each promoted token stands beside `f"{value:+.2f}"`.',
    ),
)


def _dashboard(draw: Draw, hostile: bool = False):
    words = [_HOSTILE[i] for i in draw.rng.permutation(len(_HOSTILE))] if hostile else [f" w{i}" for i in range(9)]
    made = []
    for i in range(4):
        tokens = [f" e{i}", *(words[j] for j in draw.rng.permutation(len(words))[:5])]
        made.append((tokens, [float(a) for a in draw.rng.uniform(0.2, 9, 6)]))
    promoted = [(word, float(v)) for word, v in zip(words[:4], sorted(draw.rng.uniform(0, 2, 4))[::-1], strict=True)]
    return int(draw.rng.integers(100, 4000)), float(draw.rng.uniform(0.001, 0.05)), made, promoted


@page.case("a page that says which latent it shows, and how dense it is", weight=1, rule=Exact())
def _(f, draw):
    latent, density_, made, promoted = _dashboard(draw)
    source = f(latent, density_, made, promoted)
    seen = _Page(source)
    charset = any("utf-8" in str(attributes).lower() for tag, attributes in seen.elements if tag == "meta")
    return {
        "doctype": seen.declared.startswith("doctype html"),
        "charset": charset,
        "title": f"latent {latent}" in seen.titles.lower(),
        "heading": f"latent {latent}" in seen.headings.lower(),
        "density": f"{100 * density_:.3f}%" in seen.text,
    }


@page.case("the examples, strongest first", weight=2, rule=Exact())
def _(f, draw):
    latent, density_, made, promoted = _dashboard(draw)
    text = _Page(f(latent, density_, made, promoted)).text
    places = {i: text.find(f" e{i}") for i in range(4)}
    return {
        "order": " ".join(str(i) for i in sorted(places, key=places.get)),
        "whole": all("".join(tokens) in text for tokens, _ in made),
    }


@page.case("one colour scale for all examples", weight=1, rule=Close(rtol=0, atol=5e-3))
def _(f, draw):
    spans = _Page(f(*_dashboard(draw))).spans
    shades = {text: _alpha(attributes.get("style", "")) for attributes, text in spans}
    return np.array([shades.get(f" e{i}", -1.0) for i in range(4)])


@page.case("the promoted tokens with their values", weight=1, rule=Exact())
def _(f, draw):
    latent, density_, made, promoted = _dashboard(draw)
    text = _Page(f(latent, density_, made, promoted)).text
    # no other value (they are positive here, so each begins with a plus) may stand between the two; either may come first
    pairs = [(re.escape(word.strip()), re.escape(f"{value:+.2f}")) for word, value in promoted]
    after = [bool(re.search(word + "[^+]{0,60}" + value, text)) for word, value in pairs]
    before = [bool(re.search(value + "[^+]{0,60}" + word, text)) for word, value in pairs]
    return " ".join(map(str, max(after, before, key=all)))


@page.case("tokens that look like HTML are shown, never run", weight=2, rule=Exact())
def _(f, draw):
    latent, density_, made, promoted = _dashboard(draw, hostile=True)
    seen = _Page(f(latent, density_, made, promoted))
    return {
        "examples": all("".join(tokens) in seen.text for tokens, _ in made),
        "promoted": all(seen.text.count(word) > sum(word in tokens for tokens, _ in made) for word, _ in promoted),
        "no foreign elements": not any(tag in ("script", "img", "s", "iframe") for tag, _ in seen.elements),
        "no handlers": not any(name.startswith("on") for _, found in seen.elements for name in found),
    }


@page.case("nothing is fetched from anywhere", weight=1, rule=Exact())
def _(f, draw):
    source = str(f(*_dashboard(draw)))
    addresses = [found.get(name, "") for _, found in _Page(source).elements for name in ("src", "href")]
    return not any("//" in address for address in addresses) and "@import" not in source and "url(" not in source


def _page_with(
    shade=shaded_tokens,
    order=lambda e: sorted(e, key=lambda x: -max(x[1])),
    safe=html.escape,
    head="",
    own=False,
    meta='<meta charset="utf-8">',
    listed=lambda words, values: "".join(f"<li>{word} {value}</li>" for word, value in zip(words, values)),
):
    def made(latent, density_, examples_, promoted):
        ranked = order(examples_)
        top = max(max(acts) for _, acts in ranked)
        rows = "".join(f"<p>{shade(t, a, max(a) if own else top)}</p>" for t, a in ranked)
        words = listed([safe(token) for token, _ in promoted], [f"{value:+.2f}" for _, value in promoted])
        return (
            f"<!doctype html><head>{meta}{head}<title>latent {latent}</title></head><body><h1>latent {latent}</h1>"
            f"{100 * density_:.3f}%{rows}<ul>{words}</ul></body>"
        )

    return made


page.mistake(
    "The tokens in the examples are not escaped: `<s>` disappears and `<img onerror=...>` runs.",
    name="examples_not_escaped",
)(_page_with(shade=_heatmap_with(text=lambda token: token)))
page.mistake(
    "The promoted tokens are not escaped; they come from the vocabulary, which is full of markup.",
    name="promoted_not_escaped",
)(_page_with(safe=str))
page.mistake("The examples stand in the order given; the strongest should come first.", name="not_sorted")(
    _page_with(order=list)
)
page.mistake(
    "Examples are ordered by their mean activation; one word that fires strongly is what makes an example.",
    name="sorted_by_mean",
)(_page_with(order=lambda e: sorted(e, key=lambda x: -sum(x[1]) / len(x[1]))))
page.mistake("Each example is scaled by its own maximum, so weak examples look strong.", name="scaled_one_by_one")(
    _page_with(own=True)
)
page.mistake(
    "The promoted tokens and their values are two lists: nobody sees which value belongs to which token. Set each value beside "
    "its token.",
    name="values_listed_apart",
)(_page_with(listed=lambda words, values: "".join(f"<li>{part}</li>" for part in [*words, *values])))
page.mistake(
    "The page fetches something from the network: it must open without one. Use inline styles.",
    name="fetches_from_network",
)(_page_with(head='<link rel="stylesheet" href="https://example.org/style.css">'))
page.mistake(
    "No charset is declared: opened from disk, every non-English token may be garbled.", name="charset_missing"
)(_page_with(meta=""))


@page.alternative
def with_elementtree(latent, density_, examples_, promoted):
    import xml.etree.ElementTree as ET

    root = ET.Element("html")
    head, body = ET.SubElement(root, "head"), ET.SubElement(root, "body")
    ET.SubElement(head, "meta", charset="UTF-8")
    ET.SubElement(head, "title").text = f"Latent {latent}"
    ET.SubElement(body, "h1").text = f"Latent {latent} · {100 * density_:.3f}%"
    top = max(max(acts) for _, acts in examples_)
    for tokens, acts in sorted(examples_, key=lambda example: max(example[1]), reverse=True):
        row = ET.SubElement(body, "div")
        for token, act in zip(tokens, acts):
            ET.SubElement(row, "span", style=f"background:rgba(230,159,0,{act / top:.4f})").text = token
    for token, value in promoted:
        ET.SubElement(body, "div").text = f"{token}: {value:+.2f}"
    return "<!DOCTYPE html>\n" + ET.tostring(root, encoding="unicode", method="html")


# -- 06.12 --------------------------------------------------------------------------------------------------------


def word_explanation(texts, fires):
    """The word whose presence tells firing texts from silent ones best, and its balanced accuracy on these texts."""
    fires = np.asarray(fires, bool)
    bags = [set(re.findall(r"[a-z]+", text.lower())) for text in texts]
    scores = {}
    for word in sorted(set().union(*bags)):
        said = np.array([word in bag for bag in bags])
        scores[word] = features.balanced_accuracy(fires, said)
    best = max(scores, key=lambda word: scores[word])
    return best, scores[best]


explain = lesson.exercise(
    12,
    title="The baseline every explanation has to beat",
    answer="best_word_explanation",
    reference=word_explanation,
    points=3,
    difficulty=3,
    importance=5,
    minutes=15,
    hints=(
        'Cut each text into its *set* of lower-case words: `set(re.findall(r"[a-z]+", text.lower()))`.',
        "For each word: the share of firing texts that contain it, and the share of silent texts that do not. Average the two.",
        "`max(words, key=score)` with `score = ((has & fires).sum() / fires.sum() + (~has & ~fires).sum() / (~fires).sum()) / 2`.",
    ),
)

_NOUNS = ("sea", "river", "law", "court", "ship", "queen", "tax", "garden", "winter", "engine")


def _planted(draw: Draw, n: int, rate: float, word: str, false: float = 0.08, hit: float = 0.9, common: str = "the"):
    """Texts in which one word goes with firing, and `common` stands nearly everywhere."""
    fires = draw.rng.uniform(size=n) < rate
    fires[:6] = [True, True, True, False, False, False]
    nouns = [noun for noun in _NOUNS if noun != word]
    texts = []
    for on in fires:
        words = [nouns[i] for i in draw.rng.integers(0, len(nouns), 4)]
        if draw.rng.uniform() < 0.95:
            words.append(common)
        if draw.rng.uniform() < (hit if on else false):
            words.append(word if draw.rng.uniform() < 0.6 else word.capitalize())
        texts.append(" ".join(words[i] for i in draw.rng.permutation(len(words))) + ".")
    return texts, fires


def _word(draw: Draw) -> str:
    return _NOUNS[int(draw.rng.integers(len(_NOUNS)))]


_WORD = {"word": Exact(), "score": Close(atol=1e-6)}


@explain.case("a latent that fires on half of the texts", weight=2, rule=_WORD)
def _(f, draw):
    word, score = f(*_planted(draw, 80, 0.5, _word(draw)))
    return {"word": str(word), "score": float(score)}


@explain.case("a rare latent", weight=2, rule=_WORD)
def _(f, draw):
    word, score = f(*_planted(draw, 150, 0.05, _word(draw), false=0.2))
    return {"word": str(word), "score": float(score)}


@explain.case("words inside other words", rule=_WORD)
def _(f, draw):
    texts, fires = _planted(draw, 90, 0.4, "sea", false=0.05)
    hidden = [
        text if on else text.replace("winter", "season").replace("queen", "seam") for text, on in zip(texts, fires)
    ]
    word, score = f(hidden, fires)
    return {"word": str(word), "score": float(score)}


@explain.case("words beside an underscore or a digit", rule=_WORD)
def _(f, draw):
    texts, fires = _planted(draw, 90, 0.4, "sea", false=0.05)
    joined = [re.sub("(?i)sea", r"\g<0>_level" if i % 2 else r"\g<0>2", text) for i, text in enumerate(texts)]
    word, score = f(joined, fires)
    return {"word": str(word), "score": float(score)}


@explain.case("a word that stands in the silent texts only", rule=Close(atol=1e-6))
def _(f, draw):
    # only the score is compared: several words may be equally weak here
    return {"score": float(f(*_planted(draw, 80, 0.5, _word(draw), false=0.9, hit=0.05))[1])}


@explain.case("its word tells apart texts it has not seen", weight=2, rule=Between(0.75, 1.0))
def _(f, draw):
    planted = _word(draw)
    word, _ = f(*_planted(draw, 100, 0.3, planted))
    texts, fires = _planted(draw, 300, 0.3, planted)
    return features.balanced_accuracy(fires, features.mentions(str(word))(texts))


def _explain_with(
    score=features.balanced_accuracy, cut=lambda text: set(re.findall(r"[a-z]+", text.lower())), inside=None
):
    inside = inside or (lambda word, text: word in cut(text))

    def made(texts, fires):
        fires = np.asarray(fires, bool)
        table = {}
        for word in sorted(set().union(*(cut(text) for text in texts))):
            table[word] = float(score(fires, np.array([inside(word, text) for text in texts])))
        best = max(table, key=lambda word: table[word])
        return best, table[best]

    return made


explain.mistake(
    'The most frequent word of the firing texts is taken. It is frequent in the silent ones too: "the" explains nothing.',
    name="most_frequent_word",
)(_explain_with(score=lambda fires, said: said[fires].mean()))
explain.mistake(
    "Words are ranked by plain accuracy; for a rare latent a word that hardly ever occurs wins.", name="plain_accuracy"
)(_explain_with(score=lambda fires, said: (fires == said).mean()))
explain.mistake(
    'A word is looked for inside other words: "sea" is not in "season" as a word.', name="inside_other_words"
)(_explain_with(inside=lambda word, text: word in text.lower()))
explain.mistake(
    '"Sea" and "sea" are counted as two words, so each misses the other\'s texts: go to lower case first.',
    name="case_matters",
)(_explain_with(cut=lambda text: set(re.findall(r"[A-Za-z]+", text))))
explain.mistake(
    r"Words are cut with `\w+`, which takes in digits and underscores: `sea_level` is then one word. Cut with `[a-z]+`.",
    name="digits_and_underscores",
)(_explain_with(cut=lambda text: set(re.findall(r"\w+", text.lower()))))
explain.mistake(
    "Only precision is looked at (of the texts with the word, how many fire): a word that occurs once is perfect.",
    name="precision_only",
)(_explain_with(score=lambda fires, said: fires[said].mean()))


@explain.mistake(
    "The word that most firing texts contain is scored. It is frequent in the silent ones too: compare the scores of *all* words."
)
def most_frequent_word_scored(texts, fires):
    bags = [re.findall(r"[a-z]+", text.lower()) for text in texts]
    counts = Counter(word for bag, on in zip(bags, fires) if on for word in sorted(set(bag)))
    word = counts.most_common(1)[0][0]
    said = np.array([word in bag for bag in bags])
    return word, float(features.balanced_accuracy(np.asarray(fires, bool), said))


@explain.mistake(
    "Words that mark the *silent* texts are counted as explanations too (a score below 0.5 turned round). The word's presence "
    "should mean that the latent fires."
)
def either_way_round(texts, fires):
    return _explain_with(score=lambda fires, said: abs(features.balanced_accuracy(fires, said) - 0.5) + 0.5)(
        texts, fires
    )


@explain.alternative
def with_a_table(texts, fires):
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(token_pattern=r"[a-z]+", binary=True)
    table = counter.fit_transform(texts).toarray().astype(bool)
    fires = np.asarray(fires)
    score = (table[fires].mean(axis=0) + 1 - table[~fires].mean(axis=0)) / 2
    return counter.get_feature_names_out()[score.argmax()], score.max()
