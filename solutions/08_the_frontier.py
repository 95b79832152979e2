# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # 08 · The frontier
#
# <img alt="Four residual streams with three MLPs each. The SAE's latent reads and writes one place; the transcoder's reads an MLP's input and writes its output; the crosscoder's reads and writes several layers; the cross-layer transcoder's reads one layer and writes to all later outputs" width="760" src="data:image/svg+xml;base64,PHN2ZyB4bWxucz0naHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmcnIHZpZXdCb3g9JzAgMCA3NjAgMjEwJyBmb250LWZhbWlseT0nc2Fucy1zZXJpZicgZm9udC1zaXplPScxMyc+PHJlY3Qgd2lkdGg9Jzc2MCcgaGVpZ2h0PScyMTAnIGZpbGw9J3doaXRlJy8+PHRleHQgeD0nOTAnIHk9JzE4JyB0ZXh0LWFuY2hvcj0nbWlkZGxlJyBmaWxsPScjMjIyJyBmb250LXdlaWdodD0nYm9sZCc+U0FFPC90ZXh0PjxwYXRoIGQ9J000MCAxODVMNDAgMzAnIHN0cm9rZT0nIzg4OCcgc3Ryb2tlLXdpZHRoPSczJy8+PHJlY3QgeD0nMTE4JyB5PScxNDQnIHdpZHRoPSc0NicgaGVpZ2h0PScyNicgcng9JzQnIGZpbGw9JyNlZWUnIHN0cm9rZT0nIzg4OCcvPjx0ZXh0IHg9JzE0MScgeT0nMTYyJyB0ZXh0LWFuY2hvcj0nbWlkZGxlJyBmaWxsPScjNDQ0Jz5NTFAgMDwvdGV4dD48cGF0aCBkPSdNNDAgMTc0TDE0MSAxNzRMMTQxIDE3MCcgc3Ryb2tlPScjODg4JyBmaWxsPSdub25lJy8+PHBhdGggZD0nTTE0MSAxNDRMMTQxIDEzOEw0MCAxMzgnIHN0cm9rZT0nIzg4OCcgZmlsbD0nbm9uZScvPjxyZWN0IHg9JzExOCcgeT0nOTQnIHdpZHRoPSc0NicgaGVpZ2h0PScyNicgcng9JzQnIGZpbGw9JyNlZWUnIHN0cm9rZT0nIzg4OCcvPjx0ZXh0IHg9JzE0MScgeT0nMTEyJyB0ZXh0LWFuY2hvcj0nbWlkZGxlJyBmaWxsPScjNDQ0Jz5NTFAgMTwvdGV4dD48cGF0aCBkPSdNNDAgMTI0TDE0MSAxMjRMMTQxIDEyMCcgc3Ryb2tlPScjODg4JyBmaWxsPSdub25lJy8+PHBhdGggZD0nTTE0MSA5NEwxNDEgODhMNDAgODgnIHN0cm9rZT0nIzg4OCcgZmlsbD0nbm9uZScvPjxyZWN0IHg9JzExOCcgeT0nNDQnIHdpZHRoPSc0NicgaGVpZ2h0PScyNicgcng9JzQnIGZpbGw9JyNlZWUnIHN0cm9rZT0nIzg4OCcvPjx0ZXh0IHg9JzE0MScgeT0nNjInIHRleHQtYW5jaG9yPSdtaWRkbGUnIGZpbGw9JyM0NDQnPk1MUCAyPC90ZXh0PjxwYXRoIGQ9J000MCA3NEwxNDEgNzRMMTQxIDcwJyBzdHJva2U9JyM4ODgnIGZpbGw9J25vbmUnLz48cGF0aCBkPSdNMTQxIDQ0TDE0MSAzOEw0MCAzOCcgc3Ryb2tlPScjODg4JyBmaWxsPSdub25lJy8+PHBhdGggZD0nTTc4IDExOEw0MCAxMTMnIHN0cm9rZT0nIzAwNzJCMicgc3Ryb2tlLXdpZHRoPScyLjUnLz48Y2lyY2xlIGN4PSc0MCcgY3k9JzExMycgcj0nNCcgZmlsbD0nIzAwNzJCMicvPjxwYXRoIGQ9J003OCAxMThMNDAgMTI0JyBzdHJva2U9JyMwMDcyQjInIHN0cm9rZS13aWR0aD0nMi41Jy8+PGNpcmNsZSBjeD0nNDAnIGN5PScxMjQnIHI9JzQnIGZpbGw9JyMwMDcyQjInLz48Y2lyY2xlIGN4PSc3OCcgY3k9JzExOCcgcj0nOCcgZmlsbD0nIzAwNzJCMicvPjx0ZXh0IHg9JzI4MCcgeT0nMTgnIHRleHQtYW5jaG9yPSdtaWRkbGUnIGZpbGw9JyMyMjInIGZvbnQtd2VpZ2h0PSdib2xkJz50cmFuc2NvZGVyPC90ZXh0PjxwYXRoIGQ9J00yMzAgMTg1TDIzMCAzMCcgc3Ryb2tlPScjODg4JyBzdHJva2Utd2lkdGg9JzMnLz48cmVjdCB4PSczMDgnIHk9JzE0NCcgd2lkdGg9JzQ2JyBoZWlnaHQ9JzI2JyByeD0nNCcgZmlsbD0nI2VlZScgc3Ryb2tlPScjODg4Jy8+PHRleHQgeD0nMzMxJyB5PScxNjInIHRleHQtYW5jaG9yPSdtaWRkbGUnIGZpbGw9JyM0NDQnPk1MUCAwPC90ZXh0PjxwYXRoIGQ9J00yMzAgMTc0TDMzMSAxNzRMMzMxIDE3MCcgc3Ryb2tlPScjODg4JyBmaWxsPSdub25lJy8+PHBhdGggZD0nTTMzMSAxNDRMMzMxIDEzOEwyMzAgMTM4JyBzdHJva2U9JyM4ODgnIGZpbGw9J25vbmUnLz48cmVjdCB4PSczMDgnIHk9Jzk0JyB3aWR0aD0nNDYnIGhlaWdodD0nMjYnIHJ4PSc0JyBmaWxsPScjZWVlJyBzdHJva2U9JyM4ODgnLz48dGV4dCB4PSczMzEnIHk9JzExMicgdGV4dC1hbmNob3I9J21pZGRsZScgZmlsbD0nIzQ0NCc+TUxQIDE8L3RleHQ+PHBhdGggZD0nTTIzMCAxMjRMMzMxIDEyNEwzMzEgMTIwJyBzdHJva2U9JyM4ODgnIGZpbGw9J25vbmUnLz48cGF0aCBkPSdNMzMxIDk0TDMzMSA4OEwyMzAgODgnIHN0cm9rZT0nIzg4OCcgZmlsbD0nbm9uZScvPjxyZWN0IHg9JzMwOCcgeT0nNDQnIHdpZHRoPSc0NicgaGVpZ2h0PScyNicgcng9JzQnIGZpbGw9JyNlZWUnIHN0cm9rZT0nIzg4OCcvPjx0ZXh0IHg9JzMzMScgeT0nNjInIHRleHQtYW5jaG9yPSdtaWRkbGUnIGZpbGw9JyM0NDQnPk1MUCAyPC90ZXh0PjxwYXRoIGQ9J00yMzAgNzRMMzMxIDc0TDMzMSA3MCcgc3Ryb2tlPScjODg4JyBmaWxsPSdub25lJy8+PHBhdGggZD0nTTMzMSA0NEwzMzEgMzhMMjMwIDM4JyBzdHJva2U9JyM4ODgnIGZpbGw9J25vbmUnLz48cGF0aCBkPSdNMjY4IDEwOEwyMzAgMTI0JyBzdHJva2U9JyNFNjlGMDAnIHN0cm9rZS13aWR0aD0nMi41Jy8+PGNpcmNsZSBjeD0nMjMwJyBjeT0nMTI0JyByPSc0JyBmaWxsPScjRTY5RjAwJy8+PHBhdGggZD0nTTI2OCAxMDhMMjMwIDg4JyBzdHJva2U9JyNFNjlGMDAnIHN0cm9rZS13aWR0aD0nMi41Jy8+PGNpcmNsZSBjeD0nMjMwJyBjeT0nODgnIHI9JzQnIGZpbGw9JyNFNjlGMDAnLz48Y2lyY2xlIGN4PScyNjgnIGN5PScxMDgnIHI9JzgnIGZpbGw9JyNFNjlGMDAnLz48dGV4dCB4PSc0NzAnIHk9JzE4JyB0ZXh0LWFuY2hvcj0nbWlkZGxlJyBmaWxsPScjMjIyJyBmb250LXdlaWdodD0nYm9sZCc+Y3Jvc3Njb2RlcjwvdGV4dD48cGF0aCBkPSdNNDIwIDE4NUw0MjAgMzAnIHN0cm9rZT0nIzg4OCcgc3Ryb2tlLXdpZHRoPSczJy8+PHJlY3QgeD0nNDk4JyB5PScxNDQnIHdpZHRoPSc0NicgaGVpZ2h0PScyNicgcng9JzQnIGZpbGw9JyNlZWUnIHN0cm9rZT0nIzg4OCcvPjx0ZXh0IHg9JzUyMScgeT0nMTYyJyB0ZXh0LWFuY2hvcj0nbWlkZGxlJyBmaWxsPScjNDQ0Jz5NTFAgMDwvdGV4dD48cGF0aCBkPSdNNDIwIDE3NEw1MjEgMTc0TDUyMSAxNzAnIHN0cm9rZT0nIzg4OCcgZmlsbD0nbm9uZScvPjxwYXRoIGQ9J001MjEgMTQ0TDUyMSAxMzhMNDIwIDEzOCcgc3Ryb2tlPScjODg4JyBmaWxsPSdub25lJy8+PHJlY3QgeD0nNDk4JyB5PSc5NCcgd2lkdGg9JzQ2JyBoZWlnaHQ9JzI2JyByeD0nNCcgZmlsbD0nI2VlZScgc3Ryb2tlPScjODg4Jy8+PHRleHQgeD0nNTIxJyB5PScxMTInIHRleHQtYW5jaG9yPSdtaWRkbGUnIGZpbGw9JyM0NDQnPk1MUCAxPC90ZXh0PjxwYXRoIGQ9J000MjAgMTI0TDUyMSAxMjRMNTIxIDEyMCcgc3Ryb2tlPScjODg4JyBmaWxsPSdub25lJy8+PHBhdGggZD0nTTUyMSA5NEw1MjEgODhMNDIwIDg4JyBzdHJva2U9JyM4ODgnIGZpbGw9J25vbmUnLz48cmVjdCB4PSc0OTgnIHk9JzQ0JyB3aWR0aD0nNDYnIGhlaWdodD0nMjYnIHJ4PSc0JyBmaWxsPScjZWVlJyBzdHJva2U9JyM4ODgnLz48dGV4dCB4PSc1MjEnIHk9JzYyJyB0ZXh0LWFuY2hvcj0nbWlkZGxlJyBmaWxsPScjNDQ0Jz5NTFAgMjwvdGV4dD48cGF0aCBkPSdNNDIwIDc0TDUyMSA3NEw1MjEgNzAnIHN0cm9rZT0nIzg4OCcgZmlsbD0nbm9uZScvPjxwYXRoIGQ9J001MjEgNDRMNTIxIDM4TDQyMCAzOCcgc3Ryb2tlPScjODg4JyBmaWxsPSdub25lJy8+PHBhdGggZD0nTTQ1OCAxMThMNDIwIDE0OCcgc3Ryb2tlPScjMDA5RTczJyBzdHJva2Utd2lkdGg9JzIuNScvPjxjaXJjbGUgY3g9JzQyMCcgY3k9JzE0OCcgcj0nNCcgZmlsbD0nIzAwOUU3MycvPjxwYXRoIGQ9J000NTggMTE4TDQyMCA5OCcgc3Ryb2tlPScjMDA5RTczJyBzdHJva2Utd2lkdGg9JzIuNScvPjxjaXJjbGUgY3g9JzQyMCcgY3k9Jzk4JyByPSc0JyBmaWxsPScjMDA5RTczJy8+PHBhdGggZD0nTTQ1OCAxMThMNDIwIDQ0JyBzdHJva2U9JyMwMDlFNzMnIHN0cm9rZS13aWR0aD0nMi41Jy8+PGNpcmNsZSBjeD0nNDIwJyBjeT0nNDQnIHI9JzQnIGZpbGw9JyMwMDlFNzMnLz48Y2lyY2xlIGN4PSc0NTgnIGN5PScxMTgnIHI9JzgnIGZpbGw9JyMwMDlFNzMnLz48dGV4dCB4PSc2NjAnIHk9JzE4JyB0ZXh0LWFuY2hvcj0nbWlkZGxlJyBmaWxsPScjMjIyJyBmb250LXdlaWdodD0nYm9sZCc+Y3Jvc3MtbGF5ZXIgdHJhbnNjb2RlcjwvdGV4dD48cGF0aCBkPSdNNjEwIDE4NUw2MTAgMzAnIHN0cm9rZT0nIzg4OCcgc3Ryb2tlLXdpZHRoPSczJy8+PHJlY3QgeD0nNjg4JyB5PScxNDQnIHdpZHRoPSc0NicgaGVpZ2h0PScyNicgcng9JzQnIGZpbGw9JyNlZWUnIHN0cm9rZT0nIzg4OCcvPjx0ZXh0IHg9JzcxMScgeT0nMTYyJyB0ZXh0LWFuY2hvcj0nbWlkZGxlJyBmaWxsPScjNDQ0Jz5NTFAgMDwvdGV4dD48cGF0aCBkPSdNNjEwIDE3NEw3MTEgMTc0TDcxMSAxNzAnIHN0cm9rZT0nIzg4OCcgZmlsbD0nbm9uZScvPjxwYXRoIGQ9J003MTEgMTQ0TDcxMSAxMzhMNjEwIDEzOCcgc3Ryb2tlPScjODg4JyBmaWxsPSdub25lJy8+PHJlY3QgeD0nNjg4JyB5PSc5NCcgd2lkdGg9JzQ2JyBoZWlnaHQ9JzI2JyByeD0nNCcgZmlsbD0nI2VlZScgc3Ryb2tlPScjODg4Jy8+PHRleHQgeD0nNzExJyB5PScxMTInIHRleHQtYW5jaG9yPSdtaWRkbGUnIGZpbGw9JyM0NDQnPk1MUCAxPC90ZXh0PjxwYXRoIGQ9J002MTAgMTI0TDcxMSAxMjRMNzExIDEyMCcgc3Ryb2tlPScjODg4JyBmaWxsPSdub25lJy8+PHBhdGggZD0nTTcxMSA5NEw3MTEgODhMNjEwIDg4JyBzdHJva2U9JyM4ODgnIGZpbGw9J25vbmUnLz48cmVjdCB4PSc2ODgnIHk9JzQ0JyB3aWR0aD0nNDYnIGhlaWdodD0nMjYnIHJ4PSc0JyBmaWxsPScjZWVlJyBzdHJva2U9JyM4ODgnLz48dGV4dCB4PSc3MTEnIHk9JzYyJyB0ZXh0LWFuY2hvcj0nbWlkZGxlJyBmaWxsPScjNDQ0Jz5NTFAgMjwvdGV4dD48cGF0aCBkPSdNNjEwIDc0TDcxMSA3NEw3MTEgNzAnIHN0cm9rZT0nIzg4OCcgZmlsbD0nbm9uZScvPjxwYXRoIGQ9J003MTEgNDRMNzExIDM4TDYxMCAzOCcgc3Ryb2tlPScjODg4JyBmaWxsPSdub25lJy8+PHBhdGggZD0nTTY0OCAxNTBMNjEwIDE3NCcgc3Ryb2tlPScjRDU1RTAwJyBzdHJva2Utd2lkdGg9JzIuNScvPjxjaXJjbGUgY3g9JzYxMCcgY3k9JzE3NCcgcj0nNCcgZmlsbD0nI0Q1NUUwMCcvPjxwYXRoIGQ9J002NDggMTUwTDYxMCAxMzgnIHN0cm9rZT0nI0Q1NUUwMCcgc3Ryb2tlLXdpZHRoPScyLjUnLz48Y2lyY2xlIGN4PSc2MTAnIGN5PScxMzgnIHI9JzQnIGZpbGw9JyNENTVFMDAnLz48cGF0aCBkPSdNNjQ4IDE1MEw2MTAgODgnIHN0cm9rZT0nI0Q1NUUwMCcgc3Ryb2tlLXdpZHRoPScyLjUnLz48Y2lyY2xlIGN4PSc2MTAnIGN5PSc4OCcgcj0nNCcgZmlsbD0nI0Q1NUUwMCcvPjxwYXRoIGQ9J002NDggMTUwTDYxMCAzOCcgc3Ryb2tlPScjRDU1RTAwJyBzdHJva2Utd2lkdGg9JzIuNScvPjxjaXJjbGUgY3g9JzYxMCcgY3k9JzM4JyByPSc0JyBmaWxsPScjRDU1RTAwJy8+PGNpcmNsZSBjeD0nNjQ4JyBjeT0nMTUwJyByPSc4JyBmaWxsPScjRDU1RTAwJy8+PC9zdmc+">
#
# *Where a latent reads and writes. An SAE describes one place. A transcoder replaces a computation. A crosscoder describes several places at once. A cross-layer transcoder reads one layer and writes to every later MLP's output.*
#
# Sparse autoencoders left questions open: what do MLPs *compute* (not only: what is there)? What do two layers, or two models, have in common? Are latents made of smaller latents? What becomes of a feature that another one implies, or of one that is not a
# direction at all? Each question has a method. All are young, and all can look good without being right. So every method here is small, is trained in seconds, and is judged against **a truth we planted** or **a simple baseline**, never by its loss.
# Transcoder, crosscoder and cross-layer transcoder (08.1, 08.2, 08.4) and absorption (08.5) are tried on planted models only, whose truth is known; the meta-SAE (08.3), the circle (08.6) and the attention heads (08.7) go on to the real model.
#
# **You will be able to**
#
# - write and train a transcoder, a crosscoder and a cross-layer transcoder, and say when each of them misleads;
# - decompose a dictionary with a meta-SAE, and tell structure from covariance;
# - measure absorption by asking who carries the missing feature;
# - find a circle among the days of the week, with a chance level, and trace latents of attention layers back to heads;
# - argue, with numbers, for and against "features are real".
#
# **Time**: about 3 h of exercises; the cells run in about two minutes on two CPU cores. **Before**: lessons 05 to 07.

# %% tags=["setup"]
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from torch import Tensor, nn

from course_utils import check, hint, progress, sae, solution
from course_utils.sae import SAEConfig, evaluate_coder, evaluate_sae, match_directions, train_sae
from course_utils.settings import quick
from course_utils.viz import frontier as draw

threads = torch.get_num_threads()
torch.set_num_threads(1)  # the toy models are small: a second thread only gets in the way
torch.manual_seed(0)
STEPS = 250 if quick() else 1500
SEEDS = (3,) if quick() else (3, 4)


def fit(model: nn.Module, loss, *data: Tensor, steps: int = STEPS, seed: int = 7, lr: float = 3e-3):
    """Train with Adam, batches of 512 and a learning rate that falls to 0; `loss(*batch)` is one number."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        rows = torch.randint(len(data[0]), (512,), generator=generator)
        optimizer.zero_grad()
        loss(*(d[rows] for d in data)).backward()
        optimizer.step()
    return model.requires_grad_(False)


def settings(d_in: int, d_sae: int, seed: int = 3, **others) -> SAEConfig:
    """The course's trainer with the same batches and rates; decoder rows may have any length."""
    common = {
        "steps": STEPS,
        "batch_size": 512,
        "lr": 3e-3,
        "seed": seed,
        "unit_norm_decoder": False,
        "lr_decay_share": 1.0,
    }
    return SAEConfig(d_in, d_sae, **{**common, **others})


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of every column of `a` [n, i] with every column of `b` [n, j]."""
    a, b = a - a.mean(0), b - b.mean(0)
    return F.normalize(a, dim=0).T @ F.normalize(b, dim=0)


def one_to_one(found: Tensor, wanted: Tensor) -> Tensor:
    """For each column of `wanted` the correlation with a column of `found` of its own (Hungarian matching)."""
    table = correlation(found, wanted).numpy()
    rows, columns = linear_sum_assignment(table, maximize=True)
    return torch.zeros(wanted.shape[1]).index_put((torch.as_tensor(columns),), torch.as_tensor(table[rows, columns]))


# %% [markdown]
# ## 1 · What does an MLP compute? Transcoders
#
# An SAE on an MLP's output says what comes out, not how it came about. A **transcoder** ([Dunefsky et al. 2024](https://arxiv.org/abs/2406.11944)) has the shape of an SAE, but reads the MLP's *input* and must produce its *output*:
#
# $$f = \mathrm{ReLU}(x W_{enc} + b_{enc}) \qquad \hat y = f W_{dec} + b_{dec} \;(+\; x W_{skip}) \qquad L = \|y - \hat y\|^2 + \lambda \sum_i f_i \|W_{dec,i}\|$$
#
# A latent is then a rule: *if this is in the input, add that to the output*. The optional linear **skip** takes over what needs no rule ([Paulo et al. 2025](https://arxiv.org/abs/2501.18823)).

# %% [markdown]
# ### Exercise 08.1: A transcoder, with and without a skip connection
#
# Parameters: `W_enc [d_in, d_sae]` and `W_dec [d_sae, d_out]`, random and **small**, such as `0.01 * torch.randn(...)`: large starts leave rules unfound. (What counts is the product: beside a small decoder, encoder columns of length 1 do too.) `b_enc [d_sae]` and `b_dec [d_out]`, zero, and `W_skip [d_in, d_out]`, zero too, or `None` without a skip. Nothing is subtracted from the input: `b_dec` lives where the output lives.
# The loss: squared error summed over dimensions, averaged over the batch, plus `l1` times the mean of $\sum_i f_i \|W_{dec,i}\|$.


# %% answer="08.1"
class Transcoder(nn.Module):
    """From an MLP's input [batch, d_in] to its output [batch, d_out] through sparse latents [batch, d_sae].

    W_enc and W_dec start random and small, such as 0.01 * torch.randn(...); all else starts at zero.
    """

    def __init__(self, d_in: int, d_out: int, d_sae: int, l1: float, skip: bool = False):
        super().__init__()
        ### BEGIN SOLUTION
        self.l1 = l1
        self.W_enc = nn.Parameter(F.normalize(torch.randn(d_in, d_sae), dim=0))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(0.1 * F.normalize(torch.randn(d_sae, d_out), dim=1))
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        self.W_skip = nn.Parameter(torch.zeros(d_in, d_out)) if skip else None
        ### END SOLUTION

    def encode(self, x: Tensor) -> Tensor:
        """The latents [batch, d_sae]."""
        ### BEGIN SOLUTION
        return (x @ self.W_enc + self.b_enc).relu()
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        """The MLP's output as the transcoder sees it [batch, d_out]."""
        ### BEGIN SOLUTION
        y_hat = self.encode(x) @ self.W_dec + self.b_dec
        return y_hat if self.W_skip is None else y_hat + x @ self.W_skip
        ### END SOLUTION

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Squared error plus the penalty, one number."""
        ### BEGIN SOLUTION
        penalty = (self.encode(x) * self.W_dec.norm(dim=1)).sum(dim=1).mean()
        return (y - self(x)).square().sum(dim=1).mean() + self.l1 * penalty
        ### END SOLUTION


# %% check="08.1"
check("08.1", Transcoder)

# %% [markdown]
# **The truth.** 24 sparse features, and 30 rules of the form "if features $a$ *and* $b$ are there, write $v$": $\mathrm{relu}(a + b - 1)\, v$. An MLP with only 24 neurons is trained on the outcome: fewer neurons than rules, so it must do several rules with one neuron. We then study the
# *MLP*, and ask how many of the 30 rules can be read off as single units: of its neurons, of an SAE on its output, and of a transcoder. A rule is found if a unit of its own correlates with it above 0.9 on fresh data.

# %%
world = sae.rule_world(seed=0)
generator = torch.Generator().manual_seed(100)
mlp = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 32))
x, rules, y = world.sample(40_000, generator)
fit(mlp, lambda x, y: (mlp(x) - y).square().sum(1).mean(), x, y, steps=2 * STEPS)
x_test, rules_test, y_test = world.sample(5000, generator)
unexplained = (mlp(x_test) - y_test).square().sum() / (y_test - y_test.mean(0)).square().sum()
print(
    f"the MLP misses {float(unexplained):.0%} of the variance of the true outputs: 24 neurons are not enough for 30 rules"
)
y, y_test = mlp(x), mlp(x_test)  # from here on the MLP itself is what is to be explained

torch.manual_seed(1)
coder = Transcoder(32, 32, 60, l1=0.05)
fit(coder, coder.loss, x, y)
output_sae = train_sae(y, settings(32, 60, architecture="standard", l1_coefficient=0.05), progress=False).sae
input_sae = train_sae(x, settings(32, 60, architecture="standard", l1_coefficient=0.05), progress=False).sae
with torch.no_grad():
    units = {
        "neurons of the MLP": mlp[:2](x_test),
        "SAE on the input": input_sae.encode(x_test),
        "SAE on the output": output_sae.encode(y_test),
        "transcoder": coder.encode(x_test),
    }
matches = {name: one_to_one(acts, rules_test) for name, acts in units.items()}
for name, acts in units.items():
    print(
        f"{name:20} rules found {int((matches[name] > 0.9).sum()):2} of 30, active units a sample {float((acts > 1e-3).sum(1).float().mean()):4.1f}"
    )
draw.ranked_matches(
    matches,
    "A transcoder reads off rules that share neurons",
    subtitle="24 neurons, 30 rules; correlation of each rule with a unit of its own, on 5,000 fresh samples",
    x="rule, best matched first",
    y="correlation",
)

# %% [markdown]
# In our run 7 of the 30 rules can be read off single neurons, 11 off an SAE on the output and 27 off the transcoder. An SAE on the input finds features, and a feature is not yet a rule. An SAE on the output sees what was written, but has to guess from the outcome alone which
# rules were at work. The MLP itself is imperfect, and what it gets wrong, the transcoder describes too.
#
# Now the skip. We add a linear map of the input to the output, as many MLPs do in part, and train with and without `W_skip`.

# %%
bent = sae.rule_world(linear=0.3, seed=1)
x_bent, _, y_bent = bent.sample(20_000, generator)
x_new, rules_new, y_new = bent.sample(5000, generator)
for skip in (False, True):
    for seed in SEEDS:
        torch.manual_seed(seed)
        other = Transcoder(32, 32, 60, l1=0.05, skip=skip)
        fit(other, other.loss, x_bent, y_bent, seed=seed)
        f = other.encode(x_new)
        left = (other(x_new) - y_new).square().sum() / (y_new - y_new.mean(0)).square().sum()
        found = int((one_to_one(f, rules_new) > 0.9).sum())
        print(
            f"skip {skip!s:5} seed {seed}: rules found {found:2} of 30, L0 {float((f > 1e-3).sum(1).float().mean()):5.1f}, unexplained {float(left):.3f}"
        )

# %% [markdown]
# Read the two halves against each other: without the skip, latents are spent on a linear map that no rule needs, which shows in L0 (6 to 7 instead of 2) and in what stays unexplained. With it, the latents are free for the rules. The rules themselves were found either way in our runs, 28 to 30 of 30.
#
# **Questions**
#
# 1. A transcoder's loss is low. Does it do what the MLP does?
# <details><summary>Answer</summary>It gives the MLP's outputs on this data. The MLP gets there with 24 neurons that mix rules, the transcoder with 60 latents that do not: same function here, another mechanism. On inputs unlike the training data they may part.</details>
#
# 2. When does a skip connection hide something?
# <details><summary>Answer</summary>When features matter that act linearly. They pass through `W_skip`, which nobody reads, because it is one dense matrix.</details>

# %% [markdown]
# ## 2 · What do two layers, or two models, share? Crosscoders
#
# A feature often lives in many layers. SAEs find it anew in each, and one then has to match. A **crosscoder** ([Lindsey et al. 2024](https://transformer-circuits.pub/2024/crosscoders/index.html)) has one set of latents that reads all sources $s$ at once and writes each with a decoder of its own:
#
# $$f = \mathrm{ReLU}\Big(\sum_s x_s W_{enc}^{(s)} + b_{enc}\Big) \qquad \hat x_s = f W_{dec}^{(s)} + b_{dec}^{(s)} \qquad L = \sum_s \|x_s - \hat x_s\|^2 + \lambda \sum_i f_i \sum_s \|W_{dec,i}^{(s)}\|$$
#
# The **relative length** $\|W_{dec,i}^{(2)}\| / (\|W_{dec,i}^{(1)}\| + \|W_{dec,i}^{(2)}\|)$ says where a latent lives: 0 only in the first, ½ in both, 1 only in the second.

# %% [markdown]
# ### Exercise 08.2: A crosscoder: what do two layers, or two models, share?
#
# Parameters: `W_enc [sources, d_in, d_sae]` and `W_dec [sources, d_sae, d_in]`, random and small, such as `0.01 * torch.randn(...)` (large starts leave features unfound); `b_enc [d_sae]` and `b_dec [sources, d_in]`, zero. Inputs are `x [batch, sources, d_in]`. The squared error is summed over sources and dimensions; λ is `l1`, and both terms are averaged over the batch.


# %% answer="08.2"
class Crosscoder(nn.Module):
    """One set of latents for several sources. W_enc and W_dec start random and small, the biases at zero."""

    def __init__(self, n_sources: int, d_in: int, d_sae: int, l1: float):
        super().__init__()
        ### BEGIN SOLUTION
        self.l1 = l1
        self.W_enc = nn.Parameter(torch.randn(n_sources, d_in, d_sae) / (n_sources * d_in) ** 0.5)
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(0.1 * F.normalize(torch.randn(n_sources, d_sae, d_in), dim=2))
        self.b_dec = nn.Parameter(torch.zeros(n_sources, d_in))
        ### END SOLUTION

    def encode(self, x: Tensor) -> Tensor:
        """The latents [batch, d_sae] of x [batch, sources, d_in]."""
        ### BEGIN SOLUTION
        return (torch.einsum("bsd,sdm->bm", x, self.W_enc) + self.b_enc).relu()
        ### END SOLUTION

    def decode(self, f: Tensor) -> Tensor:
        """All sources [batch, sources, d_in]."""
        ### BEGIN SOLUTION
        return torch.einsum("bm,smd->bsd", f, self.W_dec) + self.b_dec
        ### END SOLUTION

    def loss(self, x: Tensor) -> Tensor:
        """Squared error of all sources, plus the penalty with decoder lengths added up over sources."""
        ### BEGIN SOLUTION
        f = self.encode(x)
        penalty = (f * self.W_dec.norm(dim=2).sum(dim=0)).sum(dim=1).mean()
        return (x - self.decode(f)).square().sum(dim=(1, 2)).mean() + self.l1 * penalty
        ### END SOLUTION

    def relative_length(self) -> Tensor:
        """For two sources: the second one's share of each latent's decoder lengths [d_sae]."""
        ### BEGIN SOLUTION
        lengths = self.W_dec.norm(dim=2)
        return lengths[1] / lengths.sum(dim=0)
        ### END SOLUTION


# %% check="08.2"
check("08.2", Crosscoder)

# %% [markdown]
# **Two layers.** The truth: 16 features pass unchanged from one layer to the next, 8 turn to a new direction, 6 are erased, 6 are born in between.


# %%
def kinds(world) -> Tensor:
    """0: only in the first source, 1: in both, 2: only in the second."""
    return torch.where(world.present[0] & world.present[1], 1, torch.where(world.present[0], 0, 2))


NAMES = ["only first", "shared", "only second"]


def by_kind(W_dec: Tensor, relative: Tensor, world) -> tuple[dict[str, Tensor], Tensor]:
    """The relative length of each feature's matched latent, by the feature's true kind; and the matched cosines."""
    index, cosine = match_directions(W_dec, torch.cat(list(world.directions), dim=1))
    return {name: relative[index][kinds(world) == k] for k, name in enumerate(NAMES)}, cosine


generator = torch.Generator().manual_seed(200)
layers = sae.two_layers(seed=0)
rows, _ = layers.sample(20_000, generator)
torch.manual_seed(2)
cross = Crosscoder(2, 32, 40, l1=0.1)
fit(cross, cross.loss, rows.unflatten(1, (2, 32)))
lengths, cosine = by_kind(torch.cat(list(cross.W_dec), dim=1), cross.relative_length(), layers)
index, _ = match_directions(torch.cat(list(cross.W_dec), dim=1), torch.cat(list(layers.directions), dim=1))
turn = F.cosine_similarity(cross.W_dec[0][index], cross.W_dec[1][index], dim=1)
print(f"features recovered (cosine > 0.9): {int((cosine > 0.9).sum())} of 36")
print(
    f"cosine between a latent's two decoders: kept features {float(turn[:16].mean()):.2f}, turned features {float(turn[16:24].mean()):.2f}"
)
print({name: [round(v, 2) for v in (values.min().item(), values.max().item())] for name, values in lengths.items()})

# %% [markdown]
# In our runs all 36 features came back. Latents of features that live in one layer have a relative length near 0 or 1, the others near ½. The two decoders of a *kept* feature point the same way, those of a *turned* one do not: what moved is visible too, which no SAE of a single layer can show.
#
# **Two models: what changed in training?** Here the two sources have unrelated directions, as two models have: 24 features shared, 6 in each model alone. One twist: in the second model, 8 of the shared features are written at 0.3 of their length. They are still *shared*, with a true relative length of 0.3 / 1.3 = 0.23.
# We compare the L1 penalty above, the same with the length of both decoders joined, $\sqrt{\sum_s \|W^{(s)}\|^2}$, and TopK without any penalty. Your class has only the first, so the course's `sae.Crosscoder`, which has all three, is used here. λ is 0.6, because a small one hides what we want to see: by the formula below, λ = 0.1 would take only 0.05 off a decoder of length 0.3. The baseline keeps 0.1, as it needs no such effect: one SAE for each model, and latents matched by the correlation of their activations.

# %%
models = sae.two_models(weak=0.3, seed=0)
rows, _ = models.sample(20_000, generator)
fresh, truth = models.sample(5000, generator)
WAYS = {
    "L1, lengths added": {"architecture": "standard", "l1_coefficient": 0.6},
    "L1, lengths joined": {"architecture": "standard", "l1_coefficient": 0.6},
    "TopK": {"architecture": "topk", "k": 4},
}
panels = {}
for name, way in WAYS.items():
    for seed in SEEDS:
        cfg = settings(32, 40, seed, **way)
        crosscoder = sae.Crosscoder(cfg, penalty="concatenated" if "joined" in name else "sum")
        crosscoder = train_sae(rows, cfg, sae=crosscoder, progress=False).sae
        panels[name], cosine = by_kind(crosscoder.W_dec.detach(), crosscoder.relative_length(), models)
        wrong = int(((panels[name]["shared"] < 0.1) | (panels[name]["shared"] > 0.9)).sum())
        right = int((panels[name]["only first"] < 0.1).sum() + (panels[name]["only second"] > 0.9).sum())
        scores = evaluate_coder(crosscoder, fresh)
        print(
            f"{name:18} seed {seed}: recovered {int((cosine > 0.9).sum())} of 36, exclusive found {right:2} of 12, shared called exclusive {wrong} of 24, L0 {scores['l0']:.1f}, unexplained {scores['fvu']:.3f}"
        )

pair = [
    train_sae(
        rows[:, 32 * s : 32 * (s + 1)],
        settings(32, 40, 5 + s, architecture="standard", l1_coefficient=0.1),
        progress=False,
    ).sae
    for s in (0, 1)
]
codes = [one.encode(fresh[:, 32 * s : 32 * (s + 1)]).detach() for s, one in enumerate(pair)]
alive = [(code > 0).float().mean(0) > 0.01 for code in codes]
partner = correlation(codes[0], codes[1]).amax(1)
claimed = [int((best[on] < 0.5).sum()) for best, on in zip((partner, correlation(codes[0], codes[1]).amax(0)), alive)]
print(
    f"two SAEs matched by correlation: living latents without a partner {claimed[0]} in the first, {claimed[1]} in the second (truth: 6 and 6)"
)
draw.shares_by_kind(
    panels,
    "An L1 crosscoder calls weak features exclusive; TopK does not",
    subtitle="relative decoder length of each true feature's latent (last seed); eight shared features have a true value of 0.23",
    x="share of the second model",
    bounds=(0.1, 0.9),
)

# %% [markdown]
# The penalty with added lengths calls seven or all eight of the weak features exclusive to the first model, although both models have them. One can compute it: for a latent with activations $f$ and a true decoder of length $\ell$, the best length is $\ell - \lambda\, E[f] / (2 E[f^2])$ or zero. Here $E[f] = 1$ and $E[f^2] = 1.08$ while active, so
# $\lambda = 0.6$ takes 0.28 off every decoder: 0.3 becomes 0.02, and 1 becomes 0.72. The relative length of 0.23 turns into 0.03. A TopK crosscoder pays nothing for length and keeps 0.23. The baseline of two SAEs comes near the answer: 9 and 10 latents without a partner, where 6 and 6 are true. (No method finds everything: L1 lost up to five of the 36 features, TopK up to two.)
#
# **Questions**
#
# 1. Why does the penalty with lengths *added* push weak decoders to zero, and the joined one not?
# <details><summary>Answer</summary>Near zero, the derivative of $\|W^{(2)}\|$ is 1 however short it is: a constant pull, as L1 has for any number, and a weak decoder saves less error than it costs. For $\sqrt{\|W^{(1)}\|^2 + \|W^{(2)}\|^2}$ the pull on the short one fades as it shrinks. The artefact was found in real model diffs by <a href="https://arxiv.org/abs/2504.02922">Minder et al. 2025</a>.</details>
#
# 2. With the joined length, what is a crosscoder?
# <details><summary>Answer</summary>An ordinary SAE on the activations laid side by side. Nothing in it then prefers latents of one source, yet where features really are exclusive it finds them.</details>

# %% [markdown]
# ## 3 · Are latents made of latents? Meta-SAEs
#
# Lesson 05 saw latents split as dictionaries grow. Perhaps a latent "red square" is *made* of "red" and "square". A **meta-SAE** ([Bussmann et al. 2024](https://www.lesswrong.com/posts/TMAmHh4DdMr4nCSr5/showing-sae-latents-are-not-atomic-using-meta-saes); [Leask et al. 2025](https://arxiv.org/abs/2502.04878)) is an SAE
# whose data are the decoder directions of another SAE. Latents that share a meta-latent are a family.

# %% [markdown]
# ### Exercise 08.3: Latents made of latents: a meta-SAE
#
# `meta` is a trained SAE with `encode`, `decode` and `W_dec`. Take the **unit** rows of `W_dec`, and return
# - `strength [latents, meta]`: the length of what each meta-latent contributes to each row (its activation times the length of its decoder row);
# - `member [latents, meta]`: strength is positive and at least `share` of the *row's* largest;
# - the variance unexplained: the squared error of all rows over the sum of squared distances from the mean row. (The check's meta-SAE is untrained, so there it may be more than 1.)


# %% answer="08.3"
def meta_families(W_dec: Tensor, meta, share: float) -> tuple[Tensor, Tensor, float]:
    """(strength [latents, meta], member [latents, meta] bool, variance unexplained)."""
    ### BEGIN SOLUTION
    rows = F.normalize(W_dec, dim=1)
    latents = meta.encode(rows)
    strength = latents * meta.W_dec.norm(dim=1)
    member = (strength > 0) & (strength >= share * strength.amax(dim=1, keepdim=True))
    error = (rows - meta.decode(latents)).square().sum()
    return strength, member, float(error / (rows - rows.mean(dim=0)).square().sum())
    ### END SOLUTION


# %% check="08.3"
check("08.3", meta_families)

# %% [markdown]
# **The truth**: 500 latents, each the sum of one, two or three of 24 parts and a bit of its own. Controls: k-means with 24 clusters; and a **Gaussian twin** of the dictionary, random directions with the same mean and covariance. What a meta-SAE explains of the twin is owed to the covariance, not to parts.

# %%
planted = sae.composed_dictionary(seed=0)
meta_steps = 300 if quick() else 500
with torch.no_grad():
    unit_rows = F.normalize(planted.W_dec, dim=1)
clusters = KMeans(24, n_init=5, random_state=0).fit(unit_rows.numpy())


def overlap(member: Tensor, true: Tensor) -> Tensor:
    """Members in common over members in either, family by family."""
    return (member & true).sum(0) / (member | true).sum(0)


for seed in SEEDS:
    meta = sae.train_meta_sae(planted.W_dec, 32, 3, steps=meta_steps, seed=seed)
    twin = sae.gaussian_twin(planted.W_dec, seed=seed)
    twin_meta = sae.train_meta_sae(twin, 32, 3, steps=meta_steps, seed=seed)
    with torch.no_grad():
        strength, member, left = meta_families(planted.W_dec, meta, 0.5)
        index, cosine = match_directions(meta.W_dec, planted.parts)
        twin_left = meta_families(twin, twin_meta, 0.5)[2]
    same = overlap(member[:, index], planted.member)
    print(
        f"meta-SAE, seed {seed}: parts found {int((cosine > 0.9).sum())} of 24, families overlap {float(same.mean()):.2f}; unexplained {left:.2f}, of the twin {twin_left:.2f}"
    )
index, cosine = match_directions(torch.as_tensor(clusters.cluster_centers_), planted.parts)
in_cluster = F.one_hot(torch.as_tensor(clusters.labels_).long(), 24).bool()
print(
    f"24-means: parts found {int((cosine > 0.9).sum())} of 24, families overlap {float(overlap(in_cluster[:, index], planted.member).mean()):.2f}"
)

# %% [markdown]
# With parts planted, the meta-SAE finds them all or nearly all (24 of 24 in our runs), and leaves 0.05 unexplained where the twin leaves 0.38. K-means finds 22 of the 24 directions, but it puts each latent into one cluster, so its families overlap the true ones by 0.47 only.
#
# Now the same on the 4,608 latents of the course's middle SAE.

# %%
from course_utils.features.held_back import split_open
from course_utils.lm import collect_activations, load_corpus, load_model, load_sae

torch.set_num_threads(threads)
W_real = load_sae("middle").W_dec.detach()
if quick():
    W_real = W_real[:1024]
random_rows = torch.randn(W_real.shape, generator=torch.Generator().manual_seed(9))
explained, families = {}, {}
for name, rows in {
    "the SAE": W_real,
    "Gaussian twin": sae.gaussian_twin(W_real),
    "random directions": random_rows,
}.items():
    meta = sae.train_meta_sae(rows, 256, 4, steps=60 if quick() else 300, seed=1)
    with torch.no_grad():
        _, families[name], left = meta_families(rows, meta, 0.5)
    sizes = families[name].sum(0)
    explained[name] = {"variance explained": 1 - left}
    print(f"{name:18} unexplained {left:.3f}; family sizes: median {int(sizes.median())}, largest {int(sizes.max())}")
draw.bars_with_control(
    explained,
    "How much a meta-SAE explains, and how much it would explain of noise",
    subtitle=f"256 meta-latents, 4 a direction, on {len(W_real):,} decoder directions of the middle SAE",
    y="share of variance explained",
)

# %% [markdown]
# In our runs the meta-SAE left 0.76 of the variance unexplained, of the Gaussian twin 0.77, and of random directions 0.86. So nearly all it gains over random directions is covariance: some dimensions are used more than others. This does not say that there are no families; it says that *reconstruction* is no evidence for them here. A
# claim about a family needs a measurement of its own, for example that its members answer to the same concept (exercises 06.7 and 06.8).

# %% [markdown]
# ## 4 · One latent for a whole path: cross-layer transcoders
#
# If a result is computed once and passed on by later layers, a transcoder for each layer needs a latent for each. A **cross-layer transcoder** ([Ameisen et al. 2025](https://transformer-circuits.pub/2025/attribution-graphs/methods.html)) lets a latent of layer $s$ write to the MLP outputs of all layers $t \geq s$:
#
# $$f^{(s)} = \mathrm{ReLU}(x^{(s)} W_{enc}^{(s)} + b_{enc}^{(s)}) \qquad \hat y^{(t)} = \sum_{s \leq t} f^{(s)} W_{dec}^{(s \to t)} + b_{dec}^{(t)} \qquad \text{penalty: } \lambda \sum_{s, i} f_i^{(s)} \sqrt{\sum_{t \geq s} \|W_{dec,i}^{(s \to t)}\|^2}$$
#
# (Simplified: the paper uses a JumpReLU and a penalty that levels off, tanh.)

# %% [markdown]
# ### Exercise 08.4: A cross-layer transcoder
#
# Parameters: `W_enc [layers, d, per_layer]` and `W_dec [source, target, per_layer, d]`, random and small, such as `0.01 * torch.randn(...)` (large starts leave more unexplained); `b_enc [layers, per_layer]` and `b_dec [layers, d]`, zero. Decoders with source > target exist in the array but are never used, and never counted. Inputs and targets are [batch, layers, d]; the
# squared error is summed over layers and dimensions; λ is `l1`, and both terms are averaged over the batch.


# %% answer="08.4"
class CrossLayerTranscoder(nn.Module):
    """Latents of each layer write to the MLP outputs of their own and all later layers.

    W_enc and W_dec start random and small, such as 0.01 * torch.randn(...); the biases at zero.
    """

    def __init__(self, n_layers: int, d: int, per_layer: int, l1: float):
        super().__init__()
        ### BEGIN SOLUTION
        self.l1 = l1
        self.W_enc = nn.Parameter(F.normalize(torch.randn(n_layers, d, per_layer), dim=1))
        self.b_enc = nn.Parameter(torch.zeros(n_layers, per_layer))
        self.W_dec = nn.Parameter(0.1 * F.normalize(torch.randn(n_layers, n_layers, per_layer, d), dim=3))
        self.b_dec = nn.Parameter(torch.zeros(n_layers, d))
        ### END SOLUTION

    def encode(self, x: Tensor) -> Tensor:
        """The latents [batch, layers, per_layer]; each layer's read that layer only."""
        ### BEGIN SOLUTION
        return (torch.einsum("bld,ldm->blm", x, self.W_enc) + self.b_enc).relu()
        ### END SOLUTION

    def decode(self, f: Tensor) -> Tensor:
        """All MLP outputs [batch, layers, d]."""
        ### BEGIN SOLUTION
        allowed = torch.ones(len(self.W_dec), len(self.W_dec)).triu()[:, :, None, None]
        return torch.einsum("bsm,stmd->btd", f, self.W_dec * allowed) + self.b_dec
        ### END SOLUTION

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Squared error of all layers, plus the penalty with the length of all that a latent writes."""
        ### BEGIN SOLUTION
        f = self.encode(x)
        allowed = torch.ones(len(self.W_dec), len(self.W_dec)).triu()[:, :, None, None]
        lengths = (self.W_dec * allowed).square().sum(dim=(1, 3)).sqrt()  # [source, per_layer]
        penalty = (f * lengths).sum(dim=(1, 2)).mean()
        return (y - self.decode(f)).square().sum(dim=(1, 2)).mean() + self.l1 * penalty
        ### END SOLUTION


# %% check="08.4"
check("08.4", CrossLayerTranscoder)

# %% [markdown]
# **The truth**: a residual model of three MLPs. Ten rules are computed in layer 0 and *relayed*: layer 1 reads what layer 0 wrote and writes it again in a new direction, and so does layer 2. Five rules are computed only in layer 1 and five only in layer 2, from the input features, which are in the stream all the time. All
# directions are at right angles. The baseline is one transcoder for each layer, at the same width and penalty.

# %%
generator = torch.Generator().manual_seed(400)
relay = sae.relay_world(seed=0)
reads, writes, _ = relay.sample(20_000, generator)
reads_test, writes_test, rules_test = relay.sample(5000, generator)
torch.manual_seed(3)
clt = CrossLayerTranscoder(3, 64, 30, l1=0.05)
fit(clt, clt.loss, reads, writes)
cfg = settings(64, 90, architecture="standard", l1_coefficient=0.05)
alone = sae.CrossLayerTranscoder(cfg, 3, cross=False)
alone = train_sae(torch.cat([reads.flatten(1), writes.flatten(1)], dim=1), cfg, sae=alone, progress=False).sae
both = {
    "cross-layer": (
        clt.encode(reads_test).flatten(1),
        clt.decode(clt.encode(reads_test)),
        clt.W_dec * torch.ones(3, 3).triu()[:, :, None, None],
    ),
}
with torch.no_grad():
    latents = alone.encode(reads_test.flatten(1))
    both["one a layer"] = latents, alone.predict(latents, reads_test.flatten(1)).unflatten(1, (3, 64)), alone.decoders
maps = {}
for name, (latents, predicted, decoders) in both.items():
    table = correlation(latents, rules_test).nan_to_num()
    used = (table > 0.7).sum(0).float()
    left = (predicted - writes_test).square().sum() / (writes_test - writes_test.mean(0)).square().sum()
    strength = latents.mean(0).view(3, 1, 30) * decoders.norm(dim=3)
    maps[name] = strength.sum(2) / strength.sum()
    home = table.argmax(0) // 30
    early = int((home[10:] < relay.born[10:]).sum())
    print(
        f"{name:11} L0 {float((latents > 1e-3).sum(1).float().mean()):.1f}, unexplained {float(left):.4f}; latents for a relayed rule {float(used[:10].mean()):.1f}, for a local one {float(used[10:].mean()):.1f}; "
        f"rules found {int((table.amax(0) > 0.9).sum())} of 20; local rules read too early {early} of 10"
    )
draw.decoder_maps(
    maps,
    "The cross-layer transcoder reads early and writes everywhere",
    subtitle="share of all that is written, by the layer a latent reads and the layer it writes to",
    names=["layer 0", "layer 1", "layer 2"],
)

# %% [markdown]
# In our run L0 fell from 4.9 to 3.6 at a similar error, and the latents that follow a relayed rule from 5.1 to 2.4 on average, about as many as a *local* rule takes (2.9, and 2.3 with one transcoder a layer): the path through three layers no longer needs latents of its own in each. The price: local rules take slightly more latents, and four of the ten are read in an *earlier* layer than the one that computes them.
#
# **Question.** Which of the two is the better *description of the mechanism*?
# <details><summary>Answer</summary>Neither in all respects. The cross-layer transcoder gives shorter paths, but it says that layer 0 writes to layer 2's output, where the model relays in between: ablate the relay in the model and the description is wrong. And it may read a local rule in an earlier layer than
# the model computes it, since the input features are already there. Its graphs are about a replacement model; how far they hold in the original must be tested by interventions.</details>

# %% [markdown]
# ## 5 · Where did the parent go? Absorption
#
# In exercise 05.18 a parent's latent fell silent where a child was present. Silence alone may also mean a plain miss. **Absorption** ([Chanin et al. 2024](https://arxiv.org/abs/2409.14507)) says more: *another* latent writes the parent's direction in its place. So ask for all three: the parent is there, its latent is
# silent, and some single other latent carries it.

# %% [markdown]
# ### Exercise 08.5: Who carries the missing parent?
#
# `projection` holds the length of each sample along the parent's direction. Latent $j$ carries $f_j\,(W_{dec,j} \cdot \hat d)$ with the unit direction $\hat d$. On a sample where the parent is present and its latent silent (≤ 0), absorption means: the largest carrier among the *other* latents carries at least `share` of `projection`. Return the share of
# silent and the share of absorbed samples, **both among the samples with the parent present**, and the latent that absorbs most often: that is the largest carrier in the most absorbed samples, however strong (−1 if none).


# %% answer="08.5"
def feature_absorption(
    f: Tensor, W_dec: Tensor, present: Tensor, projection: Tensor, direction: Tensor, parent: int, share: float
) -> tuple[float, float, int]:
    """f [n, d_sae], W_dec [d_sae, d], present [n] bool, projection [n], direction [d] -> (silent, absorbed, absorber)."""
    ### BEGIN SOLUTION
    carried = f * (W_dec @ direction / direction.norm())
    carried[:, parent] = -torch.inf
    most, who = carried.max(dim=1)
    silent = present & (f[:, parent] <= 0)
    absorbed = silent & (most >= share * projection)
    absorber = int(who[absorbed].bincount().argmax()) if absorbed.any() else -1
    return float(silent.sum() / present.sum()), float(absorbed.sum() / present.sum()), absorber
    ### END SOLUTION


# %% check="08.5"
check("08.5", feature_absorption)

# %% [markdown]
# **The truth**: four parents with five children each, all directions at right angles. A child implies its parent. The control: the same features, but children come and go by themselves, just as often. There, nothing can be absorbed because nothing is implied: whatever is counted is a false alarm.

# %%
WAYS = {
    "L1, λ = 0.1": {"architecture": "standard", "l1_coefficient": 0.1},
    "L1, λ = 0.3": {"architecture": "standard", "l1_coefficient": 0.3},
    "TopK, k = 2": {"architecture": "topk", "k": 2},
    "Matryoshka (4, 24)": {"architecture": "matryoshka", "k": 2, "widths": (4, 24)},
}
generator = torch.Generator().manual_seed(500)
absorbed = {"hierarchy": {}, "control: independent": {}}
for kind in absorbed:
    tree = sae.hierarchy_world(linked=kind == "hierarchy", seed=0)
    acts, _ = tree.sample(20_000, generator)
    acts_test, on = tree.sample(5000, generator)
    for name, way in WAYS.items():
        cfg = settings(32, 24, unit_norm_decoder=True, dead_after_steps=100, **way)
        one = train_sae(acts, cfg, progress=False).sae
        with torch.no_grad():
            f, W = one.encode(acts_test), one.W_dec.detach()
        shares, silent = [], []
        for p in range(4):
            f1 = (
                2 * ((f > 0) & on[:, [p]]).sum(0) / ((f > 0).sum(0) + on[:, p].sum())
            )  # lesson 05's choice of the parent's latent
            quiet, taken, who = feature_absorption(
                f, W, on[:, p], acts_test @ tree.parents[p], tree.parents[p], int(f1.argmax()), 0.4
            )
            shares.append(taken)
            silent.append(quiet)
        absorbed[kind][name] = shares
        found = int((match_directions(W, tree.directions)[1] > 0.9).sum())
        scores = evaluate_sae(one, acts_test)
        print(
            f"{kind:21} {name:19} silent {sum(silent) / 4:.2f}, absorbed {sum(shares) / 4:.2f}; recovered {found:2} of 24, L0 {scores['l0']:.2f}, unexplained {scores['fvu']:.3f}"
        )
draw.bars_with_control(
    absorbed,
    "Sparsity absorbs what is implied; a Matryoshka that knows the number of parents does not",
    subtitle="share of samples with the parent present in which another latent carries it; dots: the four parents",
    y="absorbed share",
)

# %% [markdown]
# In our run L1 at λ = 0.3 loses a parent in 0.24 of its samples, and nearly every silence is an absorption; with λ = 0.1 it is 0.14; TopK absorbs most (0.35). In the control L1 is at 0, and TopK at about 0.15: subtract that before you quote its number. The Matryoshka SAE, whose first four latents must do the work alone, keeps the parents and recovers 8 of the 24 directions, where L1 and TopK recover 4 or 5 (their child latents point along parent + child). But in the control it recovers only 9, where L1 and TopK recover 18 to 23: it does not solve everything, and we told it how many parents there are.
#
# **Question.** Why is the control not exactly zero for TopK?
# <details><summary>Answer</summary>With k = 2 two latents have to describe samples with more active features than that, so some latents learn mixtures, and a mixture that holds a parent carries it when the parent's own latent loses its place. The definition cannot tell this from absorption; the control can.</details>

# %% [markdown]
# ## 6 · Features that are not directions
#
# Everything so far assumed that a feature is *one direction* with a strength. Days of the week follow on one another and begin again. [Engels et al. 2024](https://arxiv.org/abs/2405.14860) found them on a **circle** in language models: a two-dimensional feature. No single direction holds it: along any one, two different days look alike.
#
# A trap: a probe can put 7 points from 576 dimensions on a circle in *any* order. So no probes. Take the means $m_0, \dots, m_{n-1}$ of the classes in their natural order, and ask how much of their variance goes round **once**: their discrete Fourier transform at the lowest frequency. If the order meant nothing, each of the
# $(n-1)/2$ frequencies (3 for days; 5 and a half one for months) would get the same share on average, $2/(n-1)$: 0.33 for days, 0.18 for months. "Lowest" means once round, $j = 1$; $j = 0$ is the mean itself, which is taken off.

# %% [markdown]
# ### Exercise 08.6: Is there a circle in the week?
#
# With the mean $\bar m$ of the $n$ means, once round is
#
# $$a = \sqrt{2/n}\, \sum_k (m_k - \bar m) \cos(2\pi k/n) \qquad b = \sqrt{2/n}\, \sum_k (m_k - \bar m) \sin(2\pi k/n) \qquad \text{share} = \frac{\|a\|^2 + \|b\|^2}{\sum_k \|m_k - \bar m\|^2}$$
#
# Return this share; the plane `[2, d]` that $a$ and $b$ span, orthonormal rows; and the share of the *circle's* variance $\|a\|^2 + \|b\|^2$ (not of all that falls into the plane) that the best single direction in the plane holds (½ for a perfect circle, 1 for a line).


# %% answer="08.6"
def circular_structure(means: Tensor) -> tuple[float, Tensor, float]:
    """means [n, d], classes in their cyclic order -> (share of the circle, plane [2, d], best single direction's share of it)."""
    ### BEGIN SOLUTION
    n = len(means)
    angle = 2 * torch.pi * torch.arange(n) / n
    waves = (2 / n) ** 0.5 * torch.stack([angle.cos(), angle.sin()])  # orthonormal rows
    centred = means - means.mean(dim=0)
    _, s, plane = torch.linalg.svd(waves @ centred, full_matrices=False)
    return float(s.square().sum() / centred.square().sum()), plane, float(s[0] ** 2 / s.square().sum())
    ### END SOLUTION


# %% check="08.6"
check("08.6", circular_structure)

# %% [markdown]
# **First the toy.** A circle of seven classes among 20 ordinary sparse features. What does an SAE make of the circle?

# %%
generator = torch.Generator().manual_seed(600)
circle = sae.circle_world(seed=0)
acts, _ = circle.sample(20_000, generator)
acts_test, which = circle.sample(8000, generator)
cfg = settings(32, 40, architecture="topk", k=4, unit_norm_decoder=True, dead_after_steps=100)
ring_sae = train_sae(acts, cfg, progress=False).sae
with torch.no_grad():
    f = ring_sae.encode(acts_test)
    in_plane = (ring_sae.W_dec @ circle.plane.T).norm(dim=1) > 0.8
tuned = torch.stack([f[which == day].mean(0) for day in range(7)], dim=1)
shown = (in_plane & (tuned.amax(1) > 0.1)).nonzero()[:, 0]
share, plane, line = circular_structure(torch.stack([acts_test[which == day].mean(0) for day in range(7)]))
fires = (f[:, shown] > 0)[which >= 0].float().sum(1).mean()
print(
    f"circle: share {share:.3f}, best single direction {line:.2f} of it; overlap with the true plane {float((plane @ circle.plane.T).norm() ** 2 / 2):.3f}"
)
print(
    f"living latents in the circle's plane: {len(shown)}, on average {float(fires):.1f} of them active; ordinary features recovered: {int((match_directions(ring_sae.W_dec, circle.directions)[1] > 0.9).sum())} of 20"
)
draw.tuning_curves(
    tuned[shown],
    [str(day) for day in range(7)],
    "An SAE tiles the circle with latents that each cover an arc",
    subtitle="toy world with one circular feature; TopK SAE, k = 4; latents whose decoder lies in the circle's plane",
)

# %% [markdown]
# The circle is found by its order alone, and the best single direction holds half of it. The SAE makes several latents of the one feature, each for one, two or three neighbouring classes. Nothing in any of them says that they belong together. A dictionary that "explains" the week with day detectors has lost that Sunday is next to Monday.
#
# **Now the language model.** Residual streams at the words "Monday" … and "January" …, averaged over eight short contexts, after every layer. The chance level: the same means in 2,000 random orders.

# %%
model = load_model()
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June"]
MONTHS += ["July", "August", "September", "October", "November", "December"]
BEFORE = [
    "The meeting is {}",
    "We left {}",
    "It happened last",
    "She will arrive next",
    "They always meet {}",
    "See you {}",
    "The shop is closed {}",
    "Every",
]
every = range(0, model.cfg.n_layers, 6 if quick() else 2)


@torch.no_grad()
def class_means(words: list[str], preposition: str) -> dict[int, Tensor]:
    """Mean residual stream [classes, d_model] at each word, after each layer; -1: the embedding."""
    total: dict[int, Tensor] = {}
    names = {f"blocks.{layer}.hook_resid_post": layer for layer in every}
    for start in BEFORE:
        tokens = torch.cat([model.to_tokens(f"{start.format(preposition)} {word}") for word in words])
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: name in names)
        for name, layer in names.items():
            total[layer] = total.get(layer, 0) + cache[name][:, -1].float() / len(BEFORE)
    ids = [int(model.to_tokens(" " + word, prepend_bos=False)[0, 0]) for word in words]
    return {-1: model.W_E.detach().float()[ids], **total}


curves, panels, circles = {}, {}, {}
for name, words, preposition in (("days", DAYS, "on"), ("months", MONTHS, "in")):
    means = class_means(words, preposition)
    found = {layer: circular_structure(m) for layer, m in means.items()}
    chance = {layer: sae.shares_of_random_orders(m) for layer, m in means.items()}
    curves[name] = [found[k][0] for k in means], [float(chance[k].quantile(0.99)) for k in means]
    middle = sorted(every)[len(every) // 2]
    share, plane, line = found[middle]
    beaten = float((chance[middle] < share - 1e-6).float().mean())
    circles[name] = means[middle]
    panels[f"{name}, after layer {middle}"] = ((means[middle] - means[middle].mean(0)) @ plane.T, words)
    print(
        f"{name}: after layer {middle} share {share:.2f} (chance {2 / (len(words) - 1):.2f}; larger than {beaten:.1%} of random orders), one direction holds {line:.2f} of the circle; in the embedding {found[-1][0]:.2f}"
    )
draw.rings(
    panels,
    "Days and months lie on circles, in their order",
    subtitle="class means projected on the plane of their lowest frequency; the grey line follows the calendar",
)

# %% [markdown]
# A picture of a circle is not yet a circle the model *uses*. Intervene: at the day in "If today is Monday, tomorrow is", move the residual stream after one layer by the difference between two days' means, but only inside a subspace: the circle's plane, the plane of the largest remaining differences (a control with as many dimensions), or all six dimensions of the
# differences. How much do the log-odds move from the day that was right to the one two days later?

# %%
middle = sorted(every)[len(every) // 2]
means = circles["days"] - circles["days"].mean(0)
_, plane, _ = circular_structure(circles["days"])
rest = torch.linalg.svd(means - means @ plane.T @ plane, full_matrices=False)[2][:2]
everything = torch.linalg.svd(means, full_matrices=False)[2][:6]
prompts = torch.cat([model.to_tokens(f"If today is {day}, tomorrow is") for day in DAYS])
ids = torch.tensor([int(model.to_tokens(" " + day, prepend_bos=False)[0, 0]) for day in DAYS])
position = int((prompts[0] == ids[0]).nonzero()[0])
days = torch.arange(7)


@torch.no_grad()
def next_day(subspace: Tensor | None, shift: int = 2) -> Tensor:
    """Log-probabilities [prompt, day] after moving the day `shift` days on inside a subspace."""

    def move(stream, hook):
        stream = stream.clone()
        stream[:, position] += (means.roll(-shift, 0) - means) @ subspace.T @ subspace
        return stream

    hooks = [] if subspace is None else [(f"blocks.{middle}.hook_resid_post", move)]
    return model.run_with_hooks(prompts, fwd_hooks=hooks)[:, -1].log_softmax(-1)[:, ids]


clean = next_day(None)
right, moved = (days + 1) % 7, (days + 3) % 7
print(
    f"without intervention the right day is the likeliest of the seven in {float((clean.argmax(1) == right).float().mean()):.0%} of the prompts"
)
for name, subspace in {
    "the circle's plane": plane,
    "the next two dimensions": rest,
    "all six dimensions": everything,
}.items():
    after = next_day(subspace) - clean
    shift = after[days, moved] - after[days, right]
    share = float((means @ subspace.T).square().sum() / means.square().sum())
    hit = float(((after + clean).argmax(1) == moved).float().mean())
    print(
        f"{name:24} ({share:.0%} of the variance): log-odds move by {float(shift.mean()):.2f} (standard error {float(shift.std() / 7**0.5):.2f}); the moved day becomes likeliest in {hit:.0%}"
    )

# %%
draw.curves_over_layers(
    [-1, *every],
    curves,
    "The circles are there from the embedding on",
    subtitle="share of the variance between classes that goes round once; layer −1 is the embedding",
    y="share of the circle",
)

# %% [markdown]
# After layer 14, days have a share of 0.53 where a random order gives 0.33, and months 0.38 against 0.18; both lie above 99% of random orders at every layer we looked at, and one direction holds little more than half of the circle. The embedding already has it: 0.52 and 0.32. One caution: anything that sets neighbours apart from the rest, such as
# weekend against weekdays, also has a low frequency. The days' picture is a ring, but not a clean one.
#
# And the model uses it: in our runs, moving days inside the circle's plane after layer 14 (53% of the variance) moved the log-odds by 1.2, the next two dimensions (27%) by 0.6, and all six by 2.2 (standard errors 0.1, 0.3 and 0.2). Per share of variance that is the same effect, about 2.2 to 2.3: the model uses the circle in proportion to its size, and within the errors no more than what lies beside it. The plane alone rarely makes the moved day the likeliest (1 of 7), all six dimensions do in 4 of 7.
#
# **Question.** Does a circle refute the linear representation hypothesis?
# <details><summary>Answer</summary>It refutes "a feature is one direction". The circle still lies in a linear subspace and adds to the rest of the stream. One may also say: seven day features whose directions happen to be arranged in a ring; the arrangement is then what a list of seven features leaves out.</details>

# %% [markdown]
# ## 7 · Which head wrote this? Attention-output SAEs
#
# SAEs also work on attention layers ([Kissane et al. 2024](https://arxiv.org/abs/2406.17759), who read the heads' outputs side by side, before $W_O$; we read what the layer writes). A bonus: an attention layer's output is a **sum over heads**, $\sum_h z_h W_O^{(h)} + b_O$, and a latent's pre-activation is linear in it. So it splits exactly into one part for each head, $z_h W_O^{(h)} W_{enc}$, and constants.

# %% [markdown]
# ### Exercise 08.7: Which head does a latent come from?
#
# For each head and latent: that head's part of the pre-activation, averaged over the samples **on which the latent fires** (0 for a latent that never does).


# %% answer="08.7"
def head_attribution(z: Tensor, W_O: Tensor, W_enc: Tensor, f: Tensor) -> Tensor:
    """z [n, heads, d_head], W_O [heads, d_head, d_model], W_enc [d_model, latents], f [n, latents] -> [heads, latents]."""
    ### BEGIN SOLUTION
    fires = (f > 0).float()
    # the mean of z over a latent's firings first: far smaller than all parts on all samples
    mean_z = torch.einsum("nhe,nl->hle", z, fires) / fires.sum(dim=0).clamp(min=1)[:, None]
    return torch.einsum("hle,hed,dl->hl", mean_z, W_O, W_enc)
    ### END SOLUTION


# %% check="08.7"
check("08.7", head_attribution)

# %% [markdown]
# **The truth**: six heads of unequal size. 30 features are written by one head each, six by two heads in equal parts. Baselines: the head with the largest output, and weights alone (the head whose $W_O^{(h)} W_{enc}$ is longest for the latent).

# %%
generator = torch.Generator().manual_seed(700)
toy_heads = sae.head_world(seed=0)
z, _ = toy_heads.sample(20_000, generator)
z_test, _ = toy_heads.sample(5000, generator)
torch.set_num_threads(1)
cfg = settings(48, 60, architecture="standard", l1_coefficient=0.1, unit_norm_decoder=True)
toy_sae = train_sae(toy_heads.attention_output(z), cfg, progress=False).sae
with torch.no_grad():
    f = toy_sae.encode(toy_heads.attention_output(z_test))
    W_enc = toy_sae.W_enc.detach()
    parts = head_attribution(z_test, toy_heads.W_O, W_enc, f)
    by_weights = torch.einsum("hed,dl->hel", toy_heads.W_O, W_enc).norm(dim=1).argmax(0)
index, cosine = match_directions(toy_sae.W_dec, toy_heads.directions)
good = (cosine > 0.9) & (torch.arange(36) < 30)
true_head = toy_heads.writers.argmax(1)
largest = toy_heads.W_O.norm(dim=(1, 2)).argmax()
top, share = sae.top_head_share(parts)
print(
    f"features recovered: {int((cosine > 0.9).sum())} of 36; of the {int(good.sum())} with one head, right head by attribution {int((top[index] == true_head)[good].sum())}, by weights alone {int((by_weights[index] == true_head)[good].sum())}, by the largest head {int((largest == true_head)[good].sum())}"
)
print(
    f"share of the top head: features of one head {float(share[index][good].mean()):.2f}, of two heads {float(share[index][(cosine > 0.9) & ~good].mean()):.2f}"
)

# %% [markdown]
# **Now the language model**: the attention layer of block 7, nine heads. A small, quick SAE; the split itself is exact whatever its quality. The control: random directions of the attention output's own covariance in place of the encoder, with the same TopK.

# %%
torch.set_num_threads(threads)
LAYER, HEADS = 7, model.cfg.n_heads
packed = load_corpus("heldout").pack(model, context=64, seed=None)
open_rows, _ = split_open(packed.sources)  # the last third of each source is kept back for lesson 09
order = torch.randperm(len(open_rows), generator=torch.Generator().manual_seed(0))[: 32 if quick() else 160]
tokens = packed.tokens[torch.tensor(open_rows)[order]]
hooks = [f"blocks.{LAYER}.hook_attn_out", f"blocks.{LAYER}.attn.hook_z"]
collected = collect_activations(model, tokens, hooks, progress=False)
attention, z = collected[hooks[0]].acts, collected[hooks[1]].acts.unflatten(1, (HEADS, -1))
W_O = model.blocks[LAYER].attn.W_O.detach().float()
print(
    f"{len(z):,} tokens; largest difference between the sum over heads and the layer's output: {float((torch.einsum('nhe,hed->nd', z, W_O) - attention).abs().max()):.1e}"
)
held_out = len(attention) // 5
cfg = SAEConfig(
    576,
    1024,
    k=16,
    steps=30 if quick() else 250,
    batch_size=1024,
    lr=1e-3,
    seed=1,
    normalize_input=True,
    dead_after_steps=100,
)
head_sae = train_sae(attention[held_out:], cfg, progress=False).sae
scores = evaluate_sae(head_sae, attention[:held_out])
print(f"SAE on held-out text: unexplained {scores['fvu']:.2f}, L0 {scores['l0']:.0f}")
with torch.no_grad():
    f = head_sae.encode(attention)
    parts = head_attribution(z, W_O, head_sae.W_enc.detach(), f)
    mixing = torch.randn(1024, len(attention), generator=torch.Generator().manual_seed(4)) / len(attention) ** 0.5
    W_random = F.normalize((mixing @ (attention - attention.mean(0))).T, dim=0)
    pre = (attention - attention.mean(0)) @ W_random
    best = pre.topk(16, dim=1)
    f_random = torch.zeros_like(pre).scatter(1, best.indices, best.values.relu())
    parts_random = head_attribution(z - z.mean(0), W_O, W_random, f_random)
often = (f > 0).sum(0) >= 20
top, share = sae.top_head_share(parts)
_, share_random = sae.top_head_share(parts_random[:, (f_random > 0).sum(0) >= 20])
print(
    f"share of the top head, {int(often.sum())} latents that fire 20 times or more: median {float(share[often].median()):.2f}, a tenth above {float(share[often].quantile(0.9)):.2f}; random directions: median {float(share_random.median()):.2f}, a tenth above {float(share_random.quantile(0.9)):.2f}"
)
print("latents by top head:", {h: int(n) for h, n in enumerate(top[often].bincount(minlength=HEADS))})
ranked = often.nonzero()[:, 0][(top[often].float() + 1 - share[often]).argsort()]
draw.head_map(
    (parts / parts.abs().sum(0).clamp_min(1e-9))[:, ranked],
    f"The top head holds {float(share[often].median()):.0%} of a typical latent, {float(share_random.median()):.0%} of a random direction",
    subtitle=f"block {LAYER}: each head's part of each latent's pre-activation over the sum of sizes; latents grouped by top head",
    x="latent, grouped by its largest head",
)

# %% [markdown]
# The printed line is the comparison to make: the top head's share of a typical latent beside that of random directions of the same covariance. Nine heads and no structure would already give a top head far above one ninth. Only what lies above the control says that the SAE's latents respect heads.
#
# The control's parts are those of `z - z.mean(0)`, since random directions read centred activations here; the SAE's are those of `z`, as in the exercise. This favours the control, if anything: with `z` for both the control's median stays at 0.39, and with centred `z` for both the SAE's rises from about 0.5 to about 0.6.

# %%
said = collected[hooks[0]].tokens_of(tokens)
clearest = often.nonzero()[:, 0][share[often].argsort(descending=True)][:6]
for latent in clearest.tolist():
    strongest = f[:, latent].topk(8).indices
    print(
        f"latent {latent:4}, head {int(top[latent])} ({float(share[latent]):.2f}), fires on",
        [model.tokenizer.decode(said[i]) for i in strongest.tolist()],
    )

# %% [markdown]
# ## 8 · Are features real?
#
# You have seen what can be said. Write it down: the case for, the case against, each with measurements, each measurement with its baseline. To keep it honest, your function must argue **from the evidence it is given**: it is also run on worlds where the dictionary is noise, or where nothing is absorbed and nothing is round.

# %% [markdown]
# ### Exercise 08.8: Are features real? The case, with numbers
#
# `evidence` holds five kinds of data. Choose **at least three** and compute value and baseline:
#
# | name | data | value | baseline |
# |---|---|---|---|
# | `recovery` | `found`, `truth`, `data` (directions) | share of `truth` with a row of `found` at cosine > 0.9 | the same with `data` (data points) for `found` |
# | `stability` | `first`, `second`, `random` (directions) | share of `first` with a row of `second` at cosine > 0.7 | the same with `random` |
# | `absorption` | `absorbed`, `control` (numbers, or yes and no) | mean of `absorbed` | mean of `control` |
# | `circle` | `means` [n, d] | share at the lowest frequency (exercise 08.6) | $2/(n-1)$ |
# | `explanation` | `fires`, `predicted`, `shuffled` (yes and no) | balanced accuracy of `predicted` | that of `shuffled` |
#
# Cosines count with their sign: a direction turned round is not found. A measurement is *above* if value > baseline + 0.1. Recovery, stability and explanation then support `"for"`, else `"against"`; absorption and the circle support `"against"` when above (features as single, independent directions fail there), else `"for"`.
#
# Return a dictionary: `"measurements"`, a list of `{"name", "value", "baseline", "supports"}`; and three texts of at least 15 different words each, `"for"`, `"against"`, `"conclusion"`. The texts `"for"` and `"against"` quote value and baseline, each with exactly two decimals (0.53, not 53% or 0.533), of every measurement that supports them; one without any says "no measurement". The rest is your own: make it the best argument you can.


# %% answer="08.8"
def are_features_real(evidence: dict) -> dict:
    """The case for and against, from the evidence given: measurements, "for", "against", "conclusion"."""
    ### BEGIN SOLUTION

    def matched(wanted, found, above):
        return float(((F.normalize(wanted, dim=1) @ F.normalize(found, dim=1).T).amax(dim=1) > above).float().mean())

    r, s, a, m = evidence["recovery"], evidence["stability"], evidence["absorption"], evidence["circle"]["means"]
    values = {
        "recovery": (matched(r["truth"], r["found"], 0.9), matched(r["truth"], r["data"], 0.9)),
        "stability": (matched(s["first"], s["second"], 0.7), matched(s["first"], s["random"], 0.7)),
        "absorption": (float(a["absorbed"].float().mean()), float(a["control"].float().mean())),
        "circle": (
            float(
                (torch.fft.fft(m - m.mean(dim=0), dim=0)[1].abs() ** 2).sum()
                * 2
                / len(m)
                / (m - m.mean(dim=0)).square().sum()
            ),
            2 / (len(m) - 1),
        ),
    }
    measurements = []
    for name, (value, baseline) in values.items():
        above = value > baseline + 0.1
        supports = "for" if above == (name in ("recovery", "stability")) else "against"
        measurements.append({"name": name, "value": value, "baseline": baseline, "supports": supports})
    sentences = {
        "recovery": "the share of true directions that the dictionary holds is {value:.2f}, while untrained directions taken from the data reach {baseline:.2f}",
        "stability": "of the latents of one seed, {value:.2f} come back in another, and {baseline:.2f} in random directions",
        "absorption": "a parent is carried by another latent in {value:.2f} of the cases, in the control world in {baseline:.2f}",
        "circle": "of the differences between the classes {value:.2f} go round in a circle, where a random order gives {baseline:.2f}",
    }
    texts = {}
    for side, opening in (
        (
            "for",
            "A real feature should be found again from other data and other seeds, and should beat what chance finds.",
        ),
        (
            "against",
            "If features were single directions that exist by themselves, none should vanish into another or need a plane.",
        ),
    ):
        said = [sentences[m["name"]].format(**m) for m in measurements if m["supports"] == side]
        texts[side] = (
            opening + " " + ("Here " + "; ".join(said) + "." if said else "There is no measurement on this side.")
        )
    strong = sum(m["supports"] == "for" for m in measurements)
    texts["conclusion"] = (
        f"{strong} of {len(measurements)} measurements speak for features as directions. What I would defend is weaker than the slogan: "
        "some directions can be found again and predict; as a complete and unique list of parts they cannot be defended."
    )
    return {"measurements": measurements, **texts}
    ### END SOLUTION


# %% check="08.8"
check("08.8", are_features_real)

# %% [markdown]
# Now on what this lesson really measured: the transcoder's rules (recovery, against data points of the MLP's output), two seeds of the same transcoder (stability), absorption at λ = 0.3 with its control, the days, and a latent of the attention SAE explained by "the current token is one it fired on in the first half of the text" (scored on the second half).

# %%
torch.manual_seed(5)
second = Transcoder(32, 32, 60, l1=0.05)
fit(second, second.loss, x, y, seed=8)
living = [(one.encode(x_test) > 1e-3).any(0) for one in (coder, second)]
half = len(said) // 2
latent = int(
    often.nonzero()[:, 0][(f[:, often] > 0).sum(0).argsort()[int(often.sum()) // 2]]
)  # one of middling frequency
on = f[:, latent] > 0
predicted = torch.isin(said[half:], said[:half][on[:half]].unique())
evidence = {
    "recovery": {"found": coder.W_dec, "truth": world.writes, "data": (y - y.mean(0))[:60]},
    "stability": {
        "first": coder.W_dec[living[0]],
        "second": second.W_dec[living[1]],
        "random": torch.randn(int(living[1].sum()), 32, generator=torch.Generator().manual_seed(6)),
    },
    "absorption": {
        "absorbed": torch.tensor(absorbed["hierarchy"]["L1, λ = 0.3"]),
        "control": torch.tensor(absorbed["control: independent"]["L1, λ = 0.3"]),
    },
    "circle": {"means": circles["days"]},
    "explanation": {
        "fires": on[half:],
        "predicted": predicted,
        "shuffled": predicted[torch.randperm(len(predicted), generator=torch.Generator().manual_seed(7))],
    },
}
memo = are_features_real(evidence)
for m in memo["measurements"]:
    print(f"{m['name']:12} {m['value']:.2f} against {m['baseline']:.2f}: {m['supports']}")
for part in ("for", "against", "conclusion"):
    print(f"\n{part.upper()}: {memo[part]}")

# %% [markdown]
# <details><summary>What a good essay holds (for reading, not for the machine)</summary>
#
# *A definition first*: "real" as what? Found again (stability), true of the world (recovery, only in toys), used by the model (interventions, lesson 07), or the only possible parts (uniqueness). The evidence differs for each. Then the strongest point of the other side, a measurement that could have come out otherwise, and one that you would still want to see.
# </details>
#
# ## Common mistakes
#
# | mistake | what you see |
# |---|---|
# | a transcoder trained to give its *input* back | perfect loss, features instead of rules |
# | skip connection left out, or applied to the wrong side | many latents busy with a linear map |
# | crosscoder lengths joined (if the paper's penalty is wanted), or one decoder for both sources | other exclusives than the paper's; or none |
# | "exclusive" read off an L1 crosscoder without a look at weak features | model differences that are none |
# | a meta-SAE judged by variance explained alone | families in a Gaussian |
# | cross-layer decoders that write to earlier layers | effects before their causes |
# | absorption counted without asking that the parent is present | rates near one for rare features |
# | a circle found with a probe, or by PCA without the order | every set of points is a circle |
# | heads mixed up when z is laid flat | shares that are all alike |
#
# ## Summary
#
# - A transcoder's latents are rules from input to output; it read rules off an MLP whose neurons mix them.
# - Crosscoders compare layers and models, but L1 makes weak features look exclusive, by an amount one can compute. TopK does not have that bias.
# - A meta-SAE finds planted parts. On a real dictionary compare it with a Gaussian twin before believing in families.
# - A cross-layer transcoder shortens paths, and describes a replacement, not the original.
# - Absorption and circles are two different ways for "one feature, one latent" to fail, and both can be measured against a control.
# - Each method got a truth or a baseline. In the wild you only have the baseline, so never leave it out.
#
# **Next**: lesson 09 is yours, a portfolio in which you show what you found.
#
# ## Further reading
#
# - Dunefsky et al. 2024, [Transcoders find interpretable LLM feature circuits](https://arxiv.org/abs/2406.11944); Paulo et al. 2025, [Transcoders beat sparse autoencoders for interpretability](https://arxiv.org/abs/2501.18823).
# - Lindsey et al. 2024, [Sparse crosscoders](https://transformer-circuits.pub/2024/crosscoders/index.html); Minder et al. 2025, [Overcoming sparsity artifacts in crosscoders](https://arxiv.org/abs/2504.02922).
# - Ameisen et al. 2025, [Circuit tracing](https://transformer-circuits.pub/2025/attribution-graphs/methods.html).
# - Leask et al. 2025, [Sparse autoencoders do not find canonical units of analysis](https://arxiv.org/abs/2502.04878).
# - Engels et al. 2024, [Not all language model features are one-dimensionally linear](https://arxiv.org/abs/2405.14860).
# - Sharkey et al. 2025, [Open problems in mechanistic interpretability](https://arxiv.org/abs/2501.16496).

# %%
progress()
