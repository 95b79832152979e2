"""Sparse autoencoders: six architectures, training, metrics, and files that SAELens reads."""

from course_utils.sae import distributed
from course_utils.sae.architectures import ARCHITECTURES
from course_utils.sae.config import SAEConfig
from course_utils.sae.many import ManySAEs, train_many
from course_utils.sae.metrics import chance_baselines, evaluate_sae, match_directions, recovery, seed_stability
from course_utils.sae.model import SAE, SAEOutput, remove_parallel_gradient
from course_utils.sae.resample import resample_dead_latents
from course_utils.sae.sparse import SparseLatents
from course_utils.sae.train import SAETrainer, TrainingDiverged, TrainingResult, train_sae

__all__ = [
    "ARCHITECTURES",
    "SAE",
    "ManySAEs",
    "SAEConfig",
    "SAEOutput",
    "SAETrainer",
    "SparseLatents",
    "TrainingDiverged",
    "TrainingResult",
    "chance_baselines",
    "distributed",
    "evaluate_sae",
    "match_directions",
    "recovery",
    "remove_parallel_gradient",
    "resample_dead_latents",
    "seed_stability",
    "train_many",
    "train_sae",
]
