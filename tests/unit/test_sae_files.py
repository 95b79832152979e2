"""SAELens' on-disk format: ours read by sae_lens, theirs read here, encode and decode equal to 1e-5."""

from __future__ import annotations

import json

import pytest
import torch

from course_utils.sae import ARCHITECTURES, SAE, SAEConfig

sae_lens = pytest.importorskip("sae_lens")
pytestmark = pytest.mark.filterwarnings("ignore")


def inputs(n: int = 60, d: int = 16) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(9))


def ours(architecture: str, **changes) -> SAE:
    sae = SAE(
        SAEConfig(
            d_in=16,
            d_sae=64,
            architecture=architecture,
            k=4,
            metadata={"hook_name": "blocks.3.hook_resid_post", "model_name": "tiny"},
            **changes,
        )
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in sae.parameters():
            one.add_(0.1 * torch.randn(one.shape, generator=generator))
        if architecture in ("batchtopk", "matryoshka"):
            sae.threshold.fill_(0.7)
    return sae


@pytest.mark.parametrize("apply_b_dec", [True, False])
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_sae_lens_reads_ours(architecture, apply_b_dec, tmp_path):
    sae, x = ours(architecture, apply_b_dec_to_input=apply_b_dec), inputs()
    theirs = sae_lens.SAE.load_from_disk(str(sae.save(tmp_path / "sae")))
    with torch.no_grad():
        f = sae.encode(x)
        assert float(f.count_nonzero(1).float().mean()) > 0.5
        torch.testing.assert_close(theirs.encode(x), f, atol=1e-5, rtol=0)
        torch.testing.assert_close(theirs.decode(f), sae.decode(f), atol=1e-5, rtol=0)
    assert theirs.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
    assert theirs.cfg.metadata.prepend_bos is False


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_ours_comes_back_as_it_was(architecture, tmp_path):
    sae, x = ours(architecture), inputs()
    again = SAE.load(sae.save(tmp_path / "sae"))
    assert type(again) is type(sae)
    assert not again.training
    assert again.cfg == sae.cfg
    torch.testing.assert_close(again.encode(x), sae.encode(x), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(again.decode(again.encode(x)), sae.decode(sae.encode(x)), atol=1e-6, rtol=1e-5)


def their_training_sae(architecture: str):
    from sae_lens.saes import batchtopk_sae, gated_sae, jumprelu_sae, matryoshka_batchtopk_sae, standard_sae, topk_sae

    shape = {"d_in": 16, "d_sae": 64}
    made = {
        "standard": lambda: standard_sae.StandardTrainingSAE(standard_sae.StandardTrainingSAEConfig(**shape)),
        "gated": lambda: gated_sae.GatedTrainingSAE(gated_sae.GatedTrainingSAEConfig(**shape)),
        "jumprelu": lambda: jumprelu_sae.JumpReLUTrainingSAE(jumprelu_sae.JumpReLUTrainingSAEConfig(**shape)),
        "topk": lambda: topk_sae.TopKTrainingSAE(topk_sae.TopKTrainingSAEConfig(k=4, **shape)),
        "batchtopk": lambda: batchtopk_sae.BatchTopKTrainingSAE(batchtopk_sae.BatchTopKTrainingSAEConfig(k=4, **shape)),
        "matryoshka": lambda: matryoshka_batchtopk_sae.MatryoshkaBatchTopKTrainingSAE(
            matryoshka_batchtopk_sae.MatryoshkaBatchTopKTrainingSAEConfig(k=4, matryoshka_widths=[8, 64], **shape)
        ),
    }
    sae = made[architecture]()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for one in sae.parameters():
            one.add_(0.1 * torch.randn(one.shape, generator=generator))
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.6)
    return sae


@pytest.mark.parametrize("architecture", ["standard", "gated", "jumprelu", "topk", "batchtopk", "matryoshka"])
def test_we_read_theirs(architecture, tmp_path):
    """As SAELens' own training saves them, with decoder-norm rescaling on in the topk family (its default)."""
    their_training_sae(architecture).save_inference_model(str(tmp_path))
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path))
    sae, x = SAE.load(tmp_path), inputs()
    with torch.no_grad():
        f, f_theirs = sae.encode(x), theirs.encode(x)
        torch.testing.assert_close(sae.decode(f), theirs.decode(f_theirs), atol=1e-5, rtol=0)
        torch.testing.assert_close(f, f_theirs, atol=1e-5, rtol=0)


def test_half_precision_files_are_half_the_size_and_close(tmp_path):
    sae, x = ours("topk"), inputs()
    sizes = [
        (sae.save(tmp_path / kind, dtype=kind) / "sae_weights.safetensors").stat().st_size
        for kind in ("float32", "float16")
    ]
    assert sizes[1] < 0.55 * sizes[0]
    again = SAE.load(tmp_path / "float16")
    assert again.dtype == torch.float32
    assert SAE.load(tmp_path / "float16", dtype=None).dtype == torch.float16
    torch.testing.assert_close(again.decode(again.encode(x)), sae.decode(sae.encode(x)), atol=2e-2, rtol=1e-2)
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "float16"), dtype="float32")
    torch.testing.assert_close(theirs.encode(x), again.encode(x), atol=1e-5, rtol=0)


def test_what_cannot_be_read_is_refused_with_a_reason(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cfg\.json"):
        SAE.load(tmp_path / "nothing")
    folder = ours("standard").save(tmp_path / "sae")
    described = json.loads((folder / "cfg.json").read_text())
    described["normalize_activations"] = "layer_norm"
    (folder / "cfg.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="layer_norm"):
        SAE.load(folder)
    sae = ours("standard")
    sae.b_dec.data[0] = 1e6
    with pytest.raises(ValueError, match="b_dec does not fit into float16"):
        sae.save(tmp_path / "large", dtype="float16")
