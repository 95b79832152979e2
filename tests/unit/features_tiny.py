"""A tiny random language model, tokenizer and SAE: what the tests of features and dashboards run on."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import torch

TEXT = "the river ran over the hill and the sea was calm; a cat sat by the river bank and saw ships"
HOOK = "blocks.1.hook_resid_post"


@cache
def tiny_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([TEXT] * 5, trainer)
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@cache
def tiny_model():
    """Three Llama layers of width 32 with random weights, as a TransformerBridge."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        model = LlamaForCausalLM(config)
        # a gain other than one, so that a test notices when it is left out
        model.model.norm.weight.data = torch.rand(32) + 0.5
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)


@dataclass
class TinySAE:
    """A random ReLU autoencoder with the attributes every SAE of the course has."""

    W_enc: torch.Tensor
    W_dec: torch.Tensor
    b_enc: torch.Tensor
    b_dec: torch.Tensor
    cfg: SimpleNamespace

    def encode(self, x):
        return torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)

    def decode(self, f):
        return f @ self.W_dec + self.b_dec


def tiny_sae(d_in: int = 32, d_sae: int = 48, seed: int = 0, hook_name: str = HOOK) -> TinySAE:
    generator = torch.Generator().manual_seed(seed)
    W_dec = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=-1)
    cfg = SimpleNamespace(d_in=d_in, d_sae=d_sae, hook_name=hook_name)
    return TinySAE(
        W_dec.T.clone() * 2, W_dec, torch.full((d_sae,), -1.0), torch.randn(d_in, generator=generator) * 0.1, cfg
    )


def tiny_tokens(sequences: int = 12, context: int = 24, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, len(tiny_tokenizer()), (sequences, context), generator=generator)
    tokens[:, 0] = 0
    return tokens
