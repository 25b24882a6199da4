"""Drives the pages of the server in a real Chromium: send, stream, stop, edit, branch, reload, switch, a telephone.

    pip install selenium;  apt-get install chromium chromium-driver
    python tools/browser_test.py URL PICTURES [AXE]      # a server of two models, a folder, axe.min.js of axe-core

It leaves pictures to look at, and ends with status 1 where something is not as it should be.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--force-prefers-reduced-motion")
MARKDOWN = """Some **bold** text, `code`, a [link](https://example.org) and $e^{i\\pi} + 1 = 0$.

```python
def area(r):  # of a circle
    return 3.14 * r ** 2
```

$$\\int_0^1 \\frac{x^2}{\\sqrt{1 + x}} dx = \\sum_{n=1}^{\\infty} a_n$$

| a | b |
|---|---|
| 1 | 2 |

- one
- two <script>alert(1)</script>
"""


def browser(width: int, height: int, dark: bool = False) -> Any:
    """A Chromium without a window."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (*ARGUMENTS, f"--window-size={width},{height}", *(["--force-dark-mode"] if dark else [])):
        options.add_argument(argument)
    made = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    made.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    return made


class Page:
    """The chat page.

    Args:
        driver: Of the browser.
        url: Of the server.
    """

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, url
        driver.get(url)
        self.until(lambda: self.run("return document.getElementById('model').options.length > 0"), "models")

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, test: Callable[[], Any], what: str, seconds: float = 60) -> None:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not test():
            assert time.monotonic() < end, f"this did not happen: {what}"
            time.sleep(0.03)

    def click(self, selector: str) -> None:
        """Click."""
        self.driver.find_element("css selector", selector).click()

    def type(self, selector: str, text: str) -> None:
        """Press keys."""
        self.driver.find_element("css selector", selector).send_keys(text)

    def texts(self, selector: str) -> list[str]:
        """Texts of elements."""
        return list(self.run("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector))

    def settings(self, **values: str) -> None:
        """What a reader would type into the settings."""
        self.run("Object.assign(settings, arguments[0]); save('ggq.settings', settings)", values)
        if "model" in values:
            self.run("document.getElementById('model').value = settings.model")

    def wait(self) -> None:
        """Wait for an answer's end."""
        self.until(lambda: not self.run("return document.getElementById('send').hidden"), "the answer's end")

    def check(self, axe: str | None, what: str) -> None:
        """No serious fault for who cannot see or point, nothing wider than the window, nothing in the console."""
        if axe:
            self.run(axe)
            script = "const done = arguments[0]; axe.run().then(r => done(JSON.stringify(r.violations)));"
            found = json.loads(self.driver.execute_async_script(script))
            bad = [each for each in found if each["impact"] in ("serious", "critical")]
            places = [(each["id"], [node["html"][:150] for node in each["nodes"]][:4]) for each in bad]
            assert not bad, f"{what}: {places}"
        width = self.run("return [document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], f"{what}: the page is {width[0]} wide in a window of {width[1]}"
        logged = [each for each in self.driver.get_log("browser") if each["level"] == "SEVERE"]
        assert not [each for each in logged if "favicon" not in each["message"]], logged


def conversation(page: Page) -> None:
    """Send, stream, stop, edit, branch, reload, switch models."""
    page.settings(model="endless", max_tokens="900")
    page.type("#question", "import os\n")
    lengths = set[int]()

    def over() -> bool:
        lengths.add(len("".join(page.texts(".assistant .body"))))
        return bool(page.run("return !running"))

    page.until(over, "an answer")
    assert len(lengths) > 2, "it did not come in pieces"
    first = page.texts(".assistant .body")
    assert len(first) == 1 and len(first[0]) > 20 and "tokens/s" in page.texts("#figures")[0]
    page.settings(max_tokens="4000")
    page.type("#question", "class Reader:\n")
    page.until(lambda: len((page.texts(".assistant .body") or [""])[-1]) > 30, "the second answer")
    page.click("#stop")
    page.wait()
    stopped = page.texts(".assistant .body")[-1]
    time.sleep(0.4)
    assert page.texts(".assistant .body")[-1] == stopped and not page.texts(".failed")
    page.settings(max_tokens="60")
    page.click(".user [aria-label='Edit message']")
    page.run("document.querySelector('.user textarea').value = ''")
    page.type(".user textarea", "x = [\n")
    page.until(lambda: page.texts(".user .body") == ["x = ["], "the edited message")
    page.wait()
    assert len(page.texts(".assistant .body")) == 1 and "2/2" in page.texts(".user .tools")[0]
    page.click(".user [aria-label='Previous version']")
    assert page.texts(".user .body") == ["import os", "class Reader:"]
    assert page.texts(".assistant .body") == [first[0], stopped]
    page.click(".assistant [aria-label='Answer again']")
    page.until(lambda: any("2/2" in text for text in page.texts(".assistant .tools")), "another answer")
    page.wait()
    before = page.texts(".body")
    page.driver.refresh()
    page.until(lambda: page.texts(".body") == before, "the same after it is loaded again")
    page.run("const m = document.getElementById('model'); m.value = 'demo'; m.dispatchEvent(new Event('change'))")
    page.type("#question", "def f(x):\n")
    page.until(lambda: any("demo" in text for text in page.texts(".assistant .tools")), "an answer of another model")
    page.wait()


def rendered(page: Page) -> None:
    """Markdown, code and formulas become elements, and no markup of an answer is heeded."""
    script = """current = null; const tree = chat(); tree.title = "Rendered";
        const q = add(tree, "root", "user", "Show me."), a = add(tree, q.id, "assistant", arguments[0]);
        a.reasoning = "First I think."; a.rate = 12.3; keep(); draw();"""
    page.run(script, MARKDOWN)
    count = "return document.querySelectorAll(arguments[0]).length"
    for selector in ("strong", "pre code .k", "math mfrac", "math munderover", "table td", ".body li", "details"):
        assert page.run(count, f".assistant {selector}") > 0, selector
    assert page.run(count, ".assistant script") == 0 and "<script>" in page.texts(".assistant .body")[0]


def main() -> None:
    """Run everything."""
    url, folder = sys.argv[1].rstrip("/") + "/", Path(sys.argv[2])
    axe = Path(sys.argv[3]).read_text() if len(sys.argv) > 3 else None
    folder.mkdir(parents=True, exist_ok=True)
    for name, width, height, dark in (
        ("wide", 1200, 800, False),
        ("dark", 1200, 800, True),
        ("telephone", 360, 720, False),
    ):
        driver = browser(width, height, dark)
        try:
            page = Page(driver, url)
            page.check(axe, f"{name}, empty")
            conversation(page)
            driver.save_screenshot(str(folder / f"{name}-chat.png"))
            page.check(axe, f"{name}, a conversation")
            rendered(page)
            driver.save_screenshot(str(folder / f"{name}-rendered.png"))
            page.check(axe, f"{name}, rendered")
            if width < 500:
                page.click("#menu")
                driver.save_screenshot(str(folder / f"{name}-menu.png"))
                page.check(axe, f"{name}, menu")
                page.click("#menu")
            page.click("#open-settings")
            driver.save_screenshot(str(folder / f"{name}-settings.png"))
            page.check(axe, f"{name}, settings")
            driver.get(url + "status")
            page.until(partial(page.texts, "section"), "the status")
            driver.save_screenshot(str(folder / f"{name}-status.png"))
            page.check(axe, f"{name}, status")
        finally:
            driver.quit()
        print(f"{name}: all is well")


if __name__ == "__main__":
    main()
