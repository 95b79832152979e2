"""Standard: ReLU latents with an L1 penalty (Bricken et al. 2023, "Towards Monosemanticity")."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from course_utils.sae.model import SAE, SAEOutput


class StandardSAE(SAE):
    """`f = ReLU((x - b_dec) W_enc + b_enc)`; loss `|x - x_hat|^2 + l1_coefficient * sum_i f_i |W_dec_i|`."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """`ReLU((x - b_dec) W_enc + b_enc)`."""
        return (self.centre(x) @ self.W_enc + self.b_enc).relu()

    def forward(
        self,
        x: Float[Tensor, "batch d_in"],
        *,
        dead: Bool[Tensor, " d_sae"] | None = None,
        sparsity_scale: float | Tensor = 1.0,
        step: int = 0,
    ) -> SAEOutput:
        """See `SAE.forward`."""
        pre = self.centre(x) @ self.W_enc + self.b_enc
        f = pre.relu()
        x_hat = self.decode(f)
        # lengths of the decoder's rows in the penalty: without them (or unit rows) L1 is cheated by small f, large W_dec
        l1 = (f * self.W_dec.norm(dim=1)).sum(-1).mean() * self.cfg.l1_coefficient * sparsity_scale
        return SAEOutput(x_hat, {"reconstruction": self.reconstruction_loss(x, x_hat), "l1": l1}, dense=f, pre=pre)
