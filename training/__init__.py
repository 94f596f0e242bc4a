"""training"""

if __name__ == "training":
    raise ImportError(
        "import scoresde_pipelines.training instead of training: the bare name would create every class a second time"
    )
