"""Sparse autoencoders: six architectures, training, metrics, files that SAELens reads; transcoders, crosscoders and their kin."""

from course_utils.sae import distributed
from course_utils.sae.absorption import Absorption, HierarchyWorld, feature_absorption, hierarchy_world
from course_utils.sae.architectures import ARCHITECTURES
from course_utils.sae.attention import HeadWorld, head_attribution, head_world, top_head_share
from course_utils.sae.circular import Circle, CircleWorld, circle_world, circular_structure, shares_of_random_orders
from course_utils.sae.coder import Coder, evaluate_coder
from course_utils.sae.config import SAEConfig
from course_utils.sae.cross_layer import CrossLayerTranscoder, RelayWorld, relay_world
from course_utils.sae.crosscoder import Crosscoder, TwoSourceWorld, two_layers, two_models
from course_utils.sae.many import ManySAEs, train_many
from course_utils.sae.meta import (
    ComposedDictionary,
    Families,
    composed_dictionary,
    gaussian_twin,
    meta_families,
    train_meta_sae,
)
from course_utils.sae.metrics import chance_baselines, evaluate_sae, match_directions, recovery, seed_stability
from course_utils.sae.model import SAE, SAEOutput, remove_parallel_gradient
from course_utils.sae.resample import resample_dead_latents
from course_utils.sae.sparse import SparseLatents
from course_utils.sae.train import SAETrainer, TrainingDiverged, TrainingResult, train_sae
from course_utils.sae.transcoder import RuleWorld, Transcoder, rule_world

__all__ = [
    "ARCHITECTURES",
    "SAE",
    "Absorption",
    "Circle",
    "CircleWorld",
    "Coder",
    "ComposedDictionary",
    "CrossLayerTranscoder",
    "Crosscoder",
    "Families",
    "HeadWorld",
    "HierarchyWorld",
    "ManySAEs",
    "RelayWorld",
    "RuleWorld",
    "SAEConfig",
    "SAEOutput",
    "SAETrainer",
    "SparseLatents",
    "TrainingDiverged",
    "TrainingResult",
    "Transcoder",
    "TwoSourceWorld",
    "chance_baselines",
    "circle_world",
    "circular_structure",
    "composed_dictionary",
    "distributed",
    "evaluate_coder",
    "evaluate_sae",
    "feature_absorption",
    "gaussian_twin",
    "head_attribution",
    "head_world",
    "hierarchy_world",
    "match_directions",
    "meta_families",
    "recovery",
    "relay_world",
    "remove_parallel_gradient",
    "resample_dead_latents",
    "rule_world",
    "seed_stability",
    "shares_of_random_orders",
    "top_head_share",
    "train_many",
    "train_meta_sae",
    "train_sae",
    "two_layers",
    "two_models",
]
