# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # 06 · Feature dashboards: what does latent 1234 mean?
#
# A sparse autoencoder gives you thousands of directions with numbers for names. In this lesson you build, piece by piece, the page with which people find out what a latent
# does: where it fires, how often, how its weak firings differ from its strong ones, and which words it promotes. Then you do what most dashboards leave out: you turn the explanation into a **prediction** and score it on text that nobody has looked at.
#
# **You will be able to**
# - find a latent's strongest contexts in one pass over a stream of text, without repeats, and read the weak ones too;
# - say which words a latent promotes, and why the decoder, the final norm and the unembedding are all needed for it;
# - find the latents of a concept, and score an explanation against chance and against the best single word;
# - load an SAE from a SAELens folder by hand, and write a self-contained dashboard that shows hostile text safely.
#
# **Time**: about 2 h 50 min of exercises; the cells run in a few minutes on two CPU cores. **Before**: lesson 05.

# %% tags=["setup"]
import html
import re
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from course_utils import check, features, hint, progress, solution, viz
from course_utils.lm import available_saes, load_corpus, load_messages, load_model, load_sae
from course_utils.settings import quick
from course_utils.viz.tokens import Html

# %% [markdown]
# The language model is SmolLM2-135M; the SAE reads its residual stream after layer 11 (4,608 latents for 576 dimensions, TopK with k = 32). The text is from the course's held-out
# corpus: novels, speeches, scripture, code, markup, manuals in nine languages. The SAE never saw it in training. We split it once and for all: one part to **look** at, another to
# **score** on. You will be glad about that in exercise 06.8.

# %%
model, sae = load_model(), load_sae("middle")
hook_name = sae.cfg.hook_name
packed = load_corpus("heldout").pack(model, context=64)
order = torch.randperm(len(packed), generator=torch.Generator().manual_seed(0))
size = 48 if quick() else 192
look_tokens, score_tokens = packed.tokens[order[:size]], packed.tokens[order[192 : 192 + size]]


@torch.no_grad()
def read(tokens: Tensor, reader=sae) -> tuple[Tensor, Tensor]:
    """All latents [sequences, context, latents] of some text, and which positions count (no BOS, no attention sink)."""
    acts, counted = [], []
    for batch in features.latent_stream(model, reader, tokens, batch_size=16, progress=True):
        acts.append(batch.acts)
        counted.append(batch.counted)
    return torch.cat(acts), torch.cat(counted)


look_acts, look_counted = read(look_tokens)
score_acts, score_counted = read(score_tokens)
print(
    f"to look at: {int(look_counted.sum()):,} tokens; to score on: {int(score_counted.sum()):,}; latents: {look_acts.shape[-1]:,}"
)


def batches_of(latent: int, batch_size: int = 32):
    """The part to look at as a stream of (tokens, activations of one latent)."""
    for start in range(0, len(look_tokens), batch_size):
        rows = slice(start, start + batch_size)
        yield look_tokens[rows], look_acts[rows, :, latent]


def words(ids) -> list[str]:
    """Token ids as text, one string a token."""
    return features.token_strings(model.tokenizer, ids)


# %% [markdown]
# A few latents to practise on. Numbers of latents mean nothing and change whenever an SAE is trained again, so we look for them by what they do: for some words, the latent whose activation correlates best with "the current token is such a word"; and
# two whose firings are spread over the most different tokens. (Choosing by a word is also the cheapest way to flatter an SAE. Exercise 06.12 comes back to that.)

# %%
TOKENS = {  # a name, which tokens it means, and later the explanation as a rule about a whole text
    "configuration": (r"config", r"config"),
    "exceptions": (r"Error$|Exception$", r"error|exception"),
    "for": (r"^ for$", r"\bfor\b"),
    "this": (r"^ ?[Tt]his$", r"\bthis\b"),
    "the digit 1": (r"^1$", r"1"),
    "class=": (r'^="', r'="'),
}
flat_acts, flat_tokens = look_acts[look_counted], look_tokens[look_counted]
vocabulary = dict(zip(flat_tokens.unique().tolist(), words(flat_tokens.unique())))
centred = flat_acts - flat_acts.mean(dim=0)
firings = (flat_acts > 0).sum(dim=0)
latent_for = {}
for name, (pattern, _) in TOKENS.items():
    ids = [token for token, text in vocabulary.items() if re.search(pattern, text)]
    label = torch.isin(flat_tokens, torch.tensor(ids, dtype=torch.long)).float()
    correlation = (
        (label - label.mean()) @ centred / (centred.norm(dim=0).clamp(min=1e-6) * (label - label.mean()).norm())
    )
    correlation[firings < 16] = -1  # too few to say anything about
    latent_for[name] = int(correlation.argmax())
    print(f"{name:14} latent {latent_for[name]:4}, correlation {float(correlation.max()):.2f}")
spread = {
    latent: float(flat_tokens[flat_acts[:, latent] > 0].unique().numel() / firings[latent])
    for latent in ((firings >= 25) & (firings <= 80)).nonzero()[:, 0].tolist()
}
unclear = sorted(spread, key=lambda latent: (-spread[latent], latent))[:2]
print("the most mixed: latents", unclear)
del centred

# %% [markdown]
# ## Where does it fire?

# %% [markdown]
# ### Exercise 06.1: The contexts a latent likes best
#
# Find the `k` strongest contexts of one latent in a stream of batches (a real corpus does not fit into memory, and a generator can be read only once). Rules that make the list worth reading:
# - at most one example a **sequence**, its strongest position; only activations above 0;
# - the window holds up to `left` tokens before the peak, the peak, and up to `right` after it, cut at the ends of the sequence;
# - corpora repeat themselves. If two examples have the same tokens from the window's beginning **up to and including the peak**, keep only the stronger. What follows the peak does not matter: the model reads from left to right;
# - sequences are numbered 0, 1, 2, … over the whole stream.


# %% answer="06.1"
def max_activating_examples(batches, k: int, left: int, right: int) -> list[tuple[float, int, int, list[int]]]:
    """The k strongest examples, best first, as (activation, sequence, position of the peak in its sequence, token ids of the window).

    `batches` yields (tokens [batch, context], acts [batch, context]) of one latent.
    """
    ### BEGIN SOLUTION
    candidates, first = [], 0
    for tokens, acts in batches:
        best = acts.max(dim=1)
        for row, (value, position) in enumerate(zip(best.values.tolist(), best.indices.tolist())):
            if value > 0:
                begin = max(0, position - left)
                window = tokens[row, begin : position + right + 1].tolist()
                candidates.append((value, first + row, position, window, tuple(window[: position - begin + 1])))
        first += len(tokens)
    found, seen = [], set()
    for *example, past in sorted(candidates, key=lambda candidate: -candidate[0]):
        if past not in seen:
            found.append(tuple(example))
        seen.add(past)
    return found[:k]
    ### END SOLUTION


# %% check="06.1"
check("06.1", max_activating_examples)


# %%
def show_examples(latent: int, k: int = 6) -> None:
    """Print a latent's strongest contexts, the peak in brackets."""
    print(f"latent {latent}")
    for value, _, position, window in max_activating_examples(batches_of(latent), k, 9, 3):
        peak = min(position, 9)
        text = [model.tokenizer.decode(part) for part in (window[:peak], window[peak : peak + 1], window[peak + 1 :])]
        print(f"  {value:5.1f}  {text[0]!r} [{text[1]!r}] {text[2]!r}")


for latent in (latent_for["configuration"], latent_for["exceptions"], unclear[0]):
    show_examples(latent)

# %% [markdown]
# The first two keep to their word, the first of them in several languages. The last one: is that one thing? Some latents are clear, many are not, and the clear ones get shown around.

# %% [markdown]
# ## How often does it fire?

# %% [markdown]
# ### Exercise 06.2: How often does a latent fire?
#
# The *density* of a latent is the share of the tokens that count on which it is above zero. Batches may have different sizes.


# %% answer="06.2"
def activation_density(batches) -> Tensor:
    """Density of each latent [latents]. `batches` yields (acts [batch, context, latents], counted [batch, context])."""
    ### BEGIN SOLUTION
    fired, seen = 0, 0
    for acts, counted in batches:
        fired = fired + (acts[counted] > 0).sum(dim=0)
        seen += int(counted.sum())
    return fired / seen
    ### END SOLUTION


# %% check="06.2"
check("06.2", activation_density)

# %%
density = activation_density(zip(look_acts.split(32), look_counted.split(32)))
viz.density_figure(density.numpy())

# %% [markdown]
# **Questions**
# 1. On these tokens some latents never fire. Are they dead?
# <details><summary>Answer</summary>Not necessarily. A latent that fires on 1 token in 10,000 is missed by a text of 10,000 tokens more than a third of the time (e⁻¹). On the SAE's own card, 0.5% of the latents are dead.</details>
#
# 2. What could a latent mean that fires on every third token?
# <details><summary>Answer</summary>Something about position, length or word boundaries; or nothing alone, being part of how the SAE writes the mean. Such dense latents rarely have a short description, and their strongest examples mislead most.</details>

# %% [markdown]
# ### Exercise 06.3: Examples from strong to weak
#
# The top ten are the tail of a distribution. Rank **all firings** (activations above 0), strongest first, cut the list into `bands` pieces of equal length, and from each piece of m take every (m // per_band)-th member, beginning with its strongest, `per_band` in all. (If the number of firings does not divide, leave out the few weakest.)


# %% answer="06.3"
def examples_by_quantile(values: Tensor, bands: int, per_band: int) -> list[list[int]]:
    """For each band, strongest first, the indices into `values` [n] of its `per_band` examples."""
    ### BEGIN SOLUTION
    order = values.argsort(descending=True)
    order = order[values[order] > 0]
    m = len(order) // bands
    step = m // per_band
    return [order[band * m : (band + 1) * m : step][:per_band].tolist() for band in range(bands)]
    ### END SOLUTION


# %% check="06.3"
check("06.3", examples_by_quantile)


# %%
def show_bands(latent: int, bands: int = 4, per_band: int = 3) -> None:
    """Print examples of a latent from each quarter of its firings."""
    flat = look_acts[:, :, latent].flatten()
    for band, members in enumerate(examples_by_quantile(flat, bands, per_band)):
        print(f"latent {latent}, quarter {band + 1} of its firings")
        for place in members:
            row, position = divmod(place, look_tokens.shape[1])
            before = model.tokenizer.decode(look_tokens[row, max(0, position - 7) : position])
            print(f"  {float(flat[place]):5.1f}  {before!r} [{model.tokenizer.decode(look_tokens[row, position])!r}]")


show_bands(latent_for["configuration"])

# %% [markdown]
# Read downwards: does the story of the first quarter hold in the last? An explanation usually describes the top. How much of a latent it describes is a question with a number for an answer, below.
#
# ## What does it do to the output?

# %% [markdown]
# ### Exercise 06.4: Which words does a latent promote?
#
# A latent writes its **decoder row** into the residual stream. What reaches the output directly passes the final norm, which divides by the stream's size and multiplies by a gain. Around typical text that is nearly linear; `norm` is
# its average derivative there, a matrix [d_model, d_model], applied as `direction @ norm`. Then comes the unembedding `W_U` [d_model, vocabulary]. Subtract the mean over the vocabulary: softmax does not see a shift shared by all tokens.


# %% answer="06.4"
def logit_effects(sae, latent: int, norm: Tensor, W_U: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(token ids raised most, by how much, token ids lowered most, by how much), k each, the largest effects first.

    `sae` has `W_enc` [d_model, latents] and `W_dec` [latents, d_model].
    """
    ### BEGIN SOLUTION
    effects = sae.W_dec[latent] @ norm @ W_U
    effects = effects - effects.mean()
    top, bottom = effects.topk(k), effects.topk(k, largest=False)
    return top.indices, top.values, bottom.indices, bottom.values
    ### END SOLUTION


# %% check="06.4"
check("06.4", logit_effects)

# %%
norm = features.final_norm(model, look_tokens, max_tokens=1024).matrix
W_U = model.W_U.detach().float()
with torch.no_grad():
    for latent in (latent_for["exceptions"], latent_for["class="], latent_for["configuration"]):
        raised, by, lowered, _ = logit_effects(sae, latent, norm, W_U, 8)
        print(f"latent {latent} raises {words(raised)}, lowers {words(lowered)[:4]}")
    raised, by, lowered, down = logit_effects(sae, latent_for["exceptions"], norm, W_U, 8)
viz.logit_figure(
    words(raised) + words(lowered),
    torch.cat([by, down]).tolist(),
    "Direct effect of the latent for exceptions on the next token",
)

# %% [markdown]
# Is that a pattern, or the largest of 49,152 accidents? That many independent normal numbers reach about 4.2 standard deviations by chance. So divide by the standard deviation over the vocabulary, and look for latents that go far beyond.

# %%
some = (firings >= 16).nonzero()[:, 0][: 200 if quick() else 800].tolist()
table = features.logit_effects(model, sae, some, 6, norm=features.FinalNorm(norm, True))
ratio = table.top_values[:, 0] / table.deviation
print(f"largest effect in standard deviations: median over {len(some)} latents {float(ratio.median()):.1f}")
for i in ratio.topk(5).indices.tolist():
    print(f"  latent {some[i]:4}: {float(ratio[i]):4.1f} deviations; raises {words(table.top_tokens[i])}")
show_examples(some[int(ratio.argmax())], 4)

# %% [markdown]
# One latent stands out when we run this: it fires on " more" and raises " than". In a middle layer most of these tables say little: eighteen layers are still to come, and most of what a latent does goes through them. The direct path is one part of the effect; lesson 07 measures the whole by intervening. A list of promoted words
# without its standard deviations invites stories.
#
# ## Seeing it in text

# %% [markdown]
# ### Exercise 06.5: Shade the tokens, and escape them
#
# Write each token as `<span style="background:rgba(230,159,0,A)" title="V">text</span>`, with nothing between the spans. A is the activation over `maximum`, kept between 0 and 1 (0 where `maximum` is 0); V is the activation with two decimals. Line
# ends are shown as ↵. Everything from the text is *data*: a page that lets a token act as HTML hides `<s>`, breaks on `</script>`, and can be made to run code by whoever wrote the corpus.


# %% answer="06.5"
def token_heatmap_html(tokens: list[str], acts: list[float], maximum: float) -> str:
    """HTML that shows the tokens on a background that is stronger where the activation is larger."""
    ### BEGIN SOLUTION
    spans = []
    for token, act in zip(tokens, acts):
        alpha = min(max(act / maximum, 0.0), 1.0) if maximum > 0 else 0.0
        text = html.escape(token.replace("\n", "↵"))
        spans.append(f'<span style="background:rgba(230,159,0,{alpha:.3f})" title="{act:.2f}">{text}</span>')
    return "".join(spans)
    ### END SOLUTION


# %% check="06.5"
check("06.5", token_heatmap_html)


# %%
def example_rows(latent: int, k: int, left: int = 14, right: int = 6) -> list[tuple[list[str], list[float]]]:
    """(tokens, activations) of a latent's strongest contexts."""
    rows = []
    for _, sequence, position, window in max_activating_examples(batches_of(latent), k, left, right):
        start = max(position - left, 0)
        rows.append((words(window), look_acts[sequence, start : start + len(window), latent].tolist()))
    return rows


rows = example_rows(latent_for["class="], 6)  # class=" and its like in markup: full of characters that must be escaped
top = max(max(acts) for _, acts in rows)
Html("".join(f"<p style='font-family:monospace'>{token_heatmap_html(tokens, acts, top)}</p>" for tokens, acts in rows))

# %% [markdown]
# ### Exercise 06.6: A sentence against its latents
#
# Now the other way round: given a sentence, which latents fire where? `acts` holds all latents on all tokens, BOS first. Set the BOS row to zero (its activations say nothing about the text), take the `k` latents with the largest activation anywhere, and
# order them by **where** that largest value stands (the stronger first where two peak on the same token).


# %% answer="06.6"
def sentence_heatmap(acts: Tensor, k: int) -> tuple[list[int], Tensor]:
    """(latents in the order in which they peak, their activations [k, tokens] with the BOS column zero). `acts` is [tokens, latents]."""
    ### BEGIN SOLUTION
    acts = acts.clone()
    acts[0] = 0
    peak, place = acts.max(dim=0)
    best = peak.topk(k).indices.tolist()
    best.sort(key=lambda i: (int(place[i]), -float(peak[i])))
    return best, acts[:, best].T
    ### END SOLUTION


# %% check="06.6"
check("06.6", sentence_heatmap)


# %%
@torch.no_grad()
def latents_of(text: str) -> tuple[list[str], Tensor]:
    """Tokens of a text, and all latents on each."""
    ids = model.to_tokens(text)[:, :64]
    return words(ids[0]), sae.encode(features.activations_at(model, ids, hook_name).float())[0]


def sentence_picture(text: str, k: int = 14):
    tokens, acts = latents_of(text)
    chosen, table = sentence_heatmap(acts, k)
    return viz.sentence_figure(features.SentenceHeatmap(tokens, chosen, table.numpy()))


sentence_picture("The administrator changed the configuration file because this value raised a ValueError.")

# %% [markdown]
# The same in circuitsvis: choose a latent above the text and hover over the tokens.

# %%
tokens, acts = latents_of("def freeze(self): raise ValueError('a shared memory block')")
chosen, table = sentence_heatmap(acts, 6)
viz.colored_tokens_multi(tokens, table.T.numpy(), [f"latent {i}" for i in chosen])

# %% [markdown]
# ## From a concept to latents

# %% [markdown]
# ### Exercise 06.7: Find the latents of a concept
#
# Given each latent's largest activation on texts with a concept and on texts without, rank the latents. `"contrast"`: the mean over texts with the concept minus the mean over texts without. `"auc"`: the share of pairs (one text with, one
# without) in which the text with the concept has the larger value, a tie counting half. A sparse latent is 0 nearly everywhere, so ties decide.


# %% answer="06.7"
def find_latents_for_concept(positive: Tensor, negative: Tensor, k: int, method: str) -> tuple[list[int], Tensor]:
    """(the k best latents, best first; their scores). `positive` and `negative` are [texts, latents]; `method` is "auc" or "contrast"."""
    ### BEGIN SOLUTION
    if method == "contrast":
        score = positive.mean(dim=0) - negative.mean(dim=0)
    else:
        score = torch.zeros(positive.shape[1], dtype=torch.float64)
        for text in positive:  # one text at a time: all pairs of all latents at once would not fit into memory
            score += ((text > negative).double() + 0.5 * (text == negative)).mean(dim=0) / len(positive)
    best = score.argsort(descending=True)[:k]
    return best.tolist(), score[best]
    ### END SOLUTION


# %% check="06.7"
check("06.7", find_latents_for_concept)


# %%
@torch.no_grad()
def pooled_messages(split: str) -> tuple[Tensor, Tensor]:
    """Largest activation of each latent in each customer message, and whether the message asks for a refund."""
    messages = load_messages(split, max_messages=24 if quick() else 200)
    ids, mask = messages.tokens(model)
    pooled = []
    for rows, keep in zip(ids.split(32), mask.split(32)):
        acts = sae.encode(features.activations_at(model, rows, hook_name).float())
        keep = keep.clone()
        keep[:, 0] = False  # BOS
        pooled.append((acts * keep[..., None]).amax(dim=1))
    return torch.cat(pooled), messages.label("refund")


train, refund = pooled_messages("train")
test, test_refund = pooled_messages("heldout")
for method in ("auc", "contrast"):
    best, scores = find_latents_for_concept(train[refund], train[~refund], 5, method)
    everywhere, held_out = find_latents_for_concept(test[test_refund], test[~test_refund], train.shape[1], "auc")
    unseen = {latent: float(score) for latent, score in zip(everywhere, held_out)}
    print(
        f"{method:8}: "
        + ", ".join(f"{i} ({float(s):.2f}; AUC on other messages {unseen[i]:.2f})" for i, s in zip(best, scores))
    )

# %% [markdown]
# **Question.** The AUC on other messages is lower than on the messages the latents were chosen from. Two reasons?
# <details><summary>Answer</summary>First, the best of 4,608 latents is chosen partly for its luck. Second, the held-out messages are built from other sentence templates: a latent that recognises a *phrase* does not carry over, one that recognises the *concept* does.</details>
#
# ## An explanation is a prediction

# %% [markdown]
# ### Exercise 06.8: An explanation is a prediction
#
# "This latent means exceptions" is worth something only if it tells you, for text you have not seen, whether the latent fires. So make it executable: a rule takes a text and answers yes or no. Then
# 1. leave out every text that is in `written_from` (the texts the explanation was written from);
# 2. on the others compute the **balanced accuracy**: the mean of (share of firing texts where the rule says yes) and (share of silent texts where it says no);
# 3. shuffle the labels 500 times with `rng.permutation`, score each time, and give the 97.5% point: what a useless rule reaches by luck.
#
# This is detection scoring (Paulo et al. 2024) with the judge left open: a rule, a person, or a language model.


# %% answer="06.8"
def score_explanation(rule, texts: list[str], fires, written_from, rng: np.random.Generator) -> tuple[float, float]:
    """(balanced accuracy of `rule` on texts it was not written from, 97.5% point over 500 label shuffles)."""
    ### BEGIN SOLUTION
    seen = set(written_from)
    pairs = [(bool(on), bool(rule(text))) for text, on in zip(texts, fires) if text not in seen]
    labels, said = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])

    def balanced(labels):
        return (said[labels].mean() + (~said[~labels]).mean()) / 2

    shuffled = [balanced(rng.permutation(labels)) for _ in range(500)]
    return float(balanced(labels)), float(np.quantile(shuffled, 0.975))
    ### END SOLUTION


# %% check="06.8"
check("06.8", score_explanation)


# %%
def contexts(tokens: Tensor, acts: Tensor, counted: Tensor, latent: int, above: float = 0.0, n: int = 60):
    """Windows of 21 tokens, half with the latent above `above` somewhere, half without."""
    stream = [features.LatentBatch(tokens, acts[..., [latent]], counted, 0)]
    return features.detection_set_from(stream, model.tokenizer, n, window=21, threshold=above)


def says(pattern: str):
    """A rule: does the text match the regular expression?"""
    return lambda text: bool(re.search(pattern, text, re.IGNORECASE))


unseen = contexts(score_tokens, score_acts, score_counted, latent_for["exceptions"])
for name, rule in {
    "mentions an error or exception": says("error|exception"),
    "is Python or other code": says(r"def |self|return|import|[(]\)|::|raise"),
    "mentions the sea": says(r"\bsea\b|whale"),
}.items():
    score, chance = score_explanation(rule, unseen.texts, unseen.fires, [], np.random.default_rng(0))
    print(f"{name:31} balanced accuracy {score:.2f}, shuffled labels up to {chance:.2f}, {len(unseen.texts)} contexts")

# %% [markdown]
# **Question.** Why 97.5% of the shuffles and not their mean?
# <details><summary>Answer</summary>The mean is 0.5 for every rule, and every second useless rule beats 0.5. With a few dozen contexts luck alone reaches well above it; the upper point says how far.</details>
#
# Optional: `features.LanguageModelJudge` asks a language model behind an OpenAI-compatible address of your choice instead of a rule. Nothing here needs one.

# %% [markdown]
# ## The same SAE, loaded by hand

# %% [markdown]
# ### Exercise 06.9: Encode with the weights of a SAELens file
#
# A SAELens folder holds `cfg.json` and `sae_weights.safetensors`. `cfg["architecture"]` is `"standard"`, `"topk"` (with `cfg["k"]`) or `"jumprelu"` (with `weights["threshold"]`). All begin with $z = \mathrm{ReLU}((x - b_{dec})\,W_{enc} + b_{enc})$, where $b_{dec}$ is subtracted only if
# `cfg["apply_b_dec_to_input"]`. Then: standard, nothing; topk, each row keeps its k largest; jumprelu, $z$ where $z >$ threshold, else 0. Compute in float32, whatever is stored.


# %% answer="06.9"
def encode_from_file(cfg: dict, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Latents [..., d_sae] of activations `x` [..., d_in]."""
    ### BEGIN SOLUTION
    weights = {name: tensor.float() for name, tensor in weights.items()}
    x = x.float()
    if cfg["apply_b_dec_to_input"]:
        x = x - weights["b_dec"]
    z = (x @ weights["W_enc"] + weights["b_enc"]).relu()
    if cfg["architecture"] == "topk":
        best = z.topk(cfg["k"], dim=-1)
        return torch.zeros_like(z).scatter(-1, best.indices, best.values)
    if cfg["architecture"] == "jumprelu":
        return z * (z > weights["threshold"])
    return z
    ### END SOLUTION


# %% check="06.9"
check("06.9", encode_from_file)

# %%
import json
import warnings

import sae_lens
from safetensors.torch import load_file

from course_utils.lm.saes import SAES

name = next(name for name, entry in available_saes().items() if entry["alias"] == "middle")
cfg = json.loads((SAES / name / "cfg.json").read_text())
weights = load_file(SAES / name / "sae_weights.safetensors")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = sae_lens.SAE.load_from_disk(SAES / name, dtype="float32")
    half = sae_lens.SAE.load_from_disk(SAES / name).float()  # a trap: see below
with torch.no_grad():
    x = features.activations_at(model, look_tokens[:4], hook_name).float()[:, 1:]
    mine = encode_from_file(cfg, weights, x)
    others = {
        "SAELens": theirs.encode(x),
        "SAELens, converted with .float() after loading": half.encode(x),
        "course_utils": sae.encode(x),
    }
for who, other in others.items():
    both, switched = (mine > 0) & (other > 0), (mine > 0) != (other > 0)
    print(
        f"against {who}: largest difference {float((mine - other)[both].abs().max()):.1e} (values up to {float(mine.max()):.0f}); "
        f"active here and not there, or the other way: {int(switched.sum())} of {int((mine > 0).sum())}"
    )

# %% [markdown]
# The trap: converting the *weights* after loading leaves SAELens' configuration at float16, so it rounds every *input* to float16 first. The values then differ in the fourth digit, and where the k-th and the next largest value are nearly equal, another
# latent is chosen. Say at loading in which precision to compute.

# %% [markdown]
# ## Layers compared

# %% [markdown]
# ### Exercise 06.10: How much of a latent is only the current token?
#
# A latent that fires on " for" and nothing else is a word detector. How much of a latent does the current token explain? Predict its activation by its mean **on that token in a training part**; a token never seen there gets the overall training mean. Score on a **test part**: $1 - \sum (a - \hat a)^2 / \sum (a - \bar a)^2$,
# with $\hat a$ the prediction and $\bar a$ the mean of the test part. It can be negative: then the means of the training part predict worse than one constant would.


# %% answer="06.10"
def token_only_share(train_tokens: Tensor, train_acts: Tensor, test_tokens: Tensor, test_acts: Tensor) -> float:
    """Share of one latent's variance on the test part that the token explains. All arguments are [n]."""
    ### BEGIN SOLUTION
    size = int(max(train_tokens.max(), test_tokens.max())) + 1
    count = torch.bincount(train_tokens, minlength=size)
    total = torch.zeros(size).index_add(0, train_tokens, train_acts)
    mean = torch.where(count > 0, total / count.clamp(min=1), train_acts.mean())
    error = (test_acts - mean[test_tokens]).square().sum()
    return float(1 - error / (test_acts - test_acts.mean()).square().sum())
    ### END SOLUTION


# %% check="06.10"
check("06.10", token_only_share)

# %%
shares = {}
for entry in sorted(available_saes().values(), key=lambda entry: features.hook_layer(entry["hook_name"])):
    if entry["alias"] == "middle":
        parts = [(look_tokens, look_acts, look_counted), (score_tokens, score_acts, score_counted)]
    else:
        reader, n = load_sae(entry["alias"]), 24 if quick() else 192
        parts = [(tokens[:n], *read(tokens[:n], reader)) for tokens in (look_tokens, score_tokens)]
    (a, acts_a, on_a), (b, acts_b, on_b) = parts
    often = ((acts_a > 0).sum(dim=(0, 1)) >= 10) & ((acts_b > 0).sum(dim=(0, 1)) >= 10)
    some = often.nonzero()[:, 0][: 200 if quick() else 400]
    values = [token_only_share(a[on_a], acts_a[..., i][on_a], b[on_b], acts_b[..., i][on_b]) for i in some.tolist()]
    shares[f"{entry['alias']} (layer {features.hook_layer(entry['hook_name'])})"] = np.array(values)
    print(
        f"{entry['alias']}: median share {np.median(values):.2f} over {len(values)} latents that fire at least ten times in each part"
    )
viz.token_share_figure(shares)

# %% [markdown]
# **Question.** What would the share be if the means were taken from the same part that is scored?
# <details><summary>Answer</summary>Too high, and the more so the rarer the tokens: a token that occurs once would predict itself perfectly. With each token occurring once, pure noise would score 1.</details>
#
# ## The finished dashboard

# %% [markdown]
# ### Exercise 06.11: The dashboard, in one file
#
# Put it together as one HTML page, a string. `title` and `h1` contain `latent 1234` (whatever the number is), the density is shown as `f"{100 * density:.3f}%"`, the examples stand strongest first (by their largest activation) on **one** colour scale, and each promoted
# token stands beside its value as `f"{value:+.2f}"`. The page declares `<meta charset="utf-8">`, fetches nothing from anywhere, and shows every token as text.


# %% answer="06.11"
def build_dashboard(latent: int, density: float, examples: list, promoted: list) -> str:
    """One self-contained HTML page. `examples` holds (tokens, activations) pairs, `promoted` (token, value) pairs."""

    ### BEGIN SOLUTION
    def shaded(tokens, acts, maximum):
        return "".join(
            f'<span style="background:rgba(230,159,0,{min(act / maximum, 1) if maximum else 0:.3f})" title="{act:.2f}">'
            f"{html.escape(token).replace(chr(10), '↵')}</span>"
            for token, act in zip(tokens, acts)
        )

    ranked = sorted(examples, key=lambda example: -max(example[1]))
    maximum = max((max(acts) for _, acts in ranked), default=0.0)
    rows = "".join(f"<p>{shaded(tokens, acts, maximum)}</p>" for tokens, acts in ranked)
    table = "".join(f"<tr><td>{html.escape(token)}</td><td>{value:+.2f}</td></tr>" for token, value in promoted)
    look = "body{font:15px system-ui;max-width:60em;margin:2em auto;padding:0 1em}p,td{font-family:monospace;white-space:pre-wrap}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>latent {latent}</title><style>{look}</style></head>'
        f"<body><h1>latent {latent}</h1><p>fires on {100 * density:.3f}% of tokens</p><h2>Strongest examples</h2>{rows}"
        f"<h2>Promoted tokens</h2><table>{table}</table></body></html>"
    )
    ### END SOLUTION


# %% check="06.11"
check("06.11", build_dashboard)


# %%
def my_page(latent: int) -> str:
    """Your dashboard of a latent, from the pieces you wrote."""
    with torch.no_grad():
        raised, by, _, _ = logit_effects(sae, latent, norm, W_U, 10)
    promoted = list(zip(words(raised), by.tolist()))
    return build_dashboard(latent, float(density[latent]), example_rows(latent, 8), promoted)


folder = Path(tempfile.mkdtemp(prefix="dashboards-"))
(folder / "mine.html").write_text(my_page(latent_for["configuration"]), encoding="utf-8")
print(f"written: {(folder / 'mine.html').stat().st_size / 1024:.0f} KiB, opens without a network")
Html(
    f'<iframe srcdoc="{html.escape(my_page(latent_for["configuration"]))}" style="width:100%;height:420px;border:1px solid #8884"></iframe>'
)

# %% [markdown]
# Choose a latent, type a sentence (these widgets need a running kernel):

# %%
import ipywidgets as widgets


def show_latent(latent: int) -> None:
    """The examples of a latent."""
    from IPython.display import display

    rows = example_rows(latent, 5) if 0 <= latent < look_acts.shape[-1] else []
    top = max((max(acts) for _, acts in rows), default=0.0)
    body = "".join(f"<p style='font-family:monospace'>{token_heatmap_html(t, a, top)}</p>" for t, a in rows)
    display(Html(body or "never fires on this text"))


widgets.interact(
    show_latent, latent=widgets.BoundedIntText(value=latent_for["for"], min=0, max=look_acts.shape[-1] - 1)
)
widgets.interact(
    lambda sentence: sentence_picture(sentence, 10),
    sentence=widgets.Text(value="Call me Ishmael.", continuous_update=False, layout={"width": "90%"}),
)
# %% [markdown]
# ## Latents explained well, and badly

# %% [markdown]
# ### Exercise 06.12: The baseline every explanation has to beat
#
# Before you are proud of an explanation, see what one word does. Cut each text into its set of lower-case words, `re.findall(r"[a-z]+", text.lower())`, and find the word whose presence has the highest balanced accuracy for "the latent fires".


# %% answer="06.12"
def best_word_explanation(texts: list[str], fires) -> tuple[str, float]:
    """(the word that tells firing texts from silent ones best, its balanced accuracy on these texts)."""
    ### BEGIN SOLUTION
    fires = np.asarray(fires, dtype=bool)
    bags = [set(re.findall(r"[a-z]+", text.lower())) for text in texts]

    def score(word):
        has = np.array([word in bag for bag in bags])
        return (has[fires].mean() + (~has[~fires]).mean()) / 2

    best = max(sorted(set().union(*bags)), key=score)
    return best, float(score(best))
    ### END SOLUTION


# %% check="06.12"
check("06.12", best_word_explanation)

# %% [markdown]
# The latents of this lesson with the explanations from the beginning, and the two mixed ones. Everything but the number "where it was found" is measured on the part to score on. "Fires" first means above 0, then above a quarter of the latent's largest activation.

# %%
explanations = {latent_for[name]: (name, says(rule)) for name, (_, rule) in TOKENS.items()}
explanations |= dict.fromkeys(unclear, ("no idea: its best word", None))
scores = {}
for share_of_maximum in (0.0, 0.25):
    print("fires: above 0" if share_of_maximum == 0 else "\nfires: above a quarter of the maximum")
    for latent, (meaning, rule) in explanations.items():
        above = share_of_maximum * float(look_acts[..., latent].max())
        try:
            seen = contexts(look_tokens, look_acts, look_counted, latent, above)
            unseen = contexts(score_tokens, score_acts, score_counted, latent, above)
        except ValueError as error:
            print(f"{latent:5} {meaning:22} {error}")
            continue
        word, before = best_word_explanation(seen.texts, seen.fires)
        rule = rule or says(rf"\b{word}\b")
        ours, chance = score_explanation(rule, unseen.texts, unseen.fires, seen.texts, np.random.default_rng(0))
        by_word, _ = score_explanation(
            says(rf"\b{word}\b"), unseen.texts, unseen.fires, seen.texts, np.random.default_rng(0)
        )
        print(
            f"{latent:5} {meaning:22} {ours:.2f} (chance up to {chance:.2f}) | best word {word!r}: {before:.2f} where it was found, "
            f"{by_word:.2f} on other text"
        )
        if share_of_maximum:
            scores[f"{latent}: {meaning}"] = features.score_explanation(
                lambda texts, rule=rule: [float(rule(text)) for text in texts], unseen
            )
viz.scores_figure(scores)

# %% [markdown]
# **Write for yourself**: choose five latents you can explain and two you cannot, from any of the tools above, and say for each *why*.
# <details><summary>What a good answer holds</summary>A sentence a stranger could apply to a new text; the score with its chance level and the best word beside it; what the weak firings show; one counterexample. For the two bad ones, a reason: too rare for this much text,
# a latent that fires on pieces of words in several languages, one whose strong and weak firings disagree, or one that acts on what comes next rather than reading what is there. "Not interpretable" is a result about you and your text, not only about the latent.</details>
#
# Two things to see. Most explanations do better once "fires" means a quarter of the maximum or more: they describe the strong firings, and the weak ones, which are the majority, are something else. And a
# latent that looks flawless on its ten best contexts may still be told apart from chance only barely.
#
# A word that was the best of hundreds on the texts it was found in does worse elsewhere: compare the last two numbers of each line. That is why the split comes first.

# %% [markdown]
# And the course's own version, a browsable page with search, histograms, quantile examples, neighbours and logit tables, for the latents of this lesson. For all 4,608 of them run `course dashboard`; with `--serve` it also lets you type sentences and steer.

# %%
labels = {latent: meaning for latent, (meaning, _) in explanations.items()}
shown = list(labels)
stream = [features.LatentBatch(look_tokens, look_acts[..., shown], look_counted, 0)]
scan = features.scan_stream(stream, shown, k=12, sample=60, correlations=True)
viz.build_dashboard(folder / "latents.html", model, sae, look_tokens, shown, labels=labels, scan=scan, progress=False)

# %% [markdown]
# ## Common mistakes
#
# | mistake | what you see |
# |---|---|
# | the window or the token is off by one | a latent that seems to fire *after* its word |
# | repeated contexts kept | ten copies of one licence header |
# | density averaged over batches | latents of the short last batch look dense |
# | logit effect through the encoder, or without the norm | promoted tokens that have nothing to do with the latent, or the wrong size |
# | colours scaled example by example | weak examples as orange as strong ones |
# | BOS kept | the same few latents on every sentence |
# | explanation scored on the text it was written from | wonderful scores |
#
# ## Summary
#
# - A dashboard is five small measurements: strongest contexts, density, quantiles, logit effects, neighbours. None of them alone says what a latent means.
# - The strongest examples are the tail. Look at the weak firings before you name a latent.
# - An explanation is a prediction. Score it on other text, against shuffled labels and against the best single word.
# - Text is data: escape it, everywhere.
#
# ## Further reading
# - Bricken et al. 2023, [Towards Monosemanticity](https://transformer-circuits.pub/2023/monosemantic-features): dashboards with quantile examples.
# - Bills et al. 2023, [Language models can explain neurons in language models](https://openaipublic.blob.core.windows.net/neuron-explainer/paper/index.html): explanations scored by simulation.
# - Paulo et al. 2024, [Automatically Interpreting Millions of Features in Large Language Models](https://arxiv.org/abs/2410.13928): detection scoring.
# - Huang et al. 2023, [Rigorously Assessing Natural Language Explanations of Neurons](https://arxiv.org/abs/2309.10312): why good scores are hard to get.

# %%
progress()
