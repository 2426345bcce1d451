"""Look at an HTML page in headless Chromium: how wide it is, which of its texts are faint, and what the console says.

    look = look_at(Path("report.html"), tmp_path, width=390, is_dark=True)
    look.scroll_width, look.faint, look.errors

The page is shown in a frame of the given width, because a window cannot be as narrow as a phone. A script in a copy of
the page measures it and sends the result to the page around the frame.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
PHONE_WIDTH = 390
"""Width of a usual phone, in CSS pixels."""
LEAST_CONTRAST = 4.5
"""Least contrast of text and background that WCAG 2.2, level AA, allows."""
FRAME = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><body></body><script>
addEventListener("message", (event) => { document.body.innerText = "LOOK" + event.data + "LOOK"; });
const frame = document.createElement("iframe");
frame.src = PAGE; frame.width = WIDTH; frame.height = 844; frame.style = "border: 0";
document.body.append(frame);
</script>"""
MEASURE = """<script>
addEventListener("load", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    paint.clearRect(0, 0, 1, 1); paint.fillStyle = color; paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (color) => {
    const [red, green, blue] = color.slice(0, 3).map((value) => value / 255)
      .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const background = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color[3] > 127) return color;
    }
    return rgba("Canvas");
  };
  const texts = [...document.querySelectorAll("body *")].filter((element) => element.getClientRects().length
    && [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()));
  const contrasts = texts.map((element) => {
    const style = getComputedStyle(element);
    const ink = luminance(rgba(element instanceof SVGElement ? style.fill : style.color));
    const [low, high] = [ink, luminance(background(element))].sort((a, b) => a - b);
    return [(high + 0.05) / (low + 0.05), `${element.localName}: ${element.textContent.trim().slice(0, 40)}`];
  });
  parent.postMessage(JSON.stringify({
    scroll_width: document.documentElement.scrollWidth,
    is_dark: matchMedia("(prefers-color-scheme: dark)").matches,
    num_texts: texts.length,
    faint: contrasts.filter(([contrast]) => contrast < LEAST)
      .map(([contrast, text]) => `${contrast.toFixed(2)} ${text}`),
  }), "*");
});
</script>"""


@dataclass(frozen=True)
class Look:
    """How a page looks at one width and in one colour scheme."""

    scroll_width: int
    """Width of the page's content, in CSS pixels. More than the width of the frame means that it scrolls sideways."""
    is_dark: bool
    num_texts: int
    """Number of visible elements with text of their own."""
    faint: list[str]
    """The contrast and the text of each element with less than LEAST_CONTRAST."""
    errors: list[str]
    """Lines of the browser's console."""


def look_at(page: Path, folder: Path, width: int = PHONE_WIDTH, is_dark: bool = False) -> Look:
    """Return how a page looks in a frame of `width` pixels, with everything unfolded. Work in `folder`."""
    folder.mkdir(exist_ok=True)
    copy, frame = folder / "page.html", folder / "frame.html"
    copy.write_text(page.read_text(encoding="utf-8") + MEASURE.replace("LEAST", str(LEAST_CONTRAST)), encoding="utf-8")
    address = json.dumps(copy.resolve().as_uri())
    frame.write_text(FRAME.replace("PAGE", address).replace("WIDTH", str(width)), encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--enable-logging=stderr",
        "--virtual-time-budget=5000",
        f"--blink-settings=preferredColorScheme={0 if is_dark else 1}",
        f"--user-data-dir={folder}/profile",
    ]
    command = [str(CHROMIUM), *flags, "--dump-dom", frame.resolve().as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r"LOOK(\{.*\})LOOK", shown.stdout, re.DOTALL)
    assert found, f"the browser measured nothing: {shown.stderr[-2000:]}"
    errors = [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
    return Look(**json.loads(html.unescape(found[1])), errors=errors)
