"""The names that arguments of the training scripts choose from, apart from the objects: `--help` needs no torch.

A test compares them with the tables of the objects.
"""

OBJECTIVES = ("score_matching", "likelihood", "likelihood_importance", "edm", "min_snr", "smld", "ddpm")
TIME_DENSITIES = ("uniform", "log_normal")
SDES = ("ve", "vp", "subvp")
NETWORKS = ("ncsnpp", "ddpmpp")
PREDICTION_TYPES = ("score", "epsilon", "sample", "v_prediction", "edm")
LR_SCHEDULERS = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "piecewise_constant",
)  # fmt: skip
OPTIMIZERS = ("adamw", "muon")
TRACKERS = ("tensorboard", "wandb", "none")
BEST_METRICS = {
    "kid": ("eval_features",),
    "bits_per_dim": ("eval_num_bpd_images",),
    "validation_loss": ("validation_split", "validation_fraction"),
}  # and which arguments measure them
RECIPES = {"edm": {"prediction_type": "edm", "objective": "edm"}}
