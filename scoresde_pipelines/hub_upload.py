"""What pipelines publish: their files, a card that says what they are and how to load them, and a picture."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from .schedulers.checks import check_flag, check_integer, check_path


# Beside generation, which every model does: what a pipeline of this class is for, with the user's own pictures.
USES = {
    "ScoreSdeInpaintPipeline": "(image, mask_image).images, white where to paint",
    "ScoreSdeColorizationPipeline": "(image).images",
    "ScoreSdeSuperResolutionPipeline": "(image, scale=4).images",
    "ScoreSdeInverseProblemPipeline": "(measurement, operator, noise_std=0.02).images",
    "ScoreSdeLikelihoodPipeline": "(image).bits_per_dim",
}
PICTURE = "samples.png"
STANDALONE = "standalone"  # branch of the package-free form
TAGS = ("diffusers", "score-based-generative-modeling", "scoresde_pipelines")
CARD = """---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [{tags}]
{fields}---

# {title}

{description}
{picture}
```python
from scoresde_pipelines import {pipelines}

pipeline = {pipeline}.from_pretrained("{repo_id}")
images = pipeline({call}).images
{use}```

`pip install scoresde_pipelines`. Without the package the network and the scheduler cannot be loaded: they are classes of it.
{classes}
## Citation

```bibtex
{citation}
```
"""


def pipeline_card(
    pipe: Any,
    repo_id: str,
    *,
    license: str | None = None,
    base_model: str | None = None,
    datasets: list[str] | None = None,
    picture: str | None = None,
) -> str:
    """The README.md of a pipeline, as Markdown with the metadata that the Hub reads.

    Args:
        pipe: a pipeline of this package.
        repo_id: what `from_pretrained` is to be given.
        license, base_model, datasets: identifiers of the Hub; left out where they are not given.
        picture: file name of a picture beside the card.
    """
    from .citation import cite

    names, kind = pipe.config.get("id2label"), type(pipe).__name__
    conditional = bool(names) or kind == "ScoreSdeClassConditionalPipeline"
    generates = "ScoreSdeClassConditionalPipeline" if conditional else "ScoreSdePipeline"
    use = f"other = {kind}.from_pipe(pipeline)  # other{USES[kind]}\n" if kind in USES else ""
    shape = " x ".join(map(str, pipe.sample_shape))
    low, high = pipe.config.data_min, pipe.config.data_max
    parameters = sum(parameter.numel() for parameter in pipe.unet.parameters()) / 1e6
    fields = {"license": license, "base_model": base_model, "datasets": datasets}
    labels = [] if not names else [names[key] for key in sorted(names, key=int)]
    return CARD.format(
        tags=", ".join(list(TAGS) + ["class-conditional"] * conditional),
        fields="".join(f"{key}: {_yaml(value)}\n" for key, value in fields.items() if value),
        title=repo_id.rstrip("/").split("/")[-1],
        description=(
            f"A {type(pipe.unet).__name__} ({parameters:.2f} M parameters) for {shape} images with values in "
            f"[{low:g}, {high:g}], sampled with a `{type(pipe.scheduler).__name__}` (score-based generative modelling "
            "through stochastic differential equations, Song et al., ICLR 2021)."
        ),
        picture=f"\n![Samples]({picture})\n" if picture else "",
        pipelines=", ".join(sorted({generates, kind} if use else {generates})),
        pipeline=generates,
        call=f"class_labels={labels[:2] or [0, 1]}" if conditional else "batch_size=4",
        use=use,
        repo_id=repo_id,
        classes=f"\nClasses: {', '.join(labels)}.\n" if labels else "",
        citation=cite(pipe),
    )


def _yaml(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "[" + ", ".join(value) + "]"


class PushPipelineMixin:
    """`push_to_hub` of the pipelines."""

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        readme: str | Path | None = None,
        num_pictures: int = 4,
        standalone: bool = False,
        **card_fields: Any,
    ) -> str:
        """Publishes the pipeline on the Hub: network, scheduler, index, card and a picture of samples.

        The card is `readme`, else the README.md of the folder that the pipeline was loaded from, else the one that is on the
        Hub already, else `pipeline_card`.

        Args:
            repo_id: "user/name", or a name in the account of the token.
            commit_message, token, create_pr: as in diffusers.
            private: create the repository as a private one; an existing one keeps its visibility.
            safe_serialization, variant: as in `save_pretrained`.
            subfolder: the folder of the repository to write to, where no card is written.
            revision: the branch to write to; it is made if it does not exist.
            readme: a file that becomes the card.
            num_pictures: images of a new card, drawn in 20 network calls each; 0 for none.
            standalone: write the package-free form (`export_standalone`) to the branch "standalone" as well, for
                `DiffusionPipeline.from_pretrained(repo_id, revision="standalone", trust_remote_code=True)`.
            card_fields: `license`, `base_model`, `datasets` of a new card.

        Returns:
            The address of the commit.

        Raises:
            TypeError, ValueError: for an argument out of its range, before anything is uploaded.
            huggingface_hub.errors.HfHubHTTPError: where the Hub refuses.
        """
        check_integer("num_pictures", num_pictures, 0, 64)
        check_flag("create_pr", create_pr)
        check_flag("standalone", standalone)
        if readme is not None and not check_path("readme", readme).is_file():
            raise ValueError(f"readme must be a file, got {str(readme)!r}")
        unknown = sorted(set(card_fields) - {"license", "base_model", "datasets"})
        if unknown:
            raise TypeError(f"card_fields must be among license, base_model and datasets, got {unknown}")
        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization=safe_serialization, variant=variant)  # type: ignore[attr-defined]
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if not subfolder:
                card = self._given_card(readme) or _published_card(repo_id, token)
                if card is None:
                    if num_pictures:
                        _draw(self, num_pictures, Path(folder) / PICTURE)
                    card = pipeline_card(self, repo_id, picture=PICTURE if num_pictures else None, **card_fields)
                (Path(folder) / "README.md").write_text(card, "utf-8")
            if revision is not None and not create_pr:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                create_pr=create_pr,
                revision=revision,
                path_in_repo=subfolder,
            )
            if standalone:
                _push_standalone(self, api, repo_id, Path(folder) / STANDALONE, subfolder)
        return str(commit)

    def _given_card(self, readme: str | Path | None) -> str | None:
        folder = Path(str(getattr(self, "name_or_path", None) or ""))
        path = Path(readme) if readme is not None else folder / "README.md"
        there = path.is_file() and (readme is not None or (folder / "model_index.json").is_file())
        return path.read_text("utf-8") if there else None


def _push_standalone(pipe: Any, api: HfApi, repo_id: str, folder: Path, subfolder: str | None) -> None:
    # On a branch of its own: diffusers asks for trust_remote_code wherever it finds Python files, also from those who have
    # the package.
    from .standalone import export_standalone

    export_standalone(pipe, folder)
    api.create_branch(repo_id, branch=STANDALONE, exist_ok=True)
    api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        commit_message=f"Upload {type(pipe).__name__} without its package",
        create_pr=False,
        revision=STANDALONE,
        path_in_repo=subfolder,
    )


def _published_card(repo_id: str, token: str | None) -> str | None:
    """The card of an existing repository, or None if it has none; other failures must not end in a new card over it."""
    try:
        return Path(hf_hub_download(repo_id, "README.md", token=token)).read_text("utf-8")
    except LocalEntryNotFoundError:  # the Hub cannot be reached
        raise
    except EntryNotFoundError:
        return None


def _draw(pipe: Any, count: int, path: Path) -> None:
    from .pipeline_score_sde import ScoreSdePipeline
    from .training.sampling import image_grid

    sampler = ScoreSdePipeline.from_pipe(pipe)
    sampler.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images = sampler(count, quality="draft", generator=generator, output_type="pt").images
    image_grid((images * 255).round().to(torch.uint8).cpu(), scale=max(1, 128 // images.shape[-1])).save(path)
