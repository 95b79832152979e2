"""The sae-dashboard side of `dashboard_speed`: runs in that package's own environment, so it imports nothing of the course."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from sae_dashboard.data_writing_fns import save_feature_centric_vis
from sae_dashboard.sae_vis_data import SaeVisConfig
from sae_dashboard.sae_vis_runner import SaeVisRunner
from sae_lens import SAE
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


def load_model(folder: str) -> HookedTransformer:
    """The same weights as a HookedTransformer: its loader knows models by name only, so the configuration is written out."""
    hf = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    c = hf.config
    # an older transformers does not know where the saved configuration keeps this, and would take its own default
    saved = json.loads((Path(folder) / "config.json").read_text())
    theta = saved["rope_theta"] if "rope_theta" in saved else saved["rope_parameters"]["rope_theta"]
    cfg = HookedTransformerConfig(
        d_model=c.hidden_size,
        d_head=c.hidden_size // c.num_attention_heads,
        n_heads=c.num_attention_heads,
        n_key_value_heads=c.num_key_value_heads,
        n_layers=c.num_hidden_layers,
        n_ctx=2048,
        d_mlp=c.intermediate_size,
        d_vocab=c.vocab_size,
        act_fn="silu",
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_dim=c.hidden_size // c.num_attention_heads,
        rotary_base=int(theta),
        rotary_adjacent_pairs=False,
        eps=c.rms_norm_eps,
        gated_mlp=True,
        final_rms=True,
        original_architecture="LlamaForCausalLM",
        device="cpu",
        dtype=torch.float32,
    )
    # the folder names a tokenizer class of a later transformers: read its file directly
    names = {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
    }
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=f"{folder}/tokenizer.json", name_or_path=folder, add_bos_token=True, **names
    )
    model = HookedTransformer(cfg, tokenizer=tokenizer)
    model.load_and_process_state_dict(
        convert_llama_weights(hf, cfg),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.eval()


def main(job_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    torch.set_num_threads(job["threads"])
    torch.set_float32_matmul_precision(job["matmul"])
    torch.set_grad_enabled(False)
    tokens = torch.load(job["tokens"])
    model = load_model(job["model"])
    sae = SAE.load_from_disk(job["sae"], device="cpu")
    sae = (sae[0] if isinstance(sae, tuple) else sae).float()
    sae.cfg.dtype = "float32"
    # it insists on folding the decoder's norms, which sae_lens refuses for this kind; rows have length 1, so nothing is lost
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(len(sae.W_dec)), atol=1e-3)
    sae.fold_W_dec_norm = lambda: None
    model(tokens[:2])  # first-call costs belong to neither side
    started, work = time.perf_counter(), time.process_time()
    config = SaeVisConfig(
        hook_point=job["hook"],
        features=job["latents"],
        minibatch_size_features=256,
        minibatch_size_tokens=64,
        ignore_positions=[0],
        device="cpu",
    )
    data = SaeVisRunner(config).run(encoder=sae, model=model, tokens=tokens)
    computed = time.perf_counter() - started
    page = Path(job["out"]) / "peer.html"
    save_feature_centric_vis(data, page)
    seconds, work = time.perf_counter() - started, time.process_time() - work
    tops = {}
    for latent, feature in data.feature_data_dict.items():
        groups = feature.sequence_data.seq_group_data if feature.sequence_data else []
        acts = [max(s.feat_acts) for s in (groups[0].seq_data if groups else [])]
        tops[int(latent)] = sorted((float(a) for a in acts), reverse=True)
    result = {"seconds": seconds, "cpu": work, "computed": computed, "bytes": page.stat().st_size, "tops": tops}
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
