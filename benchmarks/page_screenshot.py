"""Draws docs/images/app.png: the page of `scoresde app` in headless Chromium (needs the extra app, playwright, chromium).

python benchmarks/page_screenshot.py
"""

import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from scoresde_pipelines.app import launch


PICTURE = Path(__file__).parent.parent / "docs" / "images" / "app.png"
COUNTED = "[...document.querySelectorAll('textarea, input')].some(field => /network calls/.test(field.value))"


def main() -> None:
    address = launch(block=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1040, "height": 830})
        page.goto(address)
        page.get_by_role("button", name="Generate").click()
        page.wait_for_function(COUNTED, timeout=120_000)
        page.wait_for_timeout(500)
        page.screenshot(path=str(PICTURE))
        browser.close()
    with Image.open(PICTURE) as image:
        image.convert("RGB").quantize(128).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
