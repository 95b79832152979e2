# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # 01 · Polysemanticity: why neurons do not make sense
#
# A language model is a large pile of numbers, and the obvious place to look for meaning is one neuron at a time. This lesson does that, on a real model, and shows
# why it disappoints: most neurons answer to several unrelated things. It then builds the explanation the rest of the course rests on: a model has more *features* than dimensions, it
# stores them as *directions*, and sparsity makes that cheap.
#
# **You will be able to**
# - find what a neuron responds to, and measure how many concepts it answers to;
# - say how many almost-orthogonal directions fit into d dimensions, and what interference they cost;
# - find a concept as a direction, judge it on held-out text, and steer the model with it;
# - explain what a privileged basis is, and why having one does not make neurons interpretable.
#
# **Time**: about 1 h 20 min of exercises; the cells run in under two minutes on two CPU cores. **Before**: PyTorch basics.
#
# **The model** is SmolLM2-135M (30 layers, d_model = 576, 1536 neurons a layer): small enough for a laptop, large enough to write English, Python and some German. It was fetched at set-up;
# from here on nothing needs a network.
#
# **How the exercises work**: replace what stands under `YOUR CODE HERE`, then run the cell below it. `check("01.1", yours)` says what agrees and what does not;
# `hint("01.1")` gives a nudge, and a plainer one each time you ask; `solution("01.1")` shows a worked answer; `progress()` shows how far you are.

# %% tags=["setup"]
import torch
from torch import Tensor

from course_utils import check, hint, progress, solution
from course_utils.lm import collect_activations, load_corpus, load_model
from course_utils.settings import quick
from course_utils.viz import directions as draw
from course_utils.viz import token_heatmap_html

CONCEPTS = {
    "speeches": ["speeches"],
    "scripture": ["scripture"],
    "fiction": ["austen", "moby-dick"],
    "Python": ["python"],
    "other code": ["javascript", "go", "rust", "cpp", "lua"],
    "markup": ["html", "json"],
    "German": ["handbook-de-DE"],
    "French": ["handbook-fr-FR"],
    "Russian": ["handbook-ru-RU"],
    "Chinese": ["handbook-zh-CN"],
    "dictionary": ["glosses"],
    "dialogue": ["dialogue"],
}
NAMES = list(CONCEPTS)

# %%
model = load_model()
per_concept = 8 if quick() else 24
pieces, labels = [], []
for number, sources in enumerate(CONCEPTS.values()):
    packed = load_corpus("heldout", sources=sources).pack(model, context=64)
    chosen = torch.randperm(len(packed), generator=torch.Generator().manual_seed(0))[:per_concept]
    pieces.append(packed.tokens[chosen])
    labels += [number] * len(chosen)
tokens, concept = torch.cat(pieces), torch.tensor(labels)
has_concept = torch.nn.functional.one_hot(concept, len(NAMES)).bool()

HOOKS = ["blocks.8.mlp.hook_post", "blocks.14.mlp.hook_post", "blocks.11.hook_resid_post"]
found = collect_activations(model, tokens, HOOKS, drop_bos=False, max_norm_ratio=None)
acts = {name: found[name].acts.reshape(*tokens.shape, -1) for name in HOOKS}
strings = [model.tokenizer.convert_ids_to_tokens(row) for row in tokens.tolist()]
print(
    f"{tokens.shape[0]} texts of {tokens.shape[1]} tokens in {len(NAMES)} kinds; neurons: {tuple(acts[HOOKS[0]].shape)}"
)

# %% [markdown]
# `acts["blocks.8.mlp.hook_post"]` holds what the 1536 neurons of layer 8 said at every token: `[texts, positions, neurons]`. (Layers count from 0. `hook_post` is the value after the
# gate, just before it is written back to the residual stream. Values of either sign occur, because this model's activation function is not a ReLU.)
#
# Two neurons, seen on the texts they like best. Darker orange: a stronger response.


# %%
def show_best_texts(hook: str, neuron: int, k: int = 4) -> None:
    """The k texts with the neuron's strongest responses, shaded around the strongest place."""
    from IPython.display import display

    values = acts[hook][:, 1:, neuron]  # position 0 is BOS, on which everything is strange (lesson 05)
    for text in values.max(dim=1).values.topk(k).indices.tolist():
        at = int(values[text].argmax()) + 1
        window = slice(max(1, at - 14), at + 6)
        words = [model.tokenizer.decode([t]) for t in tokens[text, window].tolist()]
        display(
            token_heatmap_html(
                words,
                acts[hook][text, window, neuron].tolist(),
                maximum=float(values.max()),
                title=NAMES[concept[text]],
            )
        )


show_best_texts("blocks.8.mlp.hook_post", 1121)

# %% [markdown]
# Neuron 1121 of layer 8 likes German function words — and the English word "since", in a novel and in a presidential address. What is *one* thing that it means? Now a cleaner one:

# %%
show_best_texts("blocks.14.mlp.hook_post", 866)

# %% [markdown]
# Neuron 866 of layer 14: the ends of German verbs ("kann", "wurden", "sollte"). Such neurons exist. They are not the rule, as you are about to measure.
#
# ## What does a neuron respond to?

# %% [markdown]
# ### Exercise 01.1: The tokens a neuron likes best
#
# Places count from 0. One sequence may hold several of the best places.


# %% answer="01.1"
def top_activating_tokens(acts: Tensor, neuron: int, k: int) -> list[tuple[int, int]]:
    """The k places (sequence, position) where `neuron` responds most, largest first. `acts` is [sequences, context, neurons]."""
    ### BEGIN SOLUTION
    response = acts[:, :, neuron]
    places = response.flatten().topk(k).indices.tolist()
    return [divmod(place, response.shape[1]) for place in places]
    ### END SOLUTION


# %% check="01.1"
check("01.1", top_activating_tokens)


# %%
def show_top_tokens(hook: str, neuron: int, k: int = 10) -> None:
    """Print the k best places with a few tokens before them."""
    for text, position in top_activating_tokens(acts[hook][:, 1:], neuron, k):
        before = model.tokenizer.decode(tokens[text, max(0, position - 6) : position + 1])
        token = model.tokenizer.decode(tokens[text, position + 1])
        print(f"{acts[hook][text, position + 1, neuron]:6.2f}  {NAMES[concept[text]]:11} {before!r} -> {token!r}")


show_top_tokens("blocks.8.mlp.hook_post", 743)

# %% [markdown]
# Neuron 743 of layer 8: the middle of *keratin*, *tragic*, *palindrome* and *crystalline*, the *-leaf* of a drop-leaf table, the *-fish* of a swordfish, but also `seek` and "permissions". Perhaps
# "the piece of a word that settles which word it is"; perhaps several things at once. A person would not have guessed it, and one more list of ten would suggest another story.
# Looking at top examples is also a trap in the other direction: the ten best places out of eighteen thousand say nothing about the other responses. So count.

# %% [markdown]
# ### Exercise 01.2: Which concepts does a neuron answer to?
#
# For each concept c and neuron j, with texts as the unit:
#
# $$r_{cj} = \frac{\text{mean of } a_j \text{ on texts with } c \;-\; \text{mean of } a_j \text{ on texts without } c}{\text{standard deviation of } a_j \text{ over all texts}}$$
#
# A neuron *answers to* a concept when r exceeds a threshold. The standard deviation is that of the population (`unbiased=False`); a silent neuron (deviation 0) gets 0.


# %% answer="01.2"
def concept_selectivity(acts: Tensor, labels: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Responses [concepts, neurons], and for how many concepts each neuron's response exceeds `threshold` [neurons].

    `acts` is [texts, neurons], `labels` [texts, concepts] of True and False.
    """
    ### BEGIN SOLUTION
    having = labels.to(acts.dtype)
    with_concept = having.T @ acts / having.sum(dim=0)[:, None]
    without = (1 - having).T @ acts / (1 - having).sum(dim=0)[:, None]
    spread = acts.std(dim=0, unbiased=False)
    response = torch.where(
        spread > 1e-8, (with_concept - without) / spread.clamp(min=1e-8), torch.zeros_like(with_concept)
    )
    return response, (response > threshold).sum(dim=0)
    ### END SOLUTION


# %% check="01.2"
check("01.2", concept_selectivity)

# %%
layer_8 = acts["blocks.8.mlp.hook_post"][:, 1:].mean(dim=1)  # a text's response: the mean over its tokens
response, n_concepts = concept_selectivity(layer_8, has_concept, threshold=0.5)
shuffled = concept_selectivity(
    layer_8, has_concept[torch.randperm(len(concept), generator=torch.Generator().manual_seed(1))], 0.5
)[1]
shares = {k: float((n_concepts == k).float().mean()) for k in range(6)}
print("share of neurons answering to k kinds of text:", {k: f"{share:.2f}" for k, share in shares.items()})
print(
    "the same with shuffled labels (chance):        ",
    {k: f"{float((shuffled == k).float().mean()):.2f}" for k in range(6)},
)
most = n_concepts.topk(18).indices.tolist()
clean = (response.sort(dim=0).values[-1] - 2 * response.sort(dim=0).values[-2].clamp(min=0)).topk(6).indices.tolist()
draw.concept_heatmap(
    response[:, most + clean],
    NAMES,
    most + clean,
    "Most of these neurons answer to several kinds of text; the last six to one",
    subtitle="layer 8; the 18 neurons with the most concepts, then the 6 cleanest",
)

# %% [markdown]
# **Questions**
# 1. Could a neuron that answers to Python, other code and markup still have one meaning?
# <details><summary>Answer</summary>Yes: "not prose", or brackets and newlines. Several *labels* are not several *concepts*: our twelve kinds overlap. That is a limit of this measurement, and of every measurement that starts from labels.
# A neuron that answers to Chinese, Russian and markup is harder to excuse, and "German function words and English *since*" does not show up here at all, because single words are no label.</details>
#
# 2. Why compare with shuffled labels?
# <details><summary>Answer</summary>With 24 texts of a kind, chance alone moves a mean. The second line shows how often chance passes the threshold; only what goes beyond it counts.</details>
#
# ## More directions than dimensions
#
# Suppose the model knows more things than it has neurons. It can still give each a *direction*. How different can many directions be?

# %% [markdown]
# ### Exercise 01.3: Cosines between directions
#
# The directions are the rows of W, of any length.


# %% answer="01.3"
def cosine_similarity_matrix(W: Tensor) -> Tensor:
    """Cosines between all rows of `W` [n, d], as [n, n]. A row of zeros has cosine 0 with everything, itself included."""
    ### BEGIN SOLUTION
    unit = W / W.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return unit @ unit.T
    ### END SOLUTION


# %% check="01.3"
check("01.3", cosine_similarity_matrix)

# %%
off_diagonal = ~torch.eye(400, dtype=torch.bool)
generator = torch.Generator().manual_seed(0)
cosines = {
    d: cosine_similarity_matrix(torch.randn(400, d, generator=generator))[off_diagonal] for d in (3, 12, 48, 192, 768)
}
for d, values in cosines.items():
    print(f"d = {d:3}: mean {values.mean():+.4f}, standard deviation {values.std():.4f}, 1/sqrt(d) {d**-0.5:.4f}")
draw.cosine_histograms(
    cosines,
    "In many dimensions, random directions are almost orthogonal",
    subtitle="400 random directions; the spread is 1/√d",
)

# %% [markdown]
# In three dimensions any cosine is as likely as any other. In 768, two random directions are nearly always within a few degrees of a right angle. So many directions fit, if a little overlap is allowed.

# %% [markdown]
# ### Exercise 01.4: How many almost-orthogonal directions fit?
#
# Exactly d directions are exactly orthogonal. Allow |cosine| ≤ ε. Go through a list of random candidates and keep each one that is almost orthogonal to *all* kept so far.
# The candidates are not of length 1. Return *which* rows are kept, as a list of their numbers from 0; how many fit is the length of that list.


# %% answer="01.4"
def almost_orthogonal_capacity(candidates: Tensor, eps: float) -> list[int]:
    """Which rows of `candidates` [n, d] a greedy packing keeps: their indices, in order."""
    ### BEGIN SOLUTION
    unit = candidates / candidates.norm(dim=1, keepdim=True)
    kept: list[int] = []
    for i in range(len(unit)):
        if not kept or (unit[kept] @ unit[i]).abs().max() <= eps:
            kept.append(i)
    return kept
    ### END SOLUTION


# %% check="01.4"
check("01.4", almost_orthogonal_capacity)

# %%
dimensions = [8, 16, 32, 64, 96, 128]
tried = 800 if quick() else 3000
capacity = {
    eps: [len(almost_orthogonal_capacity(torch.randn(tried, d, generator=generator), eps)) for d in dimensions]
    for eps in (0.2, 0.3, 0.4)
}
draw.lines(
    dimensions,
    {
        **{f"|cosine| ≤ {eps}": counts for eps, counts in capacity.items()},
        "d (exactly orthogonal)": dimensions,
        f"all {tried} candidates": [tried] * 6,
    },
    "A little overlap buys many directions",
    subtitle=f"greedy packing of {tried} random candidates: a lower bound",
    x_name="dimensions d",
    y_name="directions kept (log)",
    log_y=True,
    dashed=("d (exactly orthogonal)", f"all {tried} candidates"),
)

# %% [markdown]
# On this logarithmic axis exponential growth would be a straight line; the curves rise steeply until they run out of candidates. With |cosine| ≤ 0.3 our greedy packing keeps about 1,700 directions in 128 dimensions. Johnson
# and Lindenstrauss (1984) say how this goes on: the number of directions that fit grows like $\exp(c\,\varepsilon^2 d)$. Mind where greedy packing does *worse* than d: for ε = 0.2 in
# fewer than about 96 dimensions, random candidates are a poor way to find even the orthogonal ones.
#
# ## What overlap costs
#
# Two features that share a direction in part disturb each other — but only when both are active.

# %% [markdown]
# ### Exercise 01.5: Interference, and why sparsity makes it cheap
#
# Features are the columns $W_i$, of any length, active independently with probability $p_i$, and then of size 1 with a random sign. (The signs make the products of
# two different disturbances cancel on average.) The expected squared disturbance of feature i, which counts only while i itself is active, is
#
# $$I_i = p_i \sum_{j \ne i} p_j\, (W_i \cdot W_j)^2$$


# %% answer="01.5"
def expected_interference(W: Tensor, p: Tensor) -> Tensor:
    """Expected interference of each feature: `W` is [d, n] (a feature a column), `p` is [n]; the result [n]."""
    ### BEGIN SOLUTION
    overlap = (W.T @ W).square().fill_diagonal_(0.0)
    return p * (overlap @ p)
    ### END SOLUTION


# %% check="01.5"
check("01.5", expected_interference)

# %%
W = torch.nn.functional.normalize(torch.randn(20, 100, generator=generator), dim=0)
probabilities = torch.logspace(-2, 0, 9)
formula = [float(expected_interference(W, torch.full((100,), float(p))).sum()) for p in probabilities]
simulated = []
for p in probabilities:
    active = (torch.rand(4000, 100, generator=generator) < p).float()
    # squared disturbance: each active pair adds its squared overlap (cross terms average out for random signs)
    simulated.append(float(torch.einsum("bi,bj,ij->", active, active, (W.T @ W).square().fill_diagonal_(0.0)) / 4000))
draw.lines(
    probabilities.tolist(),
    {"formula": formula, "simulation (4000 samples)": simulated},
    "Ten times rarer, a hundred times less interference",
    subtitle="100 random features in 20 dimensions",
    x_name="probability p that a feature is active (log)",
    y_name="total expected interference (log)",
    log_x=True,
    log_y=True,
    dashed=("simulation (4000 samples)",),
)

# %% [markdown]
# **Questions**
# 1. The benefit of storing one more feature grows like p. How does the cost grow, and what follows?
# <details><summary>Answer</summary>The cost grows like p². So when features get rarer, sharing dimensions pays sooner or later, whatever the overlaps are. That is the whole argument for superposition in one line; lesson 02 makes it exact.</details>
#
# 2. Is superposition the same as polysemanticity?
# <details><summary>Answer</summary>No. *Superposition*: more features than dimensions, stored as overlapping directions. *Polysemanticity*: one neuron answers to several features. Superposition forces polysemanticity if you look at
# neurons; but a model without superposition can be polysemantic too, when its features simply do not line up with neurons.</details>
#
# ## Features as directions
#
# If features are directions, a good direction should tell a concept apart better than any single neuron does.

# %% [markdown]
# ### Exercise 01.6: A concept as a direction
#
# The simplest direction is the *difference of means*: from the mean of texts without the concept to the mean of texts with it, scaled to length 1. Judge it on **other** texts, by the area under the ROC curve (AUC): the chance that
# a text with the concept scores above a text without it, with ties counting half. Chance is 0.5.


# %% answer="01.6"
def linear_probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> tuple[Tensor, float]:
    """(direction [d] of length 1 from the training part, its AUC on the test part). `train`, `test` are [texts, d], labels are True or False."""
    ### BEGIN SOLUTION
    difference = train[train_labels].mean(dim=0) - train[~train_labels].mean(dim=0)
    direction = difference / difference.norm()
    scores = test @ direction
    gaps = scores[test_labels][:, None] - scores[~test_labels][None, :]
    return direction, float(((gaps > 0).double() + 0.5 * (gaps == 0)).mean())
    ### END SOLUTION


# %% check="01.6"
check("01.6", linear_probe)

# %%
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from course_utils.features.concepts import concept_auc

# one token from the middle of each text: a whole text would make it too easy
stream = acts["blocks.11.hook_resid_post"][:, 40]
neurons = acts["blocks.8.mlp.hook_post"][:, 40]
half = torch.arange(len(concept)) % 2 == 0  # every other text trains, the others test
results = {"best single neuron (chosen on training texts)": [], "difference of means": [], "logistic regression": []}
for number in range(len(NAMES)):
    y = concept == number
    train_auc = concept_auc(neurons[half][y[half]].numpy(), neurons[half][~y[half]].numpy())  # all neurons at once
    best = int(train_auc.argmax())
    results["best single neuron (chosen on training texts)"].append(roc_auc_score(y[~half], neurons[~half, best]))
    results["difference of means"].append(linear_probe(stream[half], y[half], stream[~half], y[~half])[1])
    scale = stream[half].std()
    fitted = LogisticRegression(C=0.1, max_iter=500).fit((stream[half] / scale).numpy(), y[half].numpy())
    results["logistic regression"].append(
        roc_auc_score(y[~half], fitted.decision_function((stream[~half] / scale).numpy()))
    )
print({name: f"mean AUC {sum(values) / len(values):.3f}" for name, values in results.items()})
draw.paired_bars(
    NAMES,
    results,
    "A direction tells most kinds of text apart better than the best neuron",
    subtitle="held-out texts, one token each; residual stream after layer 11, neurons of layer 8",
    y="AUC",
    chance=0.5,
)

# %% [markdown]
# **Questions**
# 1. Why was the best neuron chosen on the training texts and not on the test texts?
# <details><summary>Answer</summary>Among 1536 neurons, some look good on the test texts by luck. Choosing and judging on the same texts would reward luck: the same mistake as judging a probe on its training data.</details>
#
# 2. Where does the single neuron win, and why?
# <details><summary>Answer</summary>In our run it beats the difference of means for fiction and for the dictionary; logistic regression beats it everywhere but in one close case. Averaged over the twelve kinds: neuron 0.65, difference of means 0.84, logistic
# regression 0.87. The difference of means ignores how the other directions vary; logistic regression corrects for that.</details>
#
# 3. A probe with AUC 0.95 shows that the model *has* the information. Does it show that the model *uses* it?
# <details><summary>Answer</summary>No. For that one has to change the direction and watch what the model does. That is next.</details>

# %% [markdown]
# ### Exercise 01.7: Steer along a direction
#
# TransformerLens calls a *hook* with an activation (and the hook point) and goes on with what it returns. Write a function that makes a hook: it adds `alpha` times the **unit** vector along `direction`, at every position, and
# leaves the activation it was given as it is. Models also run in half precision: what the hook returns has the activation's dtype.


# %% answer="01.7"
def steer_along(direction: Tensor, alpha: float):
    """A hook `hook(activation, hook=None)`, its parameters named so, for `activation` [batch, positions, d_model] that steers along `direction` [d_model]."""
    ### BEGIN SOLUTION
    unit = direction / direction.norm()

    def add(activation: Tensor, hook=None) -> Tensor:
        return activation + alpha * unit.to(activation.dtype)

    return add
    ### END SOLUTION


# %% check="01.7"
check("01.7", steer_along)

# %%
means = acts["blocks.11.hook_resid_post"][:, 1:].mean(dim=1)
german, _ = linear_probe(
    means[half], (concept == NAMES.index("German"))[half], means[~half], (concept == NAMES.index("German"))[~half]
)
random_direction = torch.randn(german.shape, generator=generator)
prompt = model.to_tokens("The house stands at the end of the street, and")
german_words = [
    model.tokenizer.encode(word, add_special_tokens=False)[0]
    for word in (" und", " die", " der", " das", " ist", " ein", " nicht", " mit")
]


def german_log_probability(alpha: float, direction: Tensor) -> float:
    """Log of the probability that the next token is one of eight German words, with the stream steered after layer 11."""
    with torch.no_grad():
        logits = model.run_with_hooks(prompt, fwd_hooks=[("blocks.11.hook_resid_post", steer_along(direction, alpha))])
    return float(logits[0, -1].log_softmax(dim=-1)[german_words].logsumexp(dim=0))


alphas = [-60.0, -30.0, 0.0, 15.0, 30.0, 60.0, 90.0, 120.0]
curves = {
    name: [german_log_probability(alpha, d) for alpha in alphas]
    for name, d in (("German", german), ("random direction", random_direction))
}
draw.lines(
    alphas,
    curves,
    "Adding the German direction makes German words likely",
    subtitle="prompt: “The house stands at the end of the street, and”; a random direction as control",
    x_name="alpha (length of what is added; the stream's own length is about 140)",
    y_name="log probability of eight German words",
    dashed=("random direction",),
)


# %%
def continuation(alpha: float, n_tokens: int = 16) -> str:
    """What the model writes, most likely token by token."""
    written = prompt
    for _ in range(n_tokens):
        with torch.no_grad():
            logits = model.run_with_hooks(
                written, fwd_hooks=[("blocks.11.hook_resid_post", steer_along(german, alpha))]
            )
        written = torch.cat([written, logits[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    return model.tokenizer.decode(written[0, prompt.shape[1] :])


for alpha in (0.0, 30.0, 60.0, 90.0):
    print(f"alpha = {alpha:3.0f}: {continuation(alpha, 6 if quick() else 16)!r}")

# %% [markdown]
# **Questions**
# 1. What does the control tell you?
# <details><summary>Answer</summary>That the effect belongs to *this* direction. Pushing the stream hard in any direction changes the output; without a random direction of the same length one could mistake damage for control.</details>
#
# 2. Why does very strong steering stop working?
# <details><summary>Answer</summary>The stream is then mostly the added vector: later layers see something they never saw in training. At alpha = 60 our model switches to German-looking words, at 90 to strings that are words in no language: it never writes good German here. Lesson 07 measures this trade-off.</details>
#
# ## Is there a right basis?
#
# Neurons have a privileged basis: the activation function acts on each of them separately. The residual stream has none: every layer reads it and writes to it with matrices, and matrices do not care.

# %% [markdown]
# ### Exercise 01.8: Turn the residual stream
#
# Row vectors: one layer writes $x = m\,W_{write}$, a later one reads $x\,W_{read}$. Let the stream carry $xR$ instead, for an orthogonal matrix R. Change both matrices so that everything that is read stays the same.


# %% answer="01.8"
def rotate_residual_basis(W_write: Tensor, W_read: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """New (W_write [d_mlp, d_model], W_read [d_model, d_mlp]) for a stream turned by the orthogonal `R` [d_model, d_model]."""
    ### BEGIN SOLUTION
    return W_write @ R, R.T @ W_read
    ### END SOLUTION


# %% check="01.8"
check("01.8", rotate_residual_basis)

# %%
W_write, W_read = (
    model.blocks[8].mlp.W_out.float(),
    model.blocks[9].mlp.W_in.float(),
)  # [d_mlp, d_model], [d_model, d_mlp]
R = torch.linalg.qr(torch.randn(576, 576, generator=generator))[0]
turned_write, turned_read = rotate_residual_basis(W_write, W_read, R)
m = acts["blocks.8.mlp.hook_post"][0]
before, after = m @ W_write @ W_read, m @ turned_write @ turned_read
print(
    f"turning the stream:  what layer 9 reads from layer 8 changes by {float((before - after).abs().max() / before.abs().max()):.1e} (rounding)"
)
Q = torch.linalg.qr(torch.randn(1536, 1536, generator=generator))[0]
h = m @ W_write @ W_read
around_relu = torch.relu(h @ Q) @ Q.T
print(
    f"turning around a ReLU: the result changes by {float((torch.relu(h) - around_relu).abs().max() / torch.relu(h).abs().max()):.2f} of its largest value"
)

# %% [markdown]
# (The real model also scales the stream by its length between layers. A rotation does not change a length; only the norm's learned gains would have to be folded into the reading matrices first.)
#
# **Questions to answer in words**
# 1. What is a feature? Give three definitions and the weak point of each.
# <details><summary>Answer</summary>(a) *A property of the input that people have a word for.* Weak: the model may use properties we have no word for. (b) *Whatever a sufficiently large model would give a neuron of its own.* Weak: cannot be tested on
# the model at hand. (c) *A direction whose activity is sparse and whose change has a consistent effect.* Weak: depends on how sparse and how consistent; and some structure is not a direction.</details>
#
# 2. Why need a privileged basis not be an interpretable one?
# <details><summary>Answer</summary>The non-linearity makes neurons *special*: features gain something from lining up with them. If there are more features than neurons, they cannot all do so, and the basis is special and polysemantic at once.</details>
#
# 3. What speaks for, and what against, features being linear directions?
# <details><summary>Answer</summary>For: probes and steering work, here too; sums of directions behave like sums of meanings. Against: days and months lie on circles (Engels et al. 2024), which no single direction captures (lesson 08); and a probe finds
# directions for anything that is separable, used or not.</details>
#
# ## Common mistakes
# - Reading a neuron's meaning off its ten best examples.
# - Choosing the best of many neurons and judging it on the same texts.
# - Forgetting that AUC 0.5, not 0, is chance.
# - Steering with a vector that was not scaled: alpha then means something else for every direction.
# - Keeping the position of BOS: its activations are hundreds of times larger than any other's and ruin every mean.
#
# ## Summary
# - Single neurons of a real model answer to several unrelated things; clean ones exist and are rare.
# - In d dimensions far more than d almost-orthogonal directions fit. Overlap costs interference, and interference falls with p².
# - A direction found on some texts recognises a concept on others, better than the best neuron, and steers the model.
# - The residual stream has no privileged basis. So features must be *found*: the rest of the course is about how.
#
# ## Further reading
# - Olah et al., *Zoom In: An Introduction to Circuits* (2020): polysemantic neurons in vision models.
# - Elhage et al., *Toy Models of Superposition* (2022); Park et al., *The Linear Representation Hypothesis* (2023).
# - Johnson and Lindenstrauss, *Extensions of Lipschitz mappings into a Hilbert space* (1984).
# - Engels et al., *Not All Language Model Features Are Linear* (2024).

# %%
progress()
