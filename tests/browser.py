"""A page as headless Chromium lays it out: what stands where, and a screenshot of all of it.

PPL_VAE_CHROMIUM names the browser where it is not on the path.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# The page stands in a frame, since a window of Chromium is never narrower than 500 pixels.
_FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe src="{page}" style="border:0;display:block;width:{width}px;height:{height}px"></iframe>
<pre id="told"></pre>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const page = frame.contentDocument, root = page.documentElement;
  const all = selector => [...page.querySelectorAll(selector)];
  const right = element => element.getBoundingClientRect().right;
  document.getElementById("told").textContent = JSON.stringify({{
    width: root.clientWidth,
    scroll_width: root.scrollWidth,
    height: root.scrollHeight,
    broken: all("img").filter(i => !i.complete || !i.naturalWidth || !i.width).length,
    pictures: all("img").length,
    tables: all("table").map(table => {{
      const box = table.parentElement;
      return {{
        box_right: right(box), box_width: box.clientWidth, scrolls: box.scrollWidth,
        width: table.getBoundingClientRect().width,
        overflow: page.defaultView.getComputedStyle(box).overflowX,
      }};
    }}),
    outside: all("body *").filter(e => !e.closest(".wide, .frame, .skip, .zoom"))
      .filter(e => right(e) > root.clientWidth + 1).map(e => e.tagName),
  }});
}};
</script>
"""


def chromium() -> str | None:
    """The browser's path, or None."""
    named = os.environ.get("PPL_VAE_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


def layout(page: Path, width: int, folder: Path) -> dict[str, Any]:
    """Where things stand on the page, `width` pixels wide, and its "screenshot", a PNG."""
    told = _told(page, width, 800, folder)
    height = min(int(told["height"]), 16_000)
    picture = folder / f"{page.stem}-{width}.png"
    frame = _frame(page, width, height, folder)
    _run(f"--screenshot={picture}", f"--window-size={max(width, 500)},{height}", frame.as_uri())
    return {**told, "screenshot": picture}


def printed(page: Path, folder: Path) -> Path:
    """The page on paper, a PDF."""
    pdf = folder / f"{page.stem}.pdf"
    _run(f"--print-to-pdf={pdf}", "--no-pdf-header-footer", page.resolve().as_uri())
    return pdf


def _told(page: Path, width: int, height: int, folder: Path) -> dict[str, Any]:
    frame = _frame(page, width, height, folder)
    dumped = _run("--dump-dom", f"--window-size={max(width, 500)},{height}", frame.as_uri())
    found = re.search(r'<pre id="told">(.+?)</pre>', dumped, re.DOTALL)
    if found is None:
        raise RuntimeError(f"the browser did not lay {page} out: {dumped[-500:]}")
    return dict(json.loads(unescape(found.group(1))))


def _frame(page: Path, width: int, height: int, folder: Path) -> Path:
    frame = folder / "frame.html"
    text = _FRAME.format(page=page.resolve().as_uri(), width=width, height=height)
    frame.write_text(text, encoding="utf-8")
    return frame.resolve()


def _run(*arguments: str) -> str:
    command = [
        str(chromium()), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--allow-file-access-from-files", "--virtual-time-budget=5000", *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout
