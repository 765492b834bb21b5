"""A picture of a page of `occplug show` in headless Chromium, for the documentation."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(argv: list[str]) -> None:
    """Parse `argv` and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, metavar="HTML")
    parser.add_argument("output", type=Path, metavar="FILE", help=".png or .jpg")
    text = "what the page is opened with, e.g. 'order=gain 0 1&only=queries'; see docs/looking.md"
    parser.add_argument("--state", default="", metavar="S", help=text)
    text = "of the window, in CSS pixels (1200 900)"
    parser.add_argument("--size", type=int, nargs=2, default=(1200, 900), metavar=("WIDTH", "HEIGHT"), help=text)
    parser.add_argument("--scale", type=float, default=1.5, metavar="X", help="pixels of the file per CSS pixel (1.5)")
    args = parser.parse_args(argv)
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        parser.error(f"none of {', '.join(BROWSERS)} is installed; apt install chromium")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        words += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=3000", f"--screenshot={shot}"]
        words += [f"--window-size={args.size[0]},{args.size[1]}", f"--force-device-scale-factor={args.scale}"]
        address = args.page.resolve().as_uri() + f"#{args.state}" * bool(args.state)
        done = subprocess.run([browser, *words, address], capture_output=True, text=True, timeout=300)
        if not shot.is_file():
            sys.exit(f"{browser} took no picture: {done.stderr[-1000:]}")
        with Image.open(shot) as picture:
            picture.convert("RGB").save(args.output, quality=82, optimize=True)
    print(f"{args.output}: {args.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
