"""A page in the browser for score models: generate, inpaint, colorize, upscale, interpolate, measure bits/dim.

`launch()` starts it; `scoresde app` does so from the command line. What the page does is in `actions`, without Gradio; how
it looks is in `page`.
"""

import socket
from collections.abc import Sequence

from ..training.model_names import shipped
from .actions import Models


def launch(
    models: Sequence[str] | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    device: str = "cpu",
    block: bool = True,
) -> str:
    """Serves the page until it is interrupted.

    Args:
        models: shipped names, folders or Hub ids; by default the shipped models.
        host: the network address to listen on; "0.0.0.0" for every network of this machine.
        port: by default the first free one from 7860 on.
        share: whether Gradio makes a public link.
        device: where the networks run.
        block: whether to wait until the page is interrupted.

    Returns:
        The page's address.

    Raises:
        ImportError: without Gradio; the extra `app` brings it.
        ValueError: for a model that is not known, or an address at which this machine cannot serve, or serves already.
    """
    _check_address(host, port)
    found = Models(list(models) if models else shipped(), device)
    try:
        from .page import STYLE, build
    except ImportError as error:
        raise ImportError(f"the page needs Gradio: pip install 'scoresde_pipelines[app]' ({error})") from error
    page = build(found)
    _, address, _ = page.launch(
        server_name=host, server_port=port, share=share, css=STYLE, prevent_thread_lock=True, quiet=True
    )
    if block:
        print(f"the page is at {address}; Ctrl-C ends it", flush=True)
        page.block_thread()
    return str(address)


def _check_address(host: str, port: int | None) -> None:
    # Gradio tries a hundred ports, and waits for each.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port or 0), family=family).close()
    except (OSError, UnicodeError) as error:
        where = host if port is None else f"{host} and {port}"
        raise ValueError(f"host and port must be free addresses of this machine, got {where}: {error}") from error


__all__ = ["Models", "launch"]
