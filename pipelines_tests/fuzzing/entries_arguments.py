"""Entries: the options of the training scripts."""

from .case import Entry
from .strategies import Kind, only, some, words


def integer(low: int, *more: str) -> Kind:
    """An integer option."""
    return words(str(max(low, 8)), hopeless=("1.5", str(low - 1), "inf", *more), doubtful=("9" * 30,))


def decimal(good: str, *more: str) -> Kind:
    """A number as an option."""
    return words(good, hopeless=("inf", *more))


def choice(*good: str) -> Kind:
    """One of several words."""
    return Kind(
        some(*map(repr, good)),
        some("''", "'nope'", "'1'", "'nan'", repr(good[0] + " "), repr(good[0] + "," + good[0])),
        some(repr(good[0].upper())),
    )


def arguments() -> list[Entry]:
    """Each option of the two training scripts beside those that are always needed."""
    counts = (
        "resolution train_batch_size gradient_accumulation_steps num_epochs max_train_steps checkpointing_steps "
        "checkpoints_total_limit sample_steps save_images_epochs save_model_epochs num_inference_steps "
        "logging_steps layers_per_block"
    )
    main = {option: integer(1) for option in counts.split()}
    main |= {option: integer(0) for option in ("eval_batch_size", "lr_warmup_steps", "seed", "dataloader_num_workers")}
    shared = {
        "channels": Kind(some("'1'", "'3'", "'4'"), some("'2'", "'0'", "'a'", "''", "'-1'", "'1.0'")),
        "pad_value": integer(0, "256", "99999"),
        "shuffle_buffer": integer(1),
        "image_fit": choice("crop", "pad"),
        "max_cached_gb": decimal("4.0", "-1"),
        "training_eps": decimal("1e-5", "0", "-1", "1", "2"),
        "learning_rate": decimal("1e-3", "-1"),
        "adam_weight_decay": decimal("0.01", "-1"),
        "max_grad_norm": decimal("1.0", "-1"),
        "ema_max_decay": decimal("0.99", "-1", "1.5"),
        "dropout": decimal("0.1", "-1", "1.5"),
        "mixed_precision": choice("no", "bf16"),
        "sde": choice("vp", "subvp"),
        "lr_scheduler": choice("cosine", "linear"),
        "logger": choice("tensorboard", "none"),
        "split": words("train", numeric=False),
        "output_dir": words("out", numeric=False),
    }
    main |= shared | {
        "network": choice("ncsnpp", "ddpmpp"),
        "prediction_type": choice("epsilon", "score"),
        "predictor": choice("ancestral", "exponential"),
        "corrector": choice("langevin"),
        "snr": decimal("0.16", "0", "-1"),
        "optimizer": choice("adamw", "muon"),
        "adam_beta1": decimal("0.9", "-1", "1", "1.5"),
        "adam_beta2": decimal("0.999", "-1", "1"),
        "adam_epsilon": decimal("1e-8", "-1"),
        "ema_power": decimal("0.75", "-1"),
        "ema_inv_gamma": decimal("1.0", "0", "-1"),
        "label_dropout": decimal("0.1", "-1", "1.5"),
        "augment_prob": decimal("0.1", "-1", "1", "1.5"),
        "class_sampling": choice("natural"),
        "recipe": choice("edm"),
        "report_to": choice("tensorboard", "none"),
        "scheduler_options": words("snr=0.1", numeric=False, hopeless=("snr", "=", "nope=3", "snr=a")),
        "objective": choice("likelihood"),
        "P_mean": decimal("-1.2"),
        "P_std": decimal("1.2", "0", "-1"),
        "snr_gamma": decimal("5.0", "0", "-1"),
        "ema_widths": decimal("0.1", "0", "-1"),
        "ema_snapshots": integer(1),
        "time_sampling": choice("stratified", "uniform"),
        "block_out_channels": integer(1),
        "attention_resolutions": integer(1),
    }
    scripts = {
        "parse_args": main,
        "parse_classifier_args": {
            **shared,
            "P_mean": main["P_mean"],
            "P_std": main["P_std"],
            "time_density": choice("uniform", "log_normal"),
            "depth": words("28", "10", hopeless=("11", "3", "0", "-2", "1.5")),
            "width": integer(1),
            "max_train_steps": integer(1),
            "train_batch_size": integer(1),
            "resolution": words("32", hopeless=("30", "0", "-4", "1.5")),
            "seed": integer(0),
            "lr_warmup_steps": integer(0),
            "logging_steps": integer(1),
            "checkpointing_steps": integer(1),
        },
    }
    entries = []
    for parser, options in scripts.items():
        fixed = {"parser": only(repr(parser)), "train_data_dir": only("file('data')")}
        entries += [Entry("parsed", {**fixed, option: kind}) for option, kind in options.items()]
    ve = {
        "parser": only("'parse_args'"),
        "train_data_dir": only("file('data')"),
        "sde": only("'ve'"),
        "sigma_min": decimal("0.01", "0", "-1", "100"),
        "sigma_max": decimal("50", "0", "-1", "0.001"),
    }
    steps = {
        "parser": only("'parse_args'"),
        "train_data_dir": only("file('data')"),
        "lr_scheduler": only("'piecewise_constant'"),
        "lr_step_rules": words("1:10,0.1:20,0.01", numeric=False),
    }
    held_out = {
        "parser": only("'parse_args'"),
        "train_data_dir": only("file('data')"),
        "validation_split": only("'test'"),
        "eval_num_bpd_images": integer(1),
    }
    edm = {
        **ve,
        "prediction_type": only("'edm'"),
        "sigma_data": decimal("0.5", "0", "-1"),
        "data_mean": decimal("0.1"),
    }
    edm = {key: kind for key, kind in edm.items() if key not in ("sigma_min", "sigma_max")}
    return [*entries, Entry("parsed", ve), Entry("parsed", edm), Entry("parsed", steps), Entry("parsed", held_out)]


ENTRIES = {"arguments": arguments()}
