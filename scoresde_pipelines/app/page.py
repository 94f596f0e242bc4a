"""The layout of the page (Gradio): a model above, a tab for each task."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from PIL import Image

from . import actions
from .actions import DEFAULT_SCALE, NO_CLASS, NO_MODEL, SAMPLERS, Models, Run


SHOWN_HEIGHT = 420
BRUSH = 3  # radius in pixels of the picture, which often has 32 a side
STYLE = """
.picture img { image-rendering: pixelated; width: 100%; height: 100%; object-fit: contain; }
.gradio-container { max-width: 1000px !important; margin: auto; }
"""
TILES = (
    "in pixels: keeps the picture's own size, of up to 1024 pixels, which may take minutes; 0: fits it to the model"
)
INTRODUCTION = """# Score-based generative models
Pictures drawn by solving a stochastic differential equation backwards in time, from noise to data
([Song et al. 2021](https://arxiv.org/abs/2011.13456))."""


def build(models: Models) -> gr.Blocks:
    """The page for some models; `launch` serves it."""
    names = sorted(models.sources)
    with gr.Blocks(title="Score-based generative models") as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            model = gr.Dropdown(names, value=names[0], label="Model", scale=3)
            steps = gr.Slider(5, 200, 50, step=1, label="Noise levels", scale=3)
            count = gr.Slider(1, 16, 4, step=1, label="Images", scale=2)
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, scale=1)
        with gr.Tab("Generate"):
            _generate_tab(models, model, steps, count, seed)
        with gr.Tab("Inpaint"):
            _inpaint_tab(models, model, steps, count, seed)
        with gr.Tab("Colorize"):
            text = "Only the gray values of the picture are used. Needs a model of colour images."
            _restore_tab(models, model, steps, count, seed, "Colorize", text, actions.colorize)
        with gr.Tab("Upscale"):
            text = (
                "The means over blocks of the images drawn are the picture. Without tiles a larger picture is first "
                "reduced to the model's size divided by the scale."
            )
            _restore_tab(models, model, steps, count, seed, "Upscale", text, actions.upscale, _scale)
        with gr.Tab("Restore"):
            text = "Sharp images without noise, whose blur is the picture."
            _restore_tab(models, model, steps, count, seed, "Restore", text, actions.restore, _blur_and_noise)
        with gr.Tab("Interpolate"):
            _interpolate_tab(models, model, seed)
        with gr.Tab("Likelihood"):
            _likelihood_tab(models, model, seed)
    return page


def _generate_tab(models: Models, model: Any, steps: Any, count: Any, seed: Any) -> None:
    with gr.Row():
        with gr.Column():
            label = gr.Dropdown(models.classes(model.value), value=NO_CLASS, label="Class")
            guidance = gr.Slider(0, 5, 1, step=0.1, label="Guidance scale", info="above 1: more typical, less varied")
            sampler = gr.Dropdown(sorted(SAMPLERS), value="default", label="Sampler")
            with gr.Accordion("Autoguidance", open=False):
                weak_names = [NO_MODEL, *sorted(models.sources)]
                weak = gr.Dropdown(
                    weak_names, value=NO_MODEL, label="Weak model", info="of the same images, trained less"
                )
                weak_scale = gr.Slider(0, 5, DEFAULT_SCALE, step=0.1, label="Weak guidance scale", info="1: without")
            start, stop = _buttons("Generate")
        picture, state = _result()
    model.change(lambda name: gr.Dropdown(models.classes(name), value=NO_CLASS), model, label)

    def run(*values: Any) -> Iterator[tuple[Image.Image, str]]:
        yield from _shown(lambda: actions.generate(models, *values))

    inputs = [model, label, sampler, steps, count, guidance, seed, weak, weak_scale]
    event = start.click(run, inputs, [picture, state], api_name="generate")
    stop.click(None, cancels=event, queue=False)


def _inpaint_tab(models: Models, model: Any, steps: Any, count: Any, seed: Any) -> None:
    with gr.Row():
        with gr.Column():
            gr.Markdown("Paint over what is to be drawn anew. The brush has a size, in pixels of the picture.")
            editor = gr.ImageEditor(
                type="pil",
                label="Picture",
                brush=gr.Brush(default_size=BRUSH, colors=["#ff0066"], color_mode="fixed"),
                layers=False,
                height=SHOWN_HEIGHT,
            )
            _example(models, model, seed, editor)
            tiles = _tiles()
            start, stop = _buttons("Inpaint")
        picture, state = _result()

    def run(*values: Any) -> Iterator[tuple[Image.Image, str]]:
        name, drawing, *options = values
        image, mask = painted(drawing)
        yield from _shown(lambda: actions.inpaint(models, name, image, mask, Run(*options)))

    event = start.click(run, [model, editor, steps, count, seed, *tiles], [picture, state], api_name="inpaint")
    stop.click(None, cancels=event, queue=False)


def painted(drawing: dict[str, Any] | None) -> tuple[Image.Image | None, Image.Image | None]:
    """The picture below a drawing and what was painted on it, as a mask; `None` where there is no picture."""
    image = (drawing or {}).get("background")
    if image is None or not drawing:
        return None, None
    mask = Image.new("L", image.size, 0)
    for layer in drawing.get("layers") or []:
        mask.paste(255, mask=layer.convert("RGBA").getchannel("A").point(lambda value: 255 * (value > 0)))
    return image, mask


def _upload(label: str) -> gr.Image:
    # The mode stays that of the file: Gradio's conversion makes 16-bit pictures white.
    return gr.Image(type="pil", image_mode=None, label=label, height=SHOWN_HEIGHT, elem_classes="picture")


def _example(models: Models, model: Any, seed: Any, picture: Any, more: int = 0) -> None:
    """A button for those who have no picture at hand; `more` is added to the seed."""

    def run(name: str, seed: int) -> Image.Image:
        with _named_errors():
            return actions.example(models, name, int(seed or 0) + more)

    gr.Button("Take an image of the model", size="sm").click(run, [model, seed], picture, api_visibility="private")


def _tiles() -> list[Any]:
    """The size of tiles and their overlap."""
    with gr.Accordion("Large pictures", open=False):
        size = gr.Number(0, label="Tile size", precision=0, minimum=0, info=TILES)
        overlap = gr.Slider(0, 0.75, 0.5, step=0.05, label="Tile overlap", info="share of a tile")
    return [size, overlap]


def _scale() -> list[Any]:
    return [gr.Dropdown([2, 4, 8], value=4, label="Scale")]


def _blur_and_noise() -> list[Any]:
    blur = gr.Slider(0, 4, 1, step=0.1, label="Blur", info="standard deviation of the Gaussian, in pixels")
    return [blur, gr.Slider(0, 0.5, 0.02, step=0.01, label="Noise", info="standard deviation, for values from 0 to 1")]


def _restore_tab(
    models: Models,
    model: Any,
    steps: Any,
    count: Any,
    seed: Any,
    name: str,
    text: str,
    action: Callable[..., Any],
    make_own: Callable[[], list[Any]] = list,
) -> None:
    """A tab from a picture to pictures; `make_own` makes the inputs that follow the `Run` in its action."""
    with gr.Row():
        with gr.Column():
            gr.Markdown(text)
            image = _upload("Picture")
            _example(models, model, seed, image)
            own, tiles = make_own(), _tiles()
            start, stop = _buttons(name)
        picture, state = _result()

    def run(*values: Any) -> Iterator[tuple[Image.Image, str]]:
        model_name, image, *options = values
        shared, last = options[: 3 + len(tiles)], options[3 + len(tiles) :]
        yield from _shown(lambda: action(models, model_name, image, Run(*shared), *last))

    inputs = [model, image, steps, count, seed, *tiles, *own]
    event = start.click(run, inputs, [picture, state], api_name=name.lower())
    stop.click(None, cancels=event, queue=False)


def _interpolate_tab(models: Models, model: Any, seed: Any) -> None:
    row = gr.State([])
    gr.Markdown("Images along an arc between the latent codes of two pictures. It takes some 200 network calls.")
    with gr.Row():
        with gr.Column():
            first = _upload("First picture")
            _example(models, model, seed, first)
        with gr.Column():
            second = _upload("Second picture")
            _example(models, model, seed, second, 1)
        between = _picture("Between them")
    start = gr.Button("Interpolate", variant="primary")
    place = gr.Slider(0, 1, 0.5, step=0.125, label="From the first (0) to the second (1)")

    def run(name: str, first: Any, second: Any, place: float) -> tuple[list[Image.Image], Image.Image]:
        with _named_errors():
            images = actions.interpolate(models, name, first, second)
        return images, images[round(place * (len(images) - 1))]

    start.click(run, [model, first, second, place], [row, between], api_name="interpolate")
    place.change(lambda place, row: row[round(place * (len(row) - 1))] if row else None, [place, row], between)


def _likelihood_tab(models: Models, model: Any, seed: Any) -> None:
    with gr.Row():
        with gr.Column():
            image = _upload("Picture")
            _example(models, model, seed, image)
        with gr.Column():
            gr.Markdown(
                "How many bits a value of the picture's pixels costs under the model, by the probability-flow ODE: "
                "fewer for pictures that are like its data. It takes some 200 network calls."
            )
            start = gr.Button("Measure bits/dim", variant="primary")
            result = gr.Textbox(label="Bits per dimension", interactive=False)

    def run(name: str, image: Any, seed: int) -> str:
        with _named_errors():
            return actions.bits_per_dim(models, name, image, seed)

    start.click(run, [model, image, seed], result, api_name="likelihood")


def _buttons(name: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        return gr.Button(name, variant="primary", scale=3), gr.Button("Stop", scale=1)


def _result() -> tuple[gr.Image, gr.Textbox]:
    with gr.Column():
        return _picture("Images"), gr.Textbox(label="Cost of each image", interactive=False)


def _picture(label: str) -> gr.Image:
    return gr.Image(label=label, format="png", interactive=False, elem_classes="picture", height=SHOWN_HEIGHT)


class _named_errors:
    """Errors of bad input become messages on the page; others are shown as they are and logged by Gradio."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (ValueError, TypeError)):
            raise gr.Error(str(error), print_exception=False) from error


def _shown(run: Callable[[], Iterator[actions.Progress]]) -> Iterator[tuple[Image.Image, str]]:
    with _named_errors():
        for progress in run():
            yield progress.picture, str(progress)
