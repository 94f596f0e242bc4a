"""Training: losses, time sampling, data, checkpoints, the training script, and the Frechet distance to real data."""

if __name__ == "training":
    raise ImportError(
        "import scoresde_pipelines.training instead of training: the bare name would create every class a second time"
    )
