"""Lesson 01: polysemanticity; what neurons respond to, directions, interference, probes, steering, privileged bases."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from course_utils.features import directions
from course_utils.grading import Close, Draw, Exact, Lesson

lesson = Lesson("01", "Polysemanticity: why neurons do not make sense", slug="01_polysemanticity")


def _two(result: Any, wanted: str) -> tuple[Any, Any]:
    """Two results, or a sentence that says which two were wanted: one tensor would unpack into its rows."""
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise TypeError(f"two results are wanted, {wanted}")
    return result[0], result[1]


# -- 01.1 ---------------------------------------------------------------------------------------------------------

top_tokens = lesson.exercise(
    1,
    title="The tokens a neuron likes best",
    answer="top_activating_tokens",
    reference=directions.top_activating_tokens,
    points=2,
    difficulty=1,
    importance=5,
    minutes=8,
    hints=(
        "Take one neuron's responses: a table of [sequences, context]. Where are its k largest entries?",
        "`.flatten().topk(k).indices` numbers the places 0, 1, 2, ... row after row.",
        "`divmod(place, context)` turns a place into (sequence, position).",
    ),
)


def _places(found) -> str:
    try:
        return " ".join(f"({int(a)},{int(b)})" for a, b in found)
    except (TypeError, ValueError):
        raise TypeError("a list of pairs (sequence, position) is wanted, such as [(0, 3), (2, 1)]") from None


@top_tokens.case("the five best places of a neuron, best first", weight=2, rule=Exact())
def _(f, draw):
    return _places(f(draw.normal(7, 11, 4), 2, 5))


@top_tokens.case("a neuron whose responses are all negative", rule=Exact())
def _(f, draw):
    return _places(f(draw.uniform(5, 9, 3, low=-3, high=-1), 0, 3))


@top_tokens.case("several places in one sequence", rule=Exact())
def _(f, draw):
    acts = draw.rng.uniform(0, 1, size=(4, 12, 2)).astype(np.float32)
    acts[1, 3:8, 1] += 5
    return _places(f(draw.lend(acts), 1, 4))


@top_tokens.mistake("The largest absolute value is taken; a strongly negative response is not what the neuron likes.")
def by_absolute_value(acts, neuron, k):
    return directions.top_activating_tokens(acts.abs(), neuron, k)


@top_tokens.mistake(
    "Place and position are mixed up: a place is sequence x context + position, so divide by the context's length."
)
def divided_by_sequences(acts, neuron, k):
    places = acts[:, :, neuron].flatten().topk(k).indices.tolist()
    return [divmod(place, acts.shape[0]) for place in places]


@top_tokens.mistake("The order of the pair is (sequence, position), not (position, sequence).")
def swapped_pair(acts, neuron, k):
    return [(position, sequence) for sequence, position in directions.top_activating_tokens(acts, neuron, k)]


@top_tokens.mistake(
    "Only the best position of each sequence is considered; one context may hold several of the best places."
)
def one_per_sequence(acts, neuron, k):
    best = acts[:, :, neuron].max(dim=1)
    return [(i, int(best.indices[i])) for i in best.values.topk(min(k, len(best.values))).indices.tolist()]


@top_tokens.mistake("The places are the right ones, but the best should come first.")
def worst_first(acts, neuron, k):
    return directions.top_activating_tokens(acts, neuron, k)[::-1]


@top_tokens.mistake("These are the smallest responses: the neuron likes the largest.")
def smallest_first(acts, neuron, k):
    return directions.top_activating_tokens(-acts, neuron, k)


@top_tokens.mistake("The places are the right ones, but in the order of the text; the strongest should come first.")
def in_reading_order(acts, neuron, k):
    return sorted(directions.top_activating_tokens(acts, neuron, k))


@top_tokens.mistake("`acts[neuron]` is a *sequence*: neurons are the last axis, `acts[:, :, neuron]`.")
def neuron_taken_as_sequence(acts, neuron, k):
    return [divmod(place, acts.shape[2]) for place in acts[neuron].flatten().topk(k).indices.tolist()]


@top_tokens.alternative
def with_numpy_pairs(acts, neuron, k):
    responses = acts[..., neuron].numpy()
    return np.stack(np.unravel_index(np.argsort(-responses, axis=None)[:k], responses.shape), axis=1)


@top_tokens.alternative
def by_sorting(acts, neuron, k):
    everything = [(float(acts[i, j, neuron]), (i, j)) for i in range(acts.shape[0]) for j in range(acts.shape[1])]
    return [place for _, place in sorted(everything, reverse=True)[:k]]


# -- 01.2 ---------------------------------------------------------------------------------------------------------

selectivity = lesson.exercise(
    2,
    title="Which concepts does a neuron answer to?",
    answer="concept_selectivity",
    reference=directions.concept_selectivity,
    points=3,
    difficulty=2,
    importance=5,
    minutes=12,
    hints=(
        "For one concept: the neuron's mean on texts that have it, minus its mean on texts that do not.",
        "Divide by the neuron's standard deviation over all texts, so that loud and quiet neurons can be compared.",
        "`having.T @ acts / having.sum(0)[:, None]` gives all means at once. A silent neuron (deviation 0) gets 0.",
    ),
)


def _labels(draw: Draw, texts: int, concepts: int) -> torch.Tensor:
    labels = draw.rng.uniform(size=(texts, concepts)) < np.linspace(0.2, 0.6, concepts)
    labels[:2] = [[True] * concepts, [False] * concepts]  # no concept is empty or everywhere
    return draw.lend(labels)


def _response_and_count(result: Any) -> tuple[Any, Any]:
    return _two(result, "`return responses, counts`: [concepts, neurons] and [neurons]")


@selectivity.case("the responses of random neurons", weight=2)
def _(f, draw):
    return _response_and_count(f(draw.normal(40, 6, mean=1.0, std=2.0), _labels(draw, 40, 3), 0.5))[0]


@selectivity.case("how many concepts each neuron answers to", weight=2)
def _(f, draw):
    labels = _labels(draw, 60, 4)
    acts = draw.rng.normal(size=(60, 5)) + 3 * labels.numpy() @ np.array(
        [[1, 1, 0, 0, -1], [0, 1, 0, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 1, -1]]
    )
    return _response_and_count(f(draw.lend(acts.astype(np.float32)), labels, 0.5))[1]


@selectivity.case("another threshold")
def _(f, draw):
    return _response_and_count(f(draw.normal(40, 30), _labels(draw, 40, 3), 0.1))[1]


@selectivity.case("a neuron that never varies gets 0, not NaN")
def _(f, draw):
    acts = draw.rng.normal(size=(30, 4)).astype(np.float32)
    acts[:, 1] = 0
    acts[:, 2] = 2.0  # exact in float32, so that any guard on the deviation sees exactly 0
    response, count = _response_and_count(f(draw.lend(acts), _labels(draw, 30, 2), 0.5))
    return {"response": response, "count": count}


def _selectivity_with(response_of):
    def made(acts, labels, threshold=0.5):
        having = labels.float()
        yes = having.T @ acts / having.sum(0)[:, None]
        no = (1 - having).T @ acts / (1 - having).sum(0)[:, None]
        std = acts.std(0, unbiased=False)
        response = response_of(yes, no, std, acts)
        return response, (response > threshold).sum(0).float()

    return made


selectivity.mistake(
    "The mean on texts *without* the concept is not subtracted: a neuron that is always on seems to answer to everything.",
    name="nothing_subtracted",
)(
    _selectivity_with(
        lambda yes, no, std, acts: torch.where(std > 1e-8, yes / std.clamp(min=1e-8), torch.zeros_like(yes))
    )
)
selectivity.mistake(
    "The difference is not divided by the neuron's standard deviation, so a loud neuron passes any threshold.",
    name="not_standardised",
)(_selectivity_with(lambda yes, no, std, acts: yes - no))
selectivity.mistake("A silent neuron has standard deviation 0, and 0/0 is NaN.", name="nan_for_silent")(
    _selectivity_with(lambda yes, no, std, acts: (yes - no) / std)
)
selectivity.mistake(
    "A neuron that always says the same number, 0 or another, has standard deviation 0: ask the deviation, not the values.",
    name="nan_for_constant",
)(
    _selectivity_with(
        lambda yes, no, std, acts: torch.where((acts == 0).all(0), torch.zeros_like(yes), (yes - no) / std)
    )
)
selectivity.mistake(
    "The mean over *all* texts is subtracted; it contains the texts with the concept too.",
    name="overall_mean_subtracted",
)(
    _selectivity_with(
        lambda yes, no, std, acts: torch.where(
            std > 1e-8, (yes - acts.mean(0)) / std.clamp(min=1e-8), torch.zeros_like(yes)
        )
    )
)


@selectivity.mistake(
    "The deviation is that of a sample (divided by n - 1); the formula asks for the population's: `unbiased=False`."
)
def sample_deviation(acts, labels, threshold=0.5):
    response = directions.concept_selectivity(acts, labels, threshold).response * (1 - 1 / len(acts)) ** 0.5
    return response, (response > threshold).sum(0)


@selectivity.mistake("The count runs over neurons; count the concepts of each neuron, [neurons].")
def neurons_counted(acts, labels, threshold=0.5):
    response = directions.concept_selectivity(acts, labels, threshold).response
    return response, (response > threshold).sum(1)


@selectivity.mistake(
    "The count takes absolute responses: a neuron that is *quieter* on a concept does not answer to it."
)
def counts_both_signs(acts, labels, threshold=0.5):
    response = directions.concept_selectivity(acts, labels, threshold).response
    return response, (response.abs() > threshold).sum(0).float()


@selectivity.alternative
def looped(acts, labels, threshold=0.5):
    response = torch.zeros(labels.shape[1], acts.shape[1])
    for c in range(labels.shape[1]):
        for j in range(acts.shape[1]):
            column, having = acts[:, j], labels[:, c]
            spread = (column - column.mean()).pow(2).mean().sqrt()
            if spread > 1e-8:
                response[c, j] = (column[having].mean() - column[~having].mean()) / spread
    return response, (response > threshold).sum(0)


# -- 01.3 ---------------------------------------------------------------------------------------------------------

cosines = lesson.exercise(
    3,
    title="Cosines between directions",
    answer="cosine_similarity_matrix",
    reference=directions.cosine_similarity_matrix,
    points=2,
    difficulty=1,
    importance=4,
    minutes=6,
    hints=(
        "A cosine compares directions only: lengths must not matter.",
        "Divide each row by its own length first; then the cosines are dot products of rows.",
        "`unit = W / W.norm(dim=1, keepdim=True).clamp(min=1e-12)`, then `unit @ unit.T`.",
    ),
)


@cosines.case("rows of very different lengths", weight=2)
def _(f, draw):
    return f(
        draw.lend((draw.rng.normal(size=(6, 4)) * np.array([[0.1], [1], [5], [0.5], [20], [2]])).astype(np.float32))
    )


@cosines.case("a row of zeros has cosine 0 with everything, not NaN")
def _(f, draw):
    W = draw.rng.normal(size=(5, 3)).astype(np.float32)
    W[2] = 0
    return f(draw.lend(W))


@cosines.case("the spread of cosines of random directions, times the root of d", rule=Close(rtol=1e-3))
def _(f, draw):
    C = f(draw.normal(60, 48))
    return C[~torch.eye(60, dtype=bool)].std() * 48**0.5


@cosines.mistake("The rows are not divided by their lengths: these are dot products.")
def dot_products(W):
    return W @ W.T


@cosines.mistake("The columns are made unit instead of the rows.")
def columns_normalised(W):
    unit = normalize(W, dim=0)
    return unit @ unit.T


@cosines.mistake("A row of zeros is divided by its length, 0/0 = NaN.")
def nan_for_zero_row(W):
    unit = W / W.norm(dim=1, keepdim=True)
    return unit @ unit.T


@cosines.mistake(
    "The columns are compared with each other, [d, d]; the directions are the rows, so the result is [n, n]."
)
def columns_compared(W):
    unit = normalize(W, dim=0)
    return unit.T @ unit


@cosines.mistake(
    "The diagonal is 1 for the row of zeros too. It has no direction: its cosine with itself is 0 as well."
)
def zero_row_with_itself(W):
    table = directions.cosine_similarity_matrix(W).clone()
    return table.fill_diagonal_(1.0)


@cosines.mistake("The absolute value is taken; the sign of a cosine tells same from opposite.")
def absolute_cosines(W):
    return directions.cosine_similarity_matrix(W).abs()


@cosines.alternative
def with_broadcasting(W):
    return torch.nn.functional.cosine_similarity(W[:, None, :], W[None, :, :], dim=-1)


# -- 01.4 ---------------------------------------------------------------------------------------------------------

capacity = lesson.exercise(
    4,
    title="How many almost-orthogonal directions fit?",
    answer="almost_orthogonal_capacity",
    reference=directions.almost_orthogonal_capacity,
    points=2,
    difficulty=2,
    importance=3,
    minutes=10,
    hints=(
        "Greedy means: decide about one candidate after the other and never take a decision back.",
        "A candidate is kept when its |cosine| with *each one kept so far* is at most eps. The first is always kept.",
        "`if not kept or (unit[kept] @ unit[i]).abs().max() <= eps: kept.append(i)`",
    ),
)


def _list(found) -> str:
    try:
        return " ".join(str(int(i)) for i in found)
    except (TypeError, ValueError):
        raise TypeError(
            "a list of row numbers is wanted, such as [0, 2, 3]: which rows are kept, not how many"
        ) from None


@capacity.case("candidates of different lengths in eight dimensions", weight=2, rule=Exact())
def _(f, draw):
    W = draw.rng.normal(size=(60, 8)) * draw.rng.uniform(0.2, 4, size=(60, 1))
    return _list(f(draw.lend(W.astype(np.float32)), 0.4))


@capacity.case("a stricter limit", rule=Exact())
def _(f, draw):
    return _list(f(draw.normal(80, 12), 0.2))


@capacity.case("opposite directions are not almost orthogonal", rule=Exact())
def _(f, draw):
    W = draw.rng.normal(size=(6, 24)).astype(np.float32)
    return _list(f(draw.lend(np.concatenate([W, -W])), 0.6))


@capacity.mistake("The cosine's sign is kept, so opposite directions (cosine -1) pass as almost orthogonal.")
def signed(candidates, eps):
    unit, kept = normalize(candidates, dim=-1), []
    for i in range(len(unit)):
        if not kept or float((unit[kept] @ unit[i]).max()) <= eps:
            kept.append(i)
    return kept


@capacity.mistake("A candidate is compared with the last kept direction only; it must be far from all of them.")
def last_only(candidates, eps):
    unit, kept = normalize(candidates, dim=-1), []
    for i in range(len(unit)):
        if not kept or float((unit[kept[-1]] @ unit[i]).abs()) <= eps:
            kept.append(i)
    return kept


@capacity.mistake("A candidate is compared with the one just before it; it must be far from all that were kept.")
def just_before(candidates, eps):
    unit = normalize(candidates, dim=-1)
    return [i for i in range(len(unit)) if i == 0 or float((unit[i - 1] @ unit[i]).abs()) <= eps]


@capacity.mistake("Dot products are compared with eps without making the candidates unit vectors first.")
def not_normalised(candidates, eps):
    kept: list[int] = []
    for i in range(len(candidates)):
        if not kept or float((candidates[kept] @ candidates[i]).abs().max()) <= eps:
            kept.append(i)
    return kept


@capacity.mistake("A candidate is compared with all earlier candidates, also those that were thrown away.")
def all_earlier(candidates, eps):
    unit = normalize(candidates, dim=-1)
    return [i for i in range(len(unit)) if i == 0 or float((unit[:i] @ unit[i]).abs().max()) <= eps]


@capacity.alternative
def by_striking_out(candidates, eps):
    allowed = directions.cosine_similarity_matrix(candidates).abs() <= eps
    open_, kept = torch.ones(len(allowed), dtype=torch.bool), []
    for i in range(len(allowed)):
        if open_[i]:
            kept.append(i)
            open_ &= allowed[i]
    return kept


@capacity.alternative
def with_a_cosine_table(candidates, eps):
    table = directions.cosine_similarity_matrix(candidates.double()).abs()
    kept: list[int] = []
    for i in range(table.shape[0]):
        if all(table[i, j] <= eps for j in kept):
            kept.append(i)
    return torch.tensor(kept)


# -- 01.5 ---------------------------------------------------------------------------------------------------------

interference = lesson.exercise(
    5,
    title="Interference, and why sparsity makes it cheap",
    answer="expected_interference",
    reference=directions.expected_interference,
    points=2,
    difficulty=2,
    importance=5,
    minutes=10,
    hints=(
        "Only the disturbance while both i and j are active counts here. How likely is that, if they are independent?",
        "Squared overlap (W_i . W_j)^2 times p_i p_j, summed over all j other than i.",
        "`overlap = (W.T @ W).square().fill_diagonal_(0)`; `p * (overlap @ p)`.",
    ),
)


@interference.case("random directions, unequal probabilities", weight=2)
def _(f, draw):
    return f(draw.normal(5, 9), draw.uniform(9, low=0.05, high=0.9))


@interference.case("orthogonal features do not disturb each other")
def _(f, draw):
    Q, _ = np.linalg.qr(draw.rng.normal(size=(6, 6)))
    return f(draw.lend(Q[:, :4].astype(np.float32)), draw.uniform(4))


@interference.case("half as likely, a quarter of the interference")
def _(f, draw):
    W, p = draw.normal(4, 7), draw.uniform(7, low=0.2, high=0.8)
    return f(W, p / 2) / f(W, p)


@interference.mistake("The feature's overlap with itself is counted as interference.")
def includes_itself(W, p):
    return p * ((W.T @ W).square() @ p)


@interference.mistake("The overlap is not squared.")
def not_squared(W, p):
    overlap = W.T @ W
    return p * (overlap @ p) - torch.diagonal(overlap) * p.square()


@interference.mistake(
    "Only the other feature's probability is used; interference also needs feature i itself to be active."
)
def own_probability_missing(W, p):
    overlap = (W.T @ W).square()
    return overlap @ p - torch.diagonal(overlap) * p


@interference.mistake("Features are the columns of W; here its rows are compared.")
def rows_compared(W, p):
    return directions.expected_interference(W.T, p[: W.shape[0]])


@interference.mistake("The overlaps are summed first and squared afterwards: square each (W_i . W_j), then add.")
def squared_after_summing(W, p):
    return p * ((W.T @ W).fill_diagonal_(0.0) @ p).square()


@interference.mistake("The directions are made unit first. Their lengths count: take the dot products as they are.")
def cosines_for_dot_products(W, p):
    return directions.expected_interference(normalize(W, dim=0), p)


@interference.mistake(
    "The feature's own overlap is taken for 1 and subtracted; it is ||W_i||^4 when the direction is not a unit vector."
)
def own_overlap_taken_for_one(W, p):
    return p * ((W.T @ W).square() @ p) - p.square()


@interference.alternative
def summed_in_a_loop(W, p):
    n = W.shape[1]
    return torch.stack([sum(p[i] * p[j] * (W[:, i] @ W[:, j]) ** 2 for j in range(n) if j != i) for i in range(n)])


# -- 01.6 ---------------------------------------------------------------------------------------------------------

probe = lesson.exercise(
    6,
    title="A concept as a direction",
    answer="linear_probe",
    reference=directions.linear_probe,
    points=3,
    difficulty=3,
    importance=5,
    minutes=15,
    hints=(
        "The simplest direction of a concept points from the mean of texts without it to the mean of texts with it.",
        "AUC: the share of (positive, negative) pairs of held-out texts in which the positive one scores higher; ties count half.",
        "`difference = scores[labels][:, None] - scores[~labels][None]`, then the mean of `(difference > 0) + 0.5 * (difference == 0)`.",
    ),
)


def _texts(draw: Draw, n: int, d: int = 6, gap: float = 1.0):
    labels = draw.rng.uniform(size=n) < 0.4
    labels[:2] = [True, False]
    acts = draw.rng.normal(size=(n, d)) + 2.0 + gap * labels[:, None] * np.linspace(1, 0, d)
    return draw.lend(acts.astype(np.float32)), draw.lend(labels)


def _direction_and_auc(result: Any) -> tuple[Any, Any]:
    return _two(result, "`return direction, auc`: a tensor [d] and a number")


@probe.case("the direction")
def _(f, draw):
    return _direction_and_auc(f(*_texts(draw, 50), *_texts(draw, 30)))[0]


@probe.case("the AUC on held-out texts", weight=2, rule=Close(atol=1e-6))
def _(f, draw):
    return float(_direction_and_auc(f(*_texts(draw, 50), *_texts(draw, 41)))[1])


@probe.case("scores that tie count half", rule=Close(atol=1e-6))
def _(f, draw):
    train = draw.rng.integers(0, 2, size=(40, 1)).astype(np.float32)
    test = draw.rng.integers(0, 3, size=(30, 1)).astype(np.float32)
    train_labels = (train[:, 0] > 0) ^ (draw.rng.uniform(size=40) < 0.2)
    test_labels = (test[:, 0] > 0) ^ (draw.rng.uniform(size=30) < 0.3)
    found = f(draw.lend(train), draw.lend(train_labels), draw.lend(test), draw.lend(test_labels))
    return float(_direction_and_auc(found)[1])


@probe.mistake(
    "The AUC is measured on the texts the direction was made from; only held-out texts tell whether it generalises."
)
def judged_on_training_texts(train, train_labels, test, test_labels):
    direction = directions.linear_probe(train, train_labels, test, test_labels).direction
    return direction, directions.auc(train @ direction, train_labels)


@probe.mistake("The direction points from texts with the concept to texts without it.")
def wrong_way_round(train, train_labels, test, test_labels):
    direction = -directions.linear_probe(train, train_labels, test, test_labels).direction
    return direction, directions.auc(test @ direction, test_labels)


@probe.mistake("The direction is not scaled to length 1.")
def not_unit(train, train_labels, test, test_labels):
    direction = train[train_labels].mean(0) - train[~train_labels].mean(0)
    return direction, directions.auc(test @ direction, test_labels)


@probe.mistake("This is accuracy at a threshold of zero, not the area under the ROC curve.")
def accuracy_instead(train, train_labels, test, test_labels):
    direction = directions.linear_probe(train, train_labels, test, test_labels).direction
    return direction, float(((test @ direction > 0) == test_labels).float().mean())


@probe.mistake("Ties count as wins; they should count half.")
def ties_win(train, train_labels, test, test_labels):
    direction = directions.linear_probe(train, train_labels, test, test_labels).direction
    scores = test @ direction
    return direction, float((scores[test_labels][:, None] >= scores[~test_labels][None]).float().mean())


@probe.mistake("Ties count nothing; they should count half.")
def ties_lose(train, train_labels, test, test_labels):
    direction = directions.linear_probe(train, train_labels, test, test_labels).direction
    scores = test @ direction
    return direction, float((scores[test_labels][:, None] > scores[~test_labels][None]).float().mean())


@probe.mistake("The direction is the mean of the positive texts alone; what all texts share is then part of it.")
def positives_only(train, train_labels, test, test_labels):
    direction = normalize(train[train_labels].mean(0), dim=0)
    return direction, directions.auc(test @ direction, test_labels)


@probe.alternative
def with_sklearn(train, train_labels, test, test_labels):
    from sklearn.metrics import roc_auc_score

    difference = train[train_labels].mean(0) - train[~train_labels].mean(0)
    direction = difference / difference.norm()
    return direction, roc_auc_score(test_labels.numpy(), (test @ direction).numpy())


# -- 01.7 ---------------------------------------------------------------------------------------------------------

steer = lesson.exercise(
    7,
    title="Steer along a direction",
    answer="steer_along",
    reference=directions.steer_along,
    points=2,
    difficulty=2,
    importance=5,
    minutes=10,
    hints=(
        "`steer_along` returns a *function*; the model calls it with the activation and expects the new activation back.",
        "Scale the direction to length 1 first, so that alpha is measured in units of the residual stream.",
        "`def hook(activation, hook=None): return activation + (alpha * unit).to(activation.dtype)`, and at the end "
        "`return hook`.",
    ),
)


def _steered(hook: Any, x: torch.Tensor) -> Any:
    """What the hook makes of `x`, called as TransformerLens calls it; says so where it cannot be called like that."""
    if not callable(hook):
        raise ValueError(
            f"`steer_along` returned a {type(hook).__name__}; a function is wanted, which the model will call"
        )
    try:
        takes = inspect.signature(hook)
    except (TypeError, ValueError):
        takes = None  # a built-in: calling it will tell
    if takes is not None:
        try:
            takes.bind(x, hook=None)
        except TypeError:
            raise ValueError(
                f"the model calls your hook as `hook(activation, hook=...)`, but the function returned takes `{takes}`: "
                "its second parameter must be named `hook`"
            ) from None
    return hook(x, hook=None)


@steer.case("what is added, at every position of every sequence", weight=2)
def _(f, draw):
    x = draw.normal(2, 5, 8)
    return _steered(f(draw.normal(8, std=3.0), 4.0), x) - x


@steer.case("a negative alpha")
def _(f, draw):
    x = draw.normal(1, 3, 6)
    return _steered(f(draw.normal(6), -2.5), x) - x


@steer.case("an activation in half precision stays one", rule={"*": Exact(), "values": Close(rtol=2e-2, atol=2e-2)})
def _(f, draw):
    out = _steered(f(draw.normal(6), 3.0), draw.normal(1, 4, 6).to(torch.bfloat16))
    return {"dtype": str(out.dtype), "values": out.float()}


@steer.mistake("The direction is not scaled to length 1, so alpha means something else for every direction.")
def not_scaled(direction, alpha):
    return lambda activation, hook=None: activation + alpha * direction.to(activation.dtype)


@steer.mistake(
    "The direction is not scaled to length 1, so alpha means something else for every direction. "
    "And the sum has another precision than the activation."
)
def not_scaled_and_precision_changes(direction, alpha):
    return lambda activation, hook=None: activation + alpha * direction


@steer.mistake("Only the last position is steered; the exercise asks for all of them.")
def last_position_only(direction, alpha):
    def hook(activation, hook=None):
        out = activation.clone()
        out[:, -1] += (alpha * normalize(direction, dim=0)).to(out.dtype)
        return out

    return hook


@steer.mistake("The activation is changed in place: whoever else holds it sees the change. Return a new tensor.")
def in_place(direction, alpha):
    def hook(activation, hook=None):
        activation += (alpha * normalize(direction, dim=0)).to(activation.dtype)
        return activation

    return hook


@steer.mistake("The hook returns the addition alone, so the model loses everything that was in the stream.")
def replaces(direction, alpha):
    return lambda activation, hook=None: (
        torch.zeros_like(activation) + (alpha * normalize(direction, dim=0)).to(activation.dtype)
    )


@steer.mistake("The sum has another precision than the activation: the next layer, in half precision, would refuse it.")
def precision_changes(direction, alpha):
    return lambda activation, hook=None: activation + alpha * normalize(direction, dim=0)


@steer.alternative
def as_a_class(direction, alpha):
    class Hook:
        def __init__(self):
            self.step = alpha * direction / direction.norm()

        def __call__(self, activation, hook):
            return activation.add(self.step.to(activation))

    return Hook()


# -- 01.8 ---------------------------------------------------------------------------------------------------------

rotate = lesson.exercise(
    8,
    title="Turn the residual stream",
    answer="rotate_residual_basis",
    reference=directions.rotate_residual_basis,
    points=2,
    difficulty=3,
    importance=4,
    minutes=10,
    hints=(
        "Row vectors: a layer writes x = m W_write, a later one reads x W_read. Now the stream is to carry x R instead of x.",
        "What is written must be multiplied by R. What must W_read become so that reading x R gives what reading x gave?",
        "For an orthogonal R, R R^T = 1: `W_write @ R` and `R.T @ W_read`.",
    ),
)


def _orthogonal(draw: Draw, d: int) -> torch.Tensor:
    Q, _ = np.linalg.qr(draw.rng.normal(size=(d, d)))
    return draw.lend(Q.astype(np.float32))


@rotate.case("what is read after turning equals what was read before", weight=2, essential=True)
def _(f, draw):
    W_write, W_read = f(draw.normal(10, 6), draw.normal(6, 9), _orthogonal(draw, 6))
    return draw.normal(4, 10) @ W_write @ W_read


@rotate.case("what is written is turned by R")
def _(f, draw):
    return f(draw.normal(10, 6), draw.normal(6, 9), _orthogonal(draw, 6))[0]


@rotate.case("what is read is turned back")
def _(f, draw):
    return f(draw.normal(10, 6), draw.normal(6, 9), _orthogonal(draw, 6))[1]


@rotate.mistake("Only the writing side is turned: the reading side now reads another basis.")
def write_only(W_write, W_read, R):
    return W_write @ R, W_read


@rotate.mistake("Both sides are turned by R; the reading side needs the inverse, R^T.")
def both_by_r(W_write, W_read, R):
    return W_write @ R, R @ W_read


@rotate.mistake("R and its transpose are exchanged: the stream would carry x R^T.")
def exchanged(W_write, W_read, R):
    return W_write @ R.T, R @ W_read


@rotate.mistake("Nothing is turned. That leaves every read value as it was, but it does not answer the question.")
def nothing_turned(W_write, W_read, R):
    return W_write.clone(), W_read.clone()


@rotate.alternative
def with_einsum(W_write, W_read, R):
    return torch.einsum("md,de->me", W_write, R), torch.einsum("de,dm->em", R, W_read)
