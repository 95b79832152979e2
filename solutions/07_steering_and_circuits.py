# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # 07 · Steering and circuits: from what a latent says to what it does
#
# A dashboard shows when a latent fires. Whether the model *uses* it is another question, and only an intervention answers it: push the latent, take it away, move it from one run into another, and look at what comes out. In this lesson you do all of that on a real
# language model, each time with the control that tells an effect from an accident. Some things work better than you would expect. Others do not work at all, and you will see those too.
#
# **You will be able to**
# - steer a model along a latent, and say what the push costs;
# - remove a latent without removing what the SAE never understood;
# - put an interval and a random control beside every effect;
# - estimate thousands of ablations from one backward pass, and check the estimate;
# - draw a small circuit of latents, and say how faithful and how complete it is.
#
# **Time**: about 3 h of exercises; the cells run in a few minutes on two CPU cores. **Before**: lessons 05 and 06.

# %% tags=["setup"]
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from course_utils import check, features, hint, progress, solution, viz
from course_utils.features import patching, support_desk
from course_utils.features.concepts import concept_auc
from course_utils.lm import load_corpus, load_model, load_sae, tasks
from course_utils.settings import quick

# %%
model, sae = load_model(), load_sae("middle").requires_grad_(False)
hook_name = sae.cfg.hook_name
corpus = load_corpus("heldout").pack(model, context=64)
other_text = corpus.tokens[
    torch.randperm(len(corpus), generator=torch.Generator().manual_seed(7))[: 2 if quick() else 4]
]
typical = float(features.activations_at(model, other_text, hook_name)[:, 1:].norm(dim=-1).median())
print(f"{hook_name}: {sae.W_dec.shape[0]:,} latents; typical length of the residual stream there {typical:.0f}")


def words(ids) -> list[str]:
    """Token ids as text, one string a token."""
    return features.token_strings(model.tokenizer, ids)


def first_tokens(*texts: str) -> list[int]:
    """The first token of each text."""
    return [model.tokenizer(text, add_special_tokens=False).input_ids[0] for text in texts]


# %% [markdown]
# ## Steering
#
# We need a latent to push. Take six sentences about the sea and six that are built alike about something else. For each sentence take each latent's largest activation; the latent whose mean differs most between the two groups is our candidate (exercise 06.7).

# %%
SEA = [
    "The ship sailed across the ocean in the storm.",
    "The whale rose from the water beside the boat.",
    "Sailors climbed the mast and watched the waves.",
    "The captain steered the vessel into the harbour.",
    "We could hear the sea from the deck of the schooner.",
    "The fishermen pulled their nets out of the bay.",
]
LAND = [
    "The teacher wrote the answer on the board in class.",
    "The cook put the bread into the oven in the kitchen.",
    "Farmers cut the wheat and fed the horses.",
    "The clerk filed the papers in the office.",
    "We could hear the music from the hall of the theatre.",
    "The doctors put their notes on the desk.",
]
with torch.no_grad():
    sea_acts, land_acts = (features.pooled_latents(model, sae, texts, progress=False) for texts in (SEA, LAND))
sea = int((sea_acts.mean(dim=0) - land_acts.mean(dim=0)).argmax())
print(
    f"latent {sea} fires in {int((sea_acts[:, sea] > 0).sum())} of 6 sentences about the sea "
    f"(mean {float(sea_acts[:, sea].mean()):.0f}) and in {int((land_acts[:, sea] > 0).sum())} of the other 6"
)

# %% [markdown]
# ### Exercise 07.1: Push along a latent
#
# A *hook* is a function that gets the activations at one point of the model and returns those that it goes on with. TransformerLens calls it as `hook(x, hook=point)` with `x` [batch, context, d], so the inner function is `def hook(x, hook):`, and the name `hook` matters. Write a function that makes a hook which adds
# `alpha` times the latent's direction, **brought to length one**, at the given positions and nowhere else.
#
# Why length one? Decoder rows of many SAEs differ in length; then the same alpha pushes one latent harder than another, and a random control is not comparable at all. With unit length, alpha says how hard you push, in the units of the stream itself. (In the course's SAEs all rows have length one already; in others not.)


# %% answer="07.1"
def steering_hook(sae, latent: int, alpha: float, positions: list[int]):
    """A hook that adds `alpha` times the unit vector along `sae.W_dec[latent]` at `positions`. It does not change its input."""

    def hook(x, hook):  # called as hook(x, hook=point): keep the name `hook`
        ### BEGIN SOLUTION
        direction = sae.W_dec[latent] / sae.W_dec[latent].norm()
        x = x.clone()
        x[:, positions] += alpha * direction
        return x
        ### END SOLUTION

    return hook


# %% check="07.1"
check("07.1", steering_hook)

# %% [markdown]
# What it does to a story. (`features.continuations` pushes at every token but BOS, the newly written ones included.)

# %%
story = "I opened the door and saw"
doses = [0.0, 40.0, 80.0, 160.0]
told = features.continuations(model, sae, story, sea, doses, max_new_tokens=12 if quick() else 24)
for dose, ids in zip(doses, told):
    print(f"alpha {dose:3.0f}: {story}{model.tokenizer.decode(ids)!r}")

# %% [markdown]
# One continuation is an anecdote. Measure: six beginnings that could go anywhere, and the log-probability that the next word is one of eight words about the sea. Beside it the **cost**: the perplexity of other text, a few hundred tokens of the corpus, under the same push. And four random directions
# of the same length, because *any* push changes the model.

# %%
NEUTRAL = [
    "I opened the door and saw the",
    "She told us a story about the",
    "My favourite picture shows the",
    "We talked all evening about the",
    "In the end he went back to the",
    "The children were drawing the",
]
SEA_WORDS = first_tokens(" sea", " ship", " ocean", " water", " boat", " waves", " shore", " sailors")
neutral_rows = [model.to_tokens(text) for text in NEUTRAL]
width = max(row.shape[1] for row in neutral_rows)
neutral = torch.cat([torch.nn.functional.pad(row, (0, width - row.shape[1]), value=2) for row in neutral_rows])
neutral_last = torch.tensor([row.shape[1] - 1 for row in neutral_rows])
neutral_x, other_x = patching.resid_at(model, neutral, hook_name), patching.resid_at(model, other_text, hook_name)


@torch.no_grad()
def sea_words(push: Tensor) -> float:
    """Mean log-probability of a word about the sea when `push` [d] is added everywhere but on BOS."""
    x = torch.cat([neutral_x[:, :1], neutral_x[:, 1:] + push], dim=1)
    logits = patching.last_logits(model, x, hook_name, at=neutral_last)
    return float(logits.log_softmax(dim=-1)[:, SEA_WORDS].logsumexp(dim=-1).mean())


@torch.no_grad()
def perplexity(push: Tensor) -> float:
    """Perplexity of other text under the same push."""

    def add(x, hook):
        return torch.cat([x[:, :1], x[:, 1:] + push], dim=1)

    logits = model.run_with_hooks(other_text, fwd_hooks=[(hook_name, add)])
    losses = torch.nn.functional.cross_entropy(logits[:, 1:-1].flatten(0, 1), other_text[:, 2:].flatten())
    return float(losses.exp())


unit = sae.W_dec[sea].detach() / sae.W_dec[sea].detach().norm()
alphas = [0.0, 40.0, 120.0] if quick() else [-80.0, -40.0, 0.0, 20.0, 40.0, 60.0, 80.0, 120.0, 160.0]
controls = [features.random_control(sae, sea, seed=100 + i) for i in range(1 if quick() else 4)]
response, cost = [sea_words(a * unit) for a in alphas], [perplexity(a * unit) for a in alphas]
control_response = [[sea_words(a * v) for a in alphas] for v in controls]
control_cost = [[perplexity(a * v) for a in alphas] for v in controls[:2]]
best = int(np.argmax(response))
print(
    f"log-probability of a word about the sea: {response[alphas.index(0.0)]:.2f} unsteered, {max(response):.2f} at alpha "
    f"{alphas[best]:.0f}, where the perplexity of other text is {cost[best]:.1f} instead of {cost[alphas.index(0.0)]:.1f}"
)
viz.dose_response_figure(
    alphas,
    response,
    cost,
    control_response,
    control_cost,
    "The effect rises, peaks and falls; the cost only rises",
    subtitle=f"one latent of layer 11; typical length of the stream there: {typical:.0f}",
    effect_name="log-probability of a word about the sea",
)

# %% [markdown]
# Three things to read off. The effect is not linear in the dose: it peaks well below the length of the stream itself and then falls, because a model that is pushed too far says nothing sensible about anything. The cost grows in both directions from zero. And random directions of
# the same length cost about as much and do far less. A steering result without the right-hand panel is half a result: at the largest dose the model is *talking about* the sea in the sense in which a stuck record is singing.
#
# **Question.** The push was added at every position. When would you add it at some positions only?
# <details><summary>Answer</summary>When the question is about those positions: for instance on the customer's message but not on the question about it, as below. Pushing everywhere also pushes the position that answers, and then you cannot tell "the model reads the message differently" from "the model says the word more often".</details>

# %% [markdown]
# ## Taking away, and keeping the rest

# %% [markdown]
# ### Exercise 07.2: Clamp and ablate, and keep what the SAE misses
#
# An SAE splits each state: $x = \hat x + e$, with the reconstruction $\hat x = f W_{dec} + b_{dec}$ and the error $e$. To set one latent to a value, change *its* contribution and nothing else: the other latents stay, and so does $e$. Ablating is clamping to 0. If you decode the edited latents and put that into the model, you remove the latent *and the error*, and
# the error is a large part of what the model computes with.


# %% answer="07.2"
def clamp_latent(sae, latent: int, value: float, positions: list[int]):
    """A hook that sets one latent to `value` at `positions`; the other latents and the SAE's error stay.

    `sae.encode(x)` gives the activations [batch, context, latents]. The hook does not change its input.
    """

    def hook(x, hook):  # called as hook(x, hook=point): keep the name `hook`
        ### BEGIN SOLUTION
        now = sae.encode(x)[..., latent]
        x = x.clone()
        x[:, positions] += (value - now)[:, positions, None] * sae.W_dec[latent]
        return x
        ### END SOLUTION

    return hook


# %% check="07.2"
check("07.2", clamp_latent)

# %% [markdown]
# How much does the error matter? We ablate the strongest latents of some text one by one, and compare how far the next-token distribution moves (KL divergence, nats) with what happens when **no** latent is touched and only the error is dropped.

# %%
text = other_text[:1] if quick() else other_text[:2]
after_bos = list(range(1, text.shape[1]))


@torch.no_grad()
def moved(hook) -> float:
    """Mean KL divergence (nats a token) between the model as it is and the model with a hook."""
    here = model.run_with_hooks(text, fwd_hooks=[(hook_name, hook)])[:, 1:].log_softmax(dim=-1)
    return float((untouched.exp() * (untouched - here)).sum(dim=-1).mean())


def without_error(x, hook):
    """The mistake, for comparison: the reconstruction in place of the state."""
    return torch.cat([x[:, :1], sae.decode(sae.encode(x))[:, 1:]], dim=1)


with torch.no_grad():
    untouched = model(text)[:, 1:].log_softmax(dim=-1)
    text_acts = sae.encode(features.activations_at(model, text, hook_name).float())[:, 1:]
    strongest = text_acts.sum(dim=(0, 1)).topk(2 if quick() else 10).indices.tolist()
    ablated = [moved(clamp_latent(sae, latent, 0.0, after_bos)) for latent in strongest]
    error_alone = moved(without_error)
viz.contribution_figure(
    ["only the SAE's error", *(f"latent {latent}" for latent in strongest)],
    [error_alone, *ablated],
    "Dropping the error moves the model further than removing any latent",
    subtitle="the latents that are most active on this text, removed one by one with the error kept",
    x="KL divergence from the untouched model (nats a token)",
)

# %% [markdown]
# An "ablation" that drops the error measures the error. That is why every intervention below works on the state itself.
#
# ## How much would any direction do?

# %% [markdown]
# ### Exercise 07.3: A random direction as long as yours
#
# `effect_of(vector)` measures what adding a vector does. Measure your direction, then `n` random directions **of the same length** (normal noise, from `generator`), and give the two-sided p-value $(1 + \#\{|c| \ge |\text{effect}|\}) / (1 + n)$. Counting your own direction keeps p above 0: finitely many controls cannot show p = 0.


# %% answer="07.3"
def against_random(
    effect_of: Callable[[Tensor], float], direction: Tensor, n: int, generator: torch.Generator
) -> tuple[float, list[float], float]:
    """(effect of `direction` [d], effects of n random directions of the same length, two-sided p-value)."""
    ### BEGIN SOLUTION
    effect = float(effect_of(direction))
    controls = []
    for _ in range(n):
        noise = torch.randn(direction.shape, generator=generator)
        controls.append(float(effect_of(noise * direction.norm() / noise.norm())))
    larger = sum(abs(other) >= abs(effect) for other in controls)
    return effect, controls, (1 + larger) / (1 + n)
    ### END SOLUTION


# %% check="07.3"
check("07.3", against_random)

# %%
start = sea_words(torch.zeros_like(unit))
effect, random_effects, p = against_random(
    lambda vector: sea_words(vector) - start, 40 * unit, 5 if quick() else 59, torch.Generator().manual_seed(3)
)
viz.control_figure(
    effect,
    random_effects,
    "No random direction of the same length does as much"
    if max(map(abs, random_effects)) < abs(effect)
    else "Some random directions do as much",
    subtitle=f"dose 40; {len(random_effects)} random directions, p = {p:.3f}",
    x="change of the log-probability of a word about the sea",
)

# %% [markdown]
# **Question.** Is a random direction the hardest control?
# <details><summary>Answer</summary>No. Random directions miss the subspace in which the stream varies, so they are easy to beat. Harder ones: the decoder rows of other latents that are as active; the difference of the two mean states (sea minus land), which needs no SAE; a direction found by a probe. If the difference of means steers as well as your latent, the SAE was not needed for steering.</details>
#
# ## The support desk
#
# Now a study as you would run it at work. The course ships messages to a support desk, labelled with what they are about. Does the model understand them, which latents carry the topic, and can we change its mind?
#
# **First, can the model do it?** Asked yes/no questions in its chat template it is close to guessing (areas under the ROC curve between 0.53 and 0.65). So we take the nearest thing that it does better: it continues *"Customer message: … The customer complains about the"*, and we compare the words of four topics (refund: *refund*; delay: *delay, delivery*; anger: *service, customer*; price: *price, cost*) on messages to which
# **exactly one** of refund, delay, anger, price applies. These messages are hard on purpose: most also mention topics that do *not* apply ("I am not asking for a refund").

# %%
n_train, n_test = (24, 12) if quick() else (120, 48)
train = support_desk.topic_messages(model.tokenizer, "train", n_train, max_tokens=44)
test = support_desk.topic_messages(model.tokenizer, "heldout", n_test)
topic_words = support_desk.topic_tokens(model.tokenizer)
train_x, test_x = (support_desk.read_messages(model, part, hook_name) for part in (train, test))


def topic_scores(push: Tensor) -> Tensor:
    """Score of each topic [messages, topics]: logsumexp of the logits of the topic's words (unnormalised), held-out messages.

    `push` is added on the message's tokens.
    """
    logits = support_desk.steered_logits(model, test, test_x, push, hook_name)
    return torch.stack([logits[:, group].logsumexp(dim=1) for group in topic_words], dim=1)


base = topic_scores(torch.zeros_like(unit))
share = base.log_softmax(dim=1)  # log-probability of each topic among the four
guess = (share - share.mean(dim=0)).argmax(dim=1)  # the model's liking for some words over others taken out
majority = torch.bincount(test.topic, minlength=4).max() / len(test)
print(
    f"right topic on {len(test)} held-out messages: {float((guess == test.topic).float().mean()):.0%}; always the most frequent: {float(majority):.0%}"
)
for i, topic in enumerate(support_desk.TOPICS):
    own, rest = share[test.topic == i, i].numpy(), share[test.topic != i, i].numpy()
    print(
        f"  {topic:7} AUC of the model's own answer {float(concept_auc(own[:, None], rest[:, None])[0]):.2f} ({len(own)} messages)"
    )

# %% [markdown]
# Better than guessing, and far from good. That is what there is to steer.
#
# **Which latents?** For each topic, the latent that tells it best from the other three on *training* messages (AUC of its largest activation inside the message). Training and held-out messages share no sentence template, so the second number says whether the latent knows the topic or the phrase.

# %%
train_latents, test_latents = (
    support_desk.message_latents(sae, x, part) for x, part in ((train_x, train), (test_x, test))
)
chosen = {}
for i, topic in enumerate(support_desk.TOPICS):
    found = features.find_latents_for_concept(train_latents[train.topic == i], train_latents[train.topic != i], 1)
    chosen[topic] = found.latents[0]
    unseen = concept_auc(test_latents[test.topic == i].numpy(), test_latents[test.topic != i].numpy())
    print(
        f"{topic:7} latent {chosen[topic]:4}: AUC {found.scores[0]:.2f} on training messages, {unseen[chosen[topic]]:.2f} on held-out ones"
    )

# %% [markdown]
# ### Exercise 07.4: Did the answer move? An interval over messages
#
# Each message gives topic scores before and after steering. The log-odds of a topic are its score minus the `logsumexp` of the other topics' scores. Compute the change **for each message**, then the mean, then a 95% percentile interval of that mean by bootstrap: draw as many messages as there are, with replacement, `resamples` times.
#
# The same messages are measured twice. Keep the pairs: messages differ from each other far more than steering changes any of them.


# %% answer="07.4"
def change_in_log_odds(before: Tensor, after: Tensor, topic: int, resamples: int, rng) -> tuple[float, float, float]:
    """(mean change of one topic's log-odds, 2.5% point, 97.5% point). Scores are [messages, topics]; rng is a numpy Generator."""

    ### BEGIN SOLUTION
    def log_odds(scores):
        others = torch.cat([scores[:, :topic], scores[:, topic + 1 :]], dim=1)
        return scores[:, topic] - others.logsumexp(dim=1)

    change = (log_odds(after) - log_odds(before)).double().numpy()
    rows = rng.integers(len(change), size=(resamples, len(change)))
    low, high = np.quantile(change[rows].mean(axis=1), [0.025, 0.975])
    return float(change.mean()), float(low), float(high)
    ### END SOLUTION


# %% check="07.4"
check("07.4", change_in_log_odds)

# %% [markdown]
# Raise each topic's latent by 30 on the tokens of the message, and only there, and ask about all four topics: a steering direction should move its own topic and leave the others alone. Below, three random directions of the same length.

# %%
dose = 30.0
pushes = {f"+ {topic} (latent {latent})": dose * sae.W_dec[latent].detach() for topic, latent in chosen.items()}
pushes |= {f"+ random {i + 1}": dose * features.random_control(sae, sea, seed=i) for i in range(1 if quick() else 3)}
rng = np.random.default_rng(0)
steered = {name: topic_scores(push) for name, push in pushes.items()}
table = np.array(
    [[change_in_log_odds(base, after, i, 2000, rng) for i in range(4)] for after in steered.values()]
)  # [push, topic, (mean, low, high)]
own = {topic: table[i, i] for i, topic in enumerate(support_desk.TOPICS)}
clear = [topic for i, (topic, (_, low, _)) in enumerate(own.items()) if low > table[4:, i, 2].max()]
viz.steering_matrix(
    table[..., 0],
    table[..., 1],
    table[..., 2],
    list(pushes),
    list(support_desk.TOPICS),
    f"Raised further than by any random direction: {', '.join(clear) or 'no topic'}",
    subtitle=f"change of the log-odds on {len(test)} held-out messages, 95% bootstrap interval; bold: excludes zero",
)

# %% [markdown]
# Raising is one half. The other: **lower** the same latents (push by −30), and set them to zero where they fire (exercise 07.2).

# %%
own_effect = {"raised": [], "lowered": [], "set to zero": []}
for i, (topic, latent) in enumerate(list(chosen.items())[: 1 if quick() else 4]):
    down = topic_scores(-dose * sae.W_dec[latent].detach())
    with torch.no_grad():
        edited = test_x - (sae.encode(test_x)[..., [latent]] * test.in_message[..., None]) * sae.W_dec[latent]
        logits = patching.last_logits(model, edited, hook_name, at=test.last)
        off = torch.stack([logits[:, group].logsumexp(dim=1) for group in topic_words], dim=1)
    for name, after in zip(own_effect, (steered[f"+ {topic} (latent {latent})"], down, off)):
        own_effect[name].append((topic, *change_in_log_odds(base, after, i, 2000, rng)))
viz.interval_figure(
    own_effect,
    "Pushing moves an answer that removing hardly touches",
    subtitle="each topic's own latent; 95% bootstrap intervals over held-out messages",
    x="change of the topic's log-odds",
)

# %% [markdown]
# **What did not steer, and what these intervals do not cover.** When we run this, *delay* rises by 1.1 and *price* by 1.0 units of log-odds under their own latents, where the best of three random directions gives 0.2, and mostly at the expense of the other topics. *Refund* rises by 0.5, while one random direction alone gives 0.3: not a result yet. *Anger* does not steer: its best latent of 4,608 tells anger no better than chance on held-out messages (AUC 0.44), and
# raising it adds 0.2 where a random push adds up to 0.4. Look at the random rows again: a random push moves some answers by a few tenths, with an interval that **excludes zero**. The interval says that this direction really moves this answer on such messages. It does not say that the direction means anything; only the comparison between directions says that.
#
# Setting the latents to zero changes little: where a latent is silent in most messages there is nothing to remove, and the topic is also written elsewhere. So a latent can be a good *handle* without being where the model keeps the information. And the price latent steers although it detects held-out messages about prices barely better than chance (0.53): what reads well and what steers well need not be the same latent.
# Last, messages share templates, a few for each topic. Intervals over messages treat each as new, so they are too narrow as a statement about customers.

# %% [markdown]
# ## Who says it?
#
# From here on a task with a known answer: indirect-object identification (Wang et al. 2022). *"When Mary and John went to the store, John gave a drink to"* → *Mary*. **First: can the model do it?**

# %%
n_ioi = 24 if quick() else 120
with torch.no_grad():
    for template in range(1 if quick() else 3):
        prompts = tasks.ioi_prompts(model.tokenizer, n_ioi // 3, seed=50 + template, template=template)
        logits = model(prompts.tokens)[:, -1]
        gap = tasks.logit_difference(logits, prompts.answer, prompts.wrong)
        print(
            f"{prompts.texts[0]!r} …: right name above the wrong one in {int((gap > 0).sum())} of {len(gap)} (chance: half); "
            f"logit difference {float(gap.mean()):.2f} ± {float(gap.std()):.2f}; first of all words in {float((logits.argmax(-1) == prompts.answer).float().mean()):.0%}"
        )

# %% [markdown]
# ### Exercise 07.5: Who says it? Direct logit attribution by latent
#
# The final stream is a sum, and latent $i$ of an SAE contributes the summand $f_i\,W_{dec}[i]$. Follow it through the final RMS norm and the unembedding: with the norm's divisor **frozen** at its value for the whole stream, everything is linear, and a latent's part of the logit difference is
# $$f_i \; W_{dec}[i] \cdot \frac{\gamma \odot (W_U[:, \text{answer}] - W_U[:, \text{wrong}])}{\sqrt{\text{mean}(x_{final}^2) + \epsilon}}$$


# %% answer="07.5"
def direct_logit_attribution(
    f: Tensor, W_dec: Tensor, final: Tensor, gain: Tensor, eps: float, W_U: Tensor, answer: Tensor, wrong: Tensor
) -> Tensor:
    """Each latent's direct part of logit(answer) - logit(wrong), [batch, latents].

    f [batch, latents], W_dec [latents, d], final [batch, d] (the stream before the final norm), gain [d], W_U [d, vocabulary],
    answer and wrong [batch] (token ids).
    """
    ### BEGIN SOLUTION
    divisor = (final.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    readout = (W_U[:, answer] - W_U[:, wrong]).T * gain / divisor
    return f * (readout @ W_dec.T)
    ### END SOLUTION


# %% check="07.5"
check("07.5", direct_logit_attribution)

# %%
late = load_sae("late").requires_grad_(False)
ioi = tasks.ioi_prompts(model.tokenizer, 8 if quick() else 32, seed=1)
with torch.no_grad():
    states = patching.all_resid(model, ioi.tokens, [features.hook_layer(late.cfg.hook_name), model.cfg.n_layers - 1])
    at_late, final = (x[:, -1].float() for x in states.values())
    late_acts, gain, eps = late.encode(at_late), model.ln_final.weight.float(), float(model.cfg.eps)
    W_U = model.W_U.float()
    parts = direct_logit_attribution(late_acts, late.W_dec, final, gain, eps, W_U, ioi.answer, ioi.wrong)
    readout = (W_U[:, ioi.answer] - W_U[:, ioi.wrong]).T * gain / (final.square().mean(-1, keepdim=True) + eps).sqrt()
    error = ((at_late - late.decode(late_acts)) * readout).sum(dim=-1)
    bias, later = late.b_dec @ readout.T, ((final - at_late) * readout).sum(dim=-1)
    total = (final * readout).sum(dim=-1)
pieces = {"all latents of layer 21": parts.sum(dim=-1), "its error": error, "its bias": bias, "layers 22 to 29": later}
viz.contribution_figure(
    [*pieces, "sum: the logit difference"],
    [float(part.mean()) for part in (*pieces.values(), total)],
    "Most of the answer is written after layer 21, or is in no latent",
    subtitle=f"parts of the logit difference at the last position, mean over {len(ioi)} prompts; they add up exactly",
    x="logits",
)

# %%
names_of_latents = features.logit_effects(
    model, late, parts.mean(dim=0).topk(8).indices.tolist(), 3, norm=features.FinalNorm(torch.diag(gain), False)
)
for latent, top in zip(parts.mean(dim=0).topk(8).indices.tolist(), names_of_latents.top_tokens):
    fires = late_acts[:, latent] > 0
    print(
        f"latent {latent:4}: {float(parts[:, latent].mean()):+.3f} on average, active in {int(fires.sum()):2} of {len(ioi)} prompts, raises {words(top)}"
    )

# %% [markdown]
# No latent of layer 21 "says Mary". The largest contributions are a few hundredths of a logit each, they come from latents that are active on nearly every prompt, and the words these raise are no names: what there is, is spread thin. Most of the difference is written in the last eight layers, some is in the error, and some in the SAE's *bias*, which is the same on every prompt and so cannot know a name: with few prompts a constant liking for some names does not average out. "Direct" attribution is exact, and exactly as narrow as its name: it sees one path.
#
# ## All ablations at once

# %% [markdown]
# ### Exercise 07.6: All ablations at once, to first order
#
# Really ablating a latent costs a forward pass; there are 4,608 of them, at every position. *Attribution patching* (Nanda 2023) estimates all at once: removing latent $i$ at position $t$ moves the state by $-f_i W_{dec}[i]$, so the metric moves by about $-f_i\; W_{dec}[i] \cdot \partial m / \partial x_t$.
#
# Take the gradient **in the real model**: let the hook hand on the activations themselves, as a fresh leaf. If you hand on the SAE's reconstruction instead, you differentiate another model, the one without the error.


# %% answer="07.6"
def attribution_patching(model, sae, tokens: Tensor, hook_name: str, metric) -> Tensor:
    """Estimated effect on `metric(logits)`, a scalar, of removing each latent at each position [batch, context, latents].

    `model.run_with_hooks(tokens, fwd_hooks=[(name, hook)])` gives logits; `metric` gets all of them [batch, context, vocabulary].
    """
    ### BEGIN SOLUTION
    kept = {}

    def hook(x, hook):
        kept["x"] = x.detach().requires_grad_(True)
        return kept["x"]

    value = metric(model.run_with_hooks(tokens, fwd_hooks=[(hook_name, hook)]))
    (gradient,) = torch.autograd.grad(value, kept["x"])
    with torch.no_grad():
        return -sae.encode(kept["x"]) * (gradient @ sae.W_dec.T)
    ### END SOLUTION


# %% check="07.6"
check("07.6", attribution_patching)

# %% [markdown]
# Does the estimate hold? We take the latents with the largest estimates, and as many drawn at random from those active on the prompts, and ablate each for real, everywhere but on BOS.

# %%
few = ioi[: 2 if quick() else 8]


def mean_gap(logits: Tensor) -> Tensor:
    """Mean logit difference of the prompts in `few`."""
    return tasks.logit_difference(logits[:, -1], few.answer, few.wrong).mean()


estimate = attribution_patching(model, sae, few.tokens, hook_name, mean_gap)[:, 1:].sum(dim=(0, 1))
n_each = 4 if quick() else 40
largest = estimate.abs().topk(n_each).indices
active = (estimate != 0).nonzero()[:, 0]
active = active[~torch.isin(active, largest)]
drawn = active[torch.randperm(len(active), generator=torch.Generator().manual_seed(5))[:n_each]]
few_x = patching.resid_at(model, few.tokens, hook_name)
few_last = {"clean": float(tasks.logit_difference(model(few.tokens)[:, -1], few.answer, few.wrong).mean())}
real = []
with torch.no_grad():
    everywhere = list(range(1, few.tokens.shape[1]))
    for latent in torch.cat([largest, drawn]).tolist():
        x = clamp_latent(sae, latent, 0.0, everywhere)(few_x, hook=None)
        real.append(
            float(tasks.logit_difference(patching.last_logits(model, x, hook_name), few.answer, few.wrong).mean())
        )
real = np.array(real) - few_last["clean"]
guessed = estimate[torch.cat([largest, drawn])].detach().numpy()
fit, fit_random = np.corrcoef(guessed, real)[0, 1], np.corrcoef(guessed[n_each:], real[n_each:])[0, 1]
print(
    f"correlation of estimate and real ablation: {fit:.2f} over all, {fit_random:.2f} over the {n_each} drawn at random"
)
viz.agreement_figure(
    guessed,
    real,
    f"One backward pass predicts {len(real)} ablations: correlation {fit:.2f}",
    subtitle=f"middle layer, logit difference over {len(few)} prompts; half of the latents chosen by estimate, half at random",
    names=[f"latent {i}" for i in torch.cat([largest, drawn]).tolist()],
    x="estimated change of the logit difference",
    y="measured by ablation",
)

# %% [markdown]
# The estimate is good in the middle and least exact for the strongest latents, where the metric bends: exactly the ones you care about. Use it to choose what to ablate, not instead of ablating.
#
# ## From latent to latent

# %% [markdown]
# ### Exercise 07.7: Virtual weights between two layers
#
# What an earlier latent writes stays in the stream; a later latent reads from it. Along the residual stream alone, one unit of upstream latent $u$ adds $W_{dec}^{up}[u] \cdot W_{enc}^{down}[:, v]$ to the pre-activation of downstream latent $v$ (Elhage et al. 2021 call such products virtual weights).


# %% answer="07.7"
def virtual_weights(upstream, downstream) -> Tensor:
    """What one unit of each upstream latent adds to each downstream pre-activation directly, [upstream, downstream]."""
    ### BEGIN SOLUTION
    return upstream.W_dec @ downstream.W_enc
    ### END SOLUTION


# %% check="07.7"
check("07.7", virtual_weights)

# %% [markdown]
# Ten layers lie between the middle SAE and the late one, and they all read and write too. So compare: remove an upstream latent at one position, run the ten layers, and see how far the downstream pre-activations there really move, against $-f_u$ times the virtual weight. Two kinds of pairs: the strongest virtual weight of each latent, and pairs drawn at random.

# %%
weights = virtual_weights(sae, late).detach()
late_name = late.cfg.hook_name
sentence = other_text[:1, :40]


@torch.no_grad()
def at_late_layer(hook=None) -> Tensor:
    """The stream at the late layer [context, d], with a hook at the middle one."""
    seen = {}

    def look(x, hook):
        seen["x"] = x[0]

    hooks = [] if hook is None else [(hook_name, hook)]
    model.run_with_hooks(
        sentence, fwd_hooks=[*hooks, (late_name, look)], stop_at_layer=features.hook_layer(late_name) + 1
    )
    return seen["x"]


untouched_late = at_late_layer()
sentence_acts = sae.encode(features.activations_at(model, sentence, hook_name).float())[0]
generator = torch.Generator().manual_seed(11)
predicted, measured, kinds = [], [], []
places = torch.randperm(sentence.shape[1] - 4, generator=generator)[: 2 if quick() else 30] + 2
for place in places.tolist():
    upstream = int(sentence_acts[place].argmax())
    change = at_late_layer(clamp_latent(sae, upstream, 0.0, [place])) - untouched_late
    row = weights[upstream]
    pairs = [int(row.abs().argmax()), *torch.randint(len(row), (3,), generator=generator).tolist()]
    for i, downstream in enumerate(pairs):
        predicted.append(float(-sentence_acts[place, upstream] * row[downstream]))
        measured.append(float(change[place] @ late.W_enc[:, downstream]))
        kinds.append("strongest" if i == 0 else "random")
predicted, measured, is_top = np.array(predicted), np.array(measured), np.array(kinds) == "strongest"
top_fit, random_fit = (float(np.corrcoef(predicted[part], measured[part])[0, 1]) for part in (is_top, ~is_top))
print(
    f"strongest pairs: correlation {top_fit:.2f}, same sign in {float((predicted[is_top] * measured[is_top] > 0).mean()):.0%}, "
    f"measured over predicted (median) {float(np.median(measured[is_top] / predicted[is_top])):.2f}; random pairs: correlation {random_fit:.2f}"
)
viz.agreement_figure(
    predicted,
    measured,
    "Virtual weights know the direct path; ten layers in between add to it",
    subtitle=f"strongest pairs: correlation {top_fit:.2f}; random pairs: {random_fit:.2f}",
    names=kinds,
    x="predicted: −activation × virtual weight",
    y="measured change of the later latent's pre-activation",
)

# %% [markdown]
# **Question.** A latent in the middle has a large virtual weight to a late latent, but removing it changes nothing there. Name two reasons.
# <details><summary>Answer</summary>A layer in between reads the same latent and writes the opposite (the model erases or moves it), or another latent that depends on it makes up for the loss. And the reverse: small weight, large effect, when the path goes through attention or an MLP.</details>

# %% [markdown]
# ### Exercise 07.8: How one latent moves another
#
# The gradient $\partial f^{down}_v / \partial f^{up}_u$ through the real model follows *all* paths, to first order. Raising an upstream latent means adding its decoder row (the error stays), so project the gradient with respect to the upstream state on the decoder. Give it for one downstream latent at one position, with respect to every upstream latent at every position. (`up_name` and `down_name` may be the same; the upstream hook comes first.)


# %% answer="07.8"
def latent_to_latent_gradients(
    model, upstream, up_name: str, downstream, down_name: str, tokens: Tensor, position: int, latent: int
) -> Tensor:
    """Gradient of downstream latent `latent` at `position` with respect to all upstream latents, [context, upstream latents]
    (all zeros if that latent is silent there).

    `tokens` is [1, context]; `model.run_with_hooks(tokens, fwd_hooks=[(name, hook), (name, hook)])`.
    """
    ### BEGIN SOLUTION
    seen = {}

    def enter(x, hook):
        seen["up"] = x.detach().requires_grad_(True)
        return seen["up"]

    def leave(x, hook):
        seen["down"] = x

    model.run_with_hooks(tokens, fwd_hooks=[(up_name, enter), (down_name, leave)])
    target = downstream.encode(seen["down"])[0, position, latent]
    (gradient,) = torch.autograd.grad(target, seen["up"])
    return gradient[0] @ upstream.W_dec.T
    ### END SOLUTION


# %% check="07.8"
check("07.8", latent_to_latent_gradients)

# %% [markdown]
# Put together: a circuit. `features.feature_graph` starts from the late latents with the largest (first-order) effect on the logit difference of one prompt, asks with these gradients which middle latents made them what they are, and then which early ones. Everything is relative to the *mean* over other prompts of the same shape, so what remains is about these names and not about the sentence. Each latent is
# labelled with the tokens on which it fires most strongly in the corpus. (The course's functions hand the metric the logits of the last position only; yours hand it all of them.)

# %%
early = load_sae("early").requires_grad_(False)
others = tasks.ioi_prompts(model.tokenizer, 12 if quick() else 40, seed=2)
example = ioi[:1]
graph = features.feature_graph(
    model,
    [early, sae, late],
    example.tokens,
    others.tokens,
    lambda logits: tasks.logit_difference(logits, example.answer, example.wrong),
    roots=3 if quick() else 5,
    parents=3,
    per_layer=7,
)

# %%
label_text = corpus.tokens[:8] if quick() else corpus.tokens[100:148]


@torch.no_grad()
def labels_of(nodes) -> dict:
    """For each (layer, latent) the tokens of its two strongest firings in some text."""
    coders = {features.hook_layer(coder.cfg.hook_name): coder for coder in (early, sae, late)}
    streams = patching.all_resid(model, label_text, list(coders))
    found = {}
    for layer, coder in coders.items():
        wanted = sorted({node.latent for node in nodes if node.layer == layer})
        acts = coder.encode(streams[layer][:, 1:].float())[..., wanted].flatten(0, 1)
        ids = label_text[:, 1:].flatten()
        for column, latent in enumerate(wanted):
            best = acts[:, column].topk(12)
            peak = list(dict.fromkeys(words(ids[best.indices[best.values > 0]])))[:2]
            found[layer, latent] = " ".join(f"{token.strip()}" for token in peak) or "?"
    return found


from dataclasses import replace

labels = labels_of(graph.nodes)
graph = replace(graph, nodes=[replace(node, label=labels[node.layer, node.latent]) for node in graph.nodes])
viz.feature_graph_figure(
    graph,
    f"A circuit of {len(graph.nodes)} latents behind one answer",
    subtitle=f"“{example.texts[0]}” → “{model.tokenizer.decode(example.answer)}”; blue adds, red takes away; hover for numbers",
)

# %% [markdown]
# A graph like this is a set of claims, each to first order. Check some: remove the upstream node (set it to its mean) and see how far the downstream latent really moves.

# %%
coders = {features.hook_layer(coder.cfg.hook_name): coder for coder in (early, sae, late)}
means = {layer: features.latent_states(model, coder, example.tokens, others.tokens) for layer, coder in coders.items()}
claimed, found_change = [], []
with torch.no_grad():
    for edge in sorted(graph.edges, key=lambda edge: -abs(edge.weight))[: 3 if quick() else 24]:
        (layer, place, latent), (to_layer, to_place, to_latent) = edge.source, edge.target
        up, down, seen = coders[layer], coders[to_layer], {}

        def look(x, hook, seen=seen):
            seen["x"] = x

        hook = clamp_latent(up, latent, float(means[layer].f_mean[place, latent]), [place])
        model.run_with_hooks(
            example.tokens,
            fwd_hooks=[(up.cfg.hook_name, hook), (down.cfg.hook_name, look)],
            stop_at_layer=to_layer + 1,
        )
        now = down.encode(seen["x"].float())[0, to_place, to_latent]
        claimed.append(edge.weight)
        found_change.append(float(means[to_layer].f[0, to_place, to_latent] - now))
edge_fit = float(np.corrcoef(claimed, found_change)[0, 1])
viz.agreement_figure(
    claimed,
    found_change,
    f"The edges of the graph against real removal: correlation {edge_fit:.2f}",
    subtitle="the strongest edges; each upstream latent set to its mean over other prompts",
    x="edge: gradient × deviation",
    y="measured loss of the downstream latent",
)

# %% [markdown]
# ## Is it the circuit?

# %% [markdown]
# ### Exercise 07.9: Is the circuit faithful, and is it complete?
#
# A set $C$ of latents claims to carry a task. Two tests, on a scale on which the **mean state** (every prompt replaced by the average over prompts, position by position) scores 0 and the real state scores 1:
# - **faithfulness**: only $C$ deviates from the mean: $\bar x + \sum_{i\in C} (f_i - \bar f_i) W_{dec}[i]$. High is good.
# - **what is left**: everything but $C$ deviates: $x - \sum_{i\in C} (f_i - \bar f_i) W_{dec}[i]$, the SAE's error included. Low is good: then $C$ is complete.
#
# Without the baseline an empty circuit can look half faithful. `run(state)` gives the metric.


# %% answer="07.9"
def circuit_scores(
    run, x: Tensor, f: Tensor, x_mean: Tensor, f_mean: Tensor, W_dec: Tensor, latents: list[int]
) -> tuple[float, float]:
    """(faithfulness of the latents, what is left without them).

    x [prompts, context, d], f [prompts, context, latents], x_mean [context, d], f_mean [context, latents].
    `run(state)` takes a whole state [prompts, context, d] (expand `x_mean`) and returns a number.
    """
    ### BEGIN SOLUTION
    part = (f - f_mean)[..., latents] @ W_dec[latents]
    mean = x_mean.expand_as(x)
    floor, top = run(mean), run(x)
    faithfulness = (run(mean + part) - floor) / (top - floor)
    left = (run(x - part) - floor) / (top - floor)
    return float(faithfulness), float(left)
    ### END SOLUTION


# %% check="07.9"
check("07.9", circuit_scores)

# %% [markdown]
# Which latents? Those with the largest absolute attribution on one set of prompts; scored on *other* prompts, against random sets of the same size drawn from the latents that are active at all.

# %%
fit_prompts = tasks.ioi_prompts(model.tokenizer, 8 if quick() else 40, seed=21)
test_prompts = tasks.ioi_prompts(model.tokenizer, 4 if quick() else 16, seed=22)
sizes = [64] if quick() else [1, 4, 16, 64, 128, 256]


def circuit_of(coder, fit, held_out, metric):
    """(run, states of the held-out prompts, latents ordered by attribution on the fitting prompts)."""
    name = coder.cfg.hook_name
    fitted = features.latent_states(model, coder, fit.tokens, fit.tokens)
    order = features.circuit_attribution(model, fitted, lambda logits: metric(logits, fit), name)
    states = features.latent_states(model, coder, held_out.tokens, fit.tokens)

    def run(x):
        with torch.no_grad():
            return float(metric(patching.last_logits(model, x, name), held_out).mean())

    return run, states, order.abs().argsort(descending=True).tolist()


def names_metric(logits, prompts):
    """Logit difference between the right and the wrong name."""
    return tasks.logit_difference(logits, prompts.answer, prompts.wrong)


curves = {}
for coder in (sae,) if quick() else (early, sae, late):
    run, states, order = circuit_of(coder, fit_prompts, test_prompts, names_metric)
    layer = features.hook_layer(coder.cfg.hook_name)
    curves[f"layer {layer}"] = features.circuit_curve(
        run, states, order, sizes, repeats=1 if quick() else 2, progress=False
    )
    if coder is sae:
        yours = circuit_scores(run, states.x, states.f, states.x_mean, states.f_mean, states.W_dec, order[: sizes[-1]])
        print(
            f"your scores of {sizes[-1]} latents of the middle layer: faithfulness {yours[0]:.3f}, left {yours[1]:.3f}"
        )
for name, curve in curves.items():
    print(
        f"{name}: {curve.active} active latents; all of them without the error {curve.all_latents:.2f}, the error alone {curve.error_only:.2f}; "
        f"{sizes[-1]} chosen {curve.faithfulness[-1]:.2f} (random {curve.random_faithfulness[:, -1].mean():.2f}), without them {curve.left[-1]:.2f}"
    )

# %%
viz.faithfulness_figure(
    {name: curves[name] for name in list(curves)[-2:]} if len(curves) > 2 else curves,
    "Some dozens of latents carry over half of the task; without them most of it remains",
    subtitle="indirect-object identification, held-out prompts; bands: random sets of active latents",
)

# %% [markdown]
# Two results that belong together. **Faithful**: kept alone, 64 latents of the middle layer, out of about a thousand that are active, recover 0.6 of the logit difference, where random sets of 64 recover 0.07. **Not complete**: with the same latents removed 0.7 of it is still there, and with 256 removed about half. The information is written more than once, and the SAE's *error alone* scores about a fifth
# in the middle and about half in the late layer. So nobody may say "these are the latents for the task": they are *a* sufficient part of it. The late layer's latents are the least faithful of the three, which fits exercise 07.5.
#
# **Question.** Prompts with other names, not seen in choosing: would the same latents do?
# <details><summary>Answer</summary>Hardly: a large part of the chosen latents stand for particular names (the labels in the graph show it). They are a circuit for this task *on these names*. What would carry over are latents for "the name that was mentioned twice".</details>

# %% [markdown]
# ## Greater than
#
# *"The war lasted from the year 1745 to the year 17"* → a digit of at least 4 (Hanna et al. 2023, who found the circuit in GPT-2 small; in this model's vocabulary each digit is one token, so the answer is the tens digit).

# %% [markdown]
# ### Exercise 07.10: Greater than: a metric of its own
#
# There is no single right answer here, so a logit difference will not do. Use the probability of all digits **above** the year's tens digit minus the probability of all digits **below** it. The digit itself counts for neither: 1743 would be wrong and 1748 right.


# %% answer="07.10"
def greater_than_metric(logits: Tensor, digits: Tensor, tens: Tensor) -> Tensor:
    """Probability above minus probability below, [prompts]. logits [prompts, vocabulary], digits [10] token ids of 0 to 9, tens [prompts]."""
    ### BEGIN SOLUTION
    probability = logits.softmax(dim=-1)[:, digits]
    side = torch.sign(torch.arange(10) - tens[:, None])
    return (probability * side).sum(dim=-1)
    ### END SOLUTION


# %% check="07.10"
check("07.10", greater_than_metric)

# %%
digits = tasks.digit_tokens(model.tokenizer)
years = tasks.greater_than_prompts(model.tokenizer, 8 if quick() else 40, seed=31)
test_years = tasks.greater_than_prompts(model.tokenizer, 4 if quick() else 16, seed=32)


def years_metric(logits, prompts):
    """Probability above minus below. For years `prompts.answer` is the tens digit itself, 0 to 9, and no token id."""
    return greater_than_metric(logits, digits, prompts.answer)


with torch.no_grad():
    both = torch.cat([years.tokens, years.corrupt])
    clean_scores, corrupt_scores = (years_metric(part, years) for part in model(both)[:, -1].split(len(years)))
print(
    f"{years.texts[0]!r} …: above beats below in {int((clean_scores > 0).sum())} of {len(years)}; mean {float(clean_scores.mean()):.2f}; "
    f"the same scored after a year whose tens digit is 0: {float(corrupt_scores.mean()):.2f}"
)

# %%
run, states, order = circuit_of(sae, years, test_years, years_metric)
year_curve = features.circuit_curve(run, states, order, sizes, repeats=1 if quick() else 2, progress=False)
print(
    f"real state {run(states.x):.2f}, mean state {run(states.x_mean.expand_as(states.x)):.2f}; {year_curve.active} active latents; "
    f"all without the error {year_curve.all_latents:.2f}, error alone {year_curve.error_only:.2f}"
)
viz.faithfulness_figure(
    {"greater than": year_curve, "indirect object": curves[f"layer {features.hook_layer(hook_name)}"]},
    "Two tasks through the same SAE",
    subtitle="middle layer, held-out prompts; bands: random sets of active latents",
)

# %% [markdown]
# Compare the two. Both metrics are scaled to 0 and 1, but greater-than's mean state is not ignorant: without knowing the year, the digits' usual frequencies already score something, and *that* is the zero of the scale: 0.40 in our run, where the real state has 0.58. Had you not subtracted it, an empty circuit would have looked two thirds faithful.
#
# It also means that the whole scale is only 0.18 wide, and everything on it is magnified. A *single* latent, kept alone, scores 0.98, which would be a wonderful finding, but random sets of 128 latents score anything between −0.1 and 1.1 (the band), and "what is left" jumps up and down. Be slow to believe a curve whose control is that wide; more prompts, or a baseline that knows less, would tell.
#
# ## Where and when

# %% [markdown]
# ### Exercise 07.11: Activation patching, position by position
#
# The most direct question of all: where in the prompt is the answer, after each layer? Take pairs of prompts that differ in one token, so that another answer is right. Run the **corrupt** prompt; at one hook point and one position, put in the state of the **clean** run; measure how much of the clean answer comes back:
# $$\frac{m(\text{patched}) - m(\text{corrupt})}{m(\text{clean}) - m(\text{corrupt})}$$
# Clean into corrupt asks what is *sufficient* to bring the answer back. The other direction asks what is *necessary*, which is another question with another answer wherever information is written twice.


# %% answer="07.11"
def patch_positions(model, clean: Tensor, corrupt: Tensor, names: list[str], metric) -> Tensor:
    """Share of the clean answer recovered by patching each hook point (rows) at each position (columns), [names, context].

    `metric(logits)` gets all logits and gives a number; `model.run_with_cache(tokens, names_filter=names)` gives (logits, cache).
    """

    ### BEGIN SOLUTION
    def put(state, position):
        def hook(x, hook):
            x = x.clone()
            x[:, position] = state[:, position]
            return x

        return hook

    with torch.no_grad():
        logits, cache = model.run_with_cache(clean, names_filter=names)
        good, bad = metric(logits), metric(model.run_with_hooks(corrupt, fwd_hooks=[]))
        recovered = torch.zeros(len(names), clean.shape[1])
        for row, name in enumerate(names):
            for position in range(clean.shape[1]):
                patched = metric(model.run_with_hooks(corrupt, fwd_hooks=[(name, put(cache[name], position))]))
                recovered[row, position] = (patched - bad) / (good - bad)
    return recovered
    ### END SOLUTION


# %% check="07.11"
check("07.11", patch_positions)

# %% [markdown]
# Positions before the first difference cannot matter in a model that reads from left to right: both runs are equal there. We leave them out of the picture (the course's `features.patch_positions` also skips the layers below the patch, which saves half of the work; first we check that it agrees with yours).

# %%
pairs = tasks.ioi_prompts(model.tokenizer, 1 if quick() else 6, seed=41)
two = pairs[: 1 if quick() else 2]
mine = patch_positions(
    model,
    two.tokens,
    two.corrupt,
    ["blocks.15.hook_resid_post"],
    lambda logits: tasks.logit_difference(logits[:, -1], two.answer, two.wrong).mean(),
)
theirs = features.patch_positions(
    model,
    two.tokens,
    two.corrupt,
    lambda logits: tasks.logit_difference(logits, two.answer, two.wrong),
    [15],
    progress=False,
)
print(f"largest difference between your map and the course's: {float((mine - theirs).abs().max()):.1e}")
layers = [3, 27] if quick() else list(range(0, 30, 2))
recovered = features.patch_positions(
    model,
    pairs.tokens,
    pairs.corrupt,
    lambda logits: tasks.logit_difference(logits, pairs.answer, pairs.wrong),
    layers,
    progress=False,
)
viz.patching_figure(
    recovered,
    pairs.roles,
    layers,
    "The name moves from where it is repeated to where it is needed",
    subtitle=f"indirect objects, mean over {len(pairs)} pairs; 1: the clean answer is back (chance: 0). First prompt's words",
    first=pairs.first_difference,
)

# %%
year_pairs = tasks.greater_than_prompts(model.tokenizer, 1 if quick() else 6, seed=42)
year_map = features.patch_positions(
    model,
    year_pairs.tokens,
    year_pairs.corrupt,
    lambda logits: years_metric(logits, year_pairs),
    layers,
    progress=False,
)
viz.patching_figure(
    year_map,
    year_pairs.roles,
    layers,
    "The start year's digit waits where it stands, then jumps to the end",
    subtitle=f"greater than, mean over {len(year_pairs)} pairs; corrupt: the year's tens digit is 0. First prompt's words",
    first=year_pairs.first_difference,
)

# %% [markdown]
# In both maps the answer sits in one column at the bottom, the token that differs, and in another at the top, the last token, which has to speak. In between attention moves it: around layers 20 to 24 for names, 18 to 20 for digits in our run. Read it off in yours, and compare with the layers of the three SAEs (3, 11 and 21).
#
# **Question.** The rows do not sum to 1. Should they?
# <details><summary>Answer</summary>No. Two positions may each be sufficient (the sum is above 1) or only work together (below 1). Effects add up only in a linear model.</details>

# %% [markdown]
# ## Common mistakes
#
# | mistake | what you see |
# |---|---|
# | the error term dropped | every ablation "works", and all have about the same effect |
# | steering at all positions when the question is about some | the word is said more often, whatever the text |
# | alpha times a decoder row that is not of length one | latents that seem stronger than others by their row's length |
# | gradient through the reconstruction or the encoder | estimates that do not match real ablation |
# | corrupt patched into clean | a map of what is needed, read as one of what is enough |
# | faithfulness without the baseline | an empty circuit that scores well |
# | the metric's sign | helpers and hinderers exchanged |
# | no random control | an interval that excludes zero, and means nothing |
#
# ## Summary
#
# - A push along a latent has a dose-response curve and a price. Show both, with random directions of the same length.
# - Interventions change one latent's contribution and keep the error. The error alone does a good part of each task.
# - Gradients estimate thousands of ablations at once, and edges between latents; check the strongest ones, where they are least exact.
# - Sufficient is not necessary: a faithful circuit may leave the task almost intact when it is removed.
# - What detects a concept, what steers it and what the model uses for it are three questions.
#
# ## Further reading
# - Turner et al. 2023, [Activation Addition](https://arxiv.org/abs/2308.10248); Templeton et al. 2024, [Scaling Monosemanticity](https://transformer-circuits.pub/2024/scaling-monosemanticity/): steering with latents.
# - Wang et al. 2022, [Interpretability in the Wild](https://arxiv.org/abs/2211.00593): indirect objects. Hanna et al. 2023, [How does GPT-2 compute greater-than?](https://arxiv.org/abs/2305.00586)
# - Nanda 2023, [Attribution Patching](https://www.neelnanda.io/mechanistic-interpretability/attribution-patching); Syed et al. 2023, [Attribution Patching Outperforms Automated Circuit Discovery](https://arxiv.org/abs/2310.10348).
# - Marks et al. 2024, [Sparse Feature Circuits](https://arxiv.org/abs/2403.19647): latents as nodes, faithfulness and completeness.
# - Heimersheim and Nanda 2024, [How to use and interpret activation patching](https://arxiv.org/abs/2404.15255): which direction asks which question.

# %%
progress()
