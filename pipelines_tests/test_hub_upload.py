"""What `push_to_hub` of the pipelines uploads: to a folder in place of the Hub."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from PIL import Image

from scoresde_pipelines import (
    ScoreSdeClassConditionalPipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdeInverseProblemPipeline,
    ScoreSdeLikelihoodPipeline,
    ScoreSdePipeline,
    cite,
    hub_upload,
    shipped,
)
from scoresde_pipelines.hub_upload import USES, pipeline_card


FASHION = "fashion-mnist-32-vp"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub in a folder: `calls` are the arguments of every request, `repository` the files of someone/new."""
    made = SimpleNamespace(calls=[], repository=tmp_path / "hub" / "someone" / "new")

    class Api:
        def __init__(self, token=None):
            made.calls.append(("token", token))

        def create_repo(self, repo_id, private=None, exist_ok=False):
            assert exist_ok
            made.calls.append(("create_repo", repo_id, private))
            return SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"someone/{repo_id}")

        def create_branch(self, repo_id, branch, exist_ok):
            made.calls.append(("create_branch", repo_id, branch))

        def upload_folder(self, repo_id, folder_path, commit_message, create_pr, revision, path_in_repo):
            made.calls.append(("upload_folder", repo_id, commit_message, create_pr, revision))
            shutil.copytree(folder_path, made.repository / (path_in_repo or ""), dirs_exist_ok=True)
            return f"https://hub/{repo_id}/commit/1"

    def download(repo_id, name, token=None):
        path = tmp_path / "hub" / repo_id / name
        if not path.is_file():
            raise EntryNotFoundError(f"no {name}")
        return str(path)

    monkeypatch.setattr(hub_upload, "HfApi", Api)
    monkeypatch.setattr(hub_upload, "hf_hub_download", download)
    return made


def fresh_pipeline(cls=ScoreSdePipeline, **kwargs):
    """A pipeline that was not loaded from a folder with a card."""
    loaded = ScoreSdePipeline.from_pretrained(shipped(FASHION))
    return cls(loaded.unet, loaded.scheduler, **kwargs)


def test_the_form_without_the_package_goes_to_its_branch(hub):
    pipe = fresh_pipeline()
    pipe.push_to_hub("new", num_pictures=0, standalone=True)
    assert [call for call in hub.calls if call[0] != "token"] == [
        ("create_repo", "new", None),
        ("upload_folder", "someone/new", "Upload ScoreSdePipeline", False, None),
        ("create_branch", "someone/new", "standalone"),
        ("upload_folder", "someone/new", "Upload ScoreSdePipeline without its package", False, "standalone"),
    ]
    loaded = DiffusionPipeline.from_pretrained(hub.repository, trust_remote_code=True)  # the last upload
    assert type(loaded).__module__.startswith("scoresde_standalone_")
    images = [
        one(1, 3, generator=torch.Generator().manual_seed(0), output_type="pt").images
        for one in (loaded, ScoreSdePipeline.from_pretrained(shipped(FASHION)))
    ]
    torch.testing.assert_close(
        *images, rtol=0, atol=1e-4
    )  # weights of 32 bits instead of 16, hence elsewhere in memory


def test_what_is_uploaded_loads_and_draws_the_same(hub):
    pipe = fresh_pipeline(id2label={k: f"class {k}" for k in range(10)})
    address = pipe.push_to_hub(
        "new",
        private=True,
        token="t",
        license="mit",
        base_model="someone/old",
        datasets=["someone/clothes"],
        num_pictures=2,
    )
    assert address == "https://hub/someone/new/commit/1"
    assert hub.calls == [
        ("token", "t"),
        ("create_repo", "new", True),
        ("upload_folder", "someone/new", "Upload ScoreSdePipeline", False, None),
    ]
    files = sorted(str(path.relative_to(hub.repository)) for path in hub.repository.rglob("*") if path.is_file())
    assert files == [
        "README.md",
        "model_index.json",
        "samples.png",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    again = ScoreSdePipeline.from_pretrained(hub.repository)
    images = [one(1, 3, generator=torch.Generator().manual_seed(0), output_type="np").images for one in (pipe, again)]
    np.testing.assert_allclose(images[0], images[1], atol=1e-5)
    with Image.open(hub.repository / "samples.png") as picture:
        assert picture.size == (2 * 32 * 4 + 8, 32 * 4)  # two images of 32 pixels, 2 pixels apart, 4 times as large


def test_the_card_has_what_the_hub_reads(hub):
    pipe = fresh_pipeline(ScoreSdeClassConditionalPipeline, id2label={k: f"class {k}" for k in range(10)})
    pipe.push_to_hub(
        "someone/new", license="mit", base_model="someone/old", datasets=["someone/clothes"], num_pictures=0
    )
    card = ModelCard.load(hub.repository / "README.md")
    assert card.data.library_name == "diffusers" and card.data.pipeline_tag == "unconditional-image-generation"
    assert card.data.license == "mit" and card.data.base_model == "someone/old"
    assert card.data.datasets == ["someone/clothes"] and "class-conditional" in card.data.tags
    assert 'ScoreSdeClassConditionalPipeline.from_pretrained("someone/new")' in card.text
    assert "class_labels=['class 0', 'class 1']" in card.text and "samples.png" not in card.text
    assert cite(pipe) in card.text


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("cls", [ScoreSdeInpaintPipeline, ScoreSdeInverseProblemPipeline, ScoreSdeLikelihoodPipeline])
def test_the_lines_of_every_card_run(tmp_path, cls, named):
    pipe = fresh_pipeline(cls, id2label={k: f"class {k}" for k in range(10)} if named else None)
    pipe.save_pretrained(tmp_path)
    code = pipeline_card(pipe, str(tmp_path)).split("```python")[1].split("```")[0]
    found: dict[str, object] = {}
    exec(code.replace(").images\n", ", num_inference_steps=2).images\n", 1), found)
    assert len(found["images"]) == (2 if named else 4)
    assert type(found["other"]) is cls and f"# other({USES[cls.__name__][1:]}" in code


def test_a_card_that_is_there_is_carried_along(hub, tmp_path):
    pipe = ScoreSdePipeline.from_pretrained(shipped(FASHION))
    pipe.push_to_hub("someone/new")  # of the folder that it was loaded from
    assert (hub.repository / "README.md").read_text() == (Path(shipped(FASHION)) / "README.md").read_text()
    (hub.repository / "README.md").write_text("edited on the Hub")
    fresh_pipeline().push_to_hub("someone/new")
    assert (hub.repository / "README.md").read_text() == "edited on the Hub"
    (tmp_path / "mine.md").write_text("mine")
    fresh_pipeline().push_to_hub("someone/new", readme=tmp_path / "mine.md", revision="v2", commit_message="second")
    assert (hub.repository / "README.md").read_text() == "mine"
    assert hub.calls[-2:] == [
        ("create_branch", "someone/new", "v2"),
        ("upload_folder", "someone/new", "second", False, "v2"),
    ]


def test_a_subfolder_gets_the_pipeline_without_a_card(hub):
    fresh_pipeline().push_to_hub("someone/new", subfolder="small")
    assert sorted(path.name for path in hub.repository.iterdir()) == ["small"]
    assert sorted(path.name for path in (hub.repository / "small").iterdir()) == [
        "model_index.json",
        "scheduler",
        "unet",
    ]


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("unreachable"), OSError("503")])
def test_a_card_that_cannot_be_read_is_not_replaced(hub, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(hub_upload, "hf_hub_download", fail)
    with pytest.raises(type(error)):
        fresh_pipeline().push_to_hub("someone/new", num_pictures=0)
    assert not hub.repository.exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_pictures": -1}, "num_pictures must be an integer from 0 to 64, got -1"),
        ({"readme": "no-such-file.md"}, "readme must be a file, got 'no-such-file.md'"),
        ({"licence": "mit"}, r"card_fields must be among license, base_model and datasets, got \['licence'\]"),
    ],
)
def test_bad_arguments_upload_nothing(hub, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fresh_pipeline().push_to_hub("someone/new", **options)
    assert hub.calls == []
