"""bfloat16 is chosen where its products are quicker, and its price is named where they are slower."""

import warnings

import pytest
import torch
from click.testing import CliRunner

from course_utils import precision
from course_utils.precision import SlowPrecision, bfloat16_cost, quicker_precision, resolve_precision, slow_precision
from course_utils.sae import SAEConfig
from course_utils.sae.train import SAETrainer


@pytest.fixture(params=["quick", "slow"])
def processor(request, monkeypatch):
    """A processor that is four times quicker in bfloat16, or forty times slower."""
    cost = {"quick": 0.25, "slow": 40.0}[request.param]
    monkeypatch.setattr(precision, "bfloat16_cost", lambda device="cpu": cost)
    return request.param


def test_the_cost_is_measured_once_and_positive():
    bfloat16_cost.cache_clear()
    assert bfloat16_cost() > 0
    assert bfloat16_cost() == bfloat16_cost()  # kept, since two measurements would differ
    assert bfloat16_cost.cache_info().misses == 1


def test_auto_takes_the_quicker_one(processor):
    expected = "bfloat16" if processor == "quick" else "float32"
    assert quicker_precision() == resolve_precision("auto") == expected
    assert resolve_precision("bfloat16") == "bfloat16"  # what is asked for is done
    with pytest.raises(ValueError, match="no precision 'half'; there are: auto, float32, bfloat16"):
        resolve_precision("half")


def test_a_trainer_and_a_reader_warn_only_where_it_is_slow(processor):
    from course_utils.lm.activations import HookReader

    class Model(torch.nn.Linear):
        hook_dict = {"blocks.0.hook_resid_post": None}

    makers = (
        lambda kind: SAETrainer(SAEConfig(d_in=8, d_sae=16, k=2, precision=kind)),
        lambda kind: HookReader(Model(2, 2), ["blocks.0.hook_resid_post"], kind),
    )
    for make in makers:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            make("float32")
            if processor == "quick":
                make("bfloat16")
        if processor == "slow":
            with pytest.warns(SlowPrecision, match="40 times as long as in float32. Use the precision float32"):
                make("bfloat16")


def test_float32_measures_nothing(monkeypatch):
    def measured(device="cpu"):
        raise AssertionError("measured")

    monkeypatch.setattr(precision, "bfloat16_cost", measured)
    assert slow_precision("float32") is None


def test_the_dashboard_command_says_so(processor, tmp_path):
    from course_utils.cli import main

    (tmp_path / "mine.txt").write_text("not a dashboard")  # so that it stops before the model is loaded
    found = CliRunner().invoke(
        main, ["dashboard", "--precision", "bfloat16", "--latents", "1,2", "--out", str(tmp_path)]
    )
    assert found.exit_code == 1
    assert ("Note: this processor has no quick products in bfloat16" in found.output) == (processor == "slow")
