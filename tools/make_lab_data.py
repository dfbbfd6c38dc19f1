#!/usr/bin/env python3
"""Makes small copies of large files for the lab: web/data/emoji.webp and web/data/inter.otf.

    apt-get install fonts-inter               (Debian; or Inter-Regular.otf from github.com/rsms/inter)
    pip install pillow fonttools
    python3 tools/make_lab_data.py /usr/share/fonts/opentype/inter/Inter-Regular.otf

The emoji are core/data/emoji.webp with lossy compression, in a fifth of the bytes; the loss is not visible at 32
pixels. The font keeps the letters of Western languages, Greek, and the signs that the panel uses.
"""

import sys
from pathlib import Path

from fontTools import subset
from PIL import Image

QUALITY = 40
LETTERS = [*range(0x20, 0x7F), *range(0xA0, 0x180), *range(0x391, 0x3CA)]
SIGNS = "–—‖‘’‚“”„«»•…←→↑↓↺↻−√×²≠☀■□▶◀●✓"
ROOT = Path(__file__).resolve().parent.parent


def main(font):
    sheet = Image.open(ROOT / "core/data/emoji.webp").convert("RGB")
    emoji = ROOT / "web/data/emoji.webp"
    sheet.save(emoji, "WEBP", quality=QUALITY, method=6)

    options = subset.Options()
    # Kerning stays; alternative forms of letters go.
    options.layout_features = ["kern", "mark", "mkmk", "ccmp"]
    options.hinting = False
    loaded = subset.load_font(font, options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=LETTERS + [ord(sign) for sign in SIGNS])
    subsetter.subset(loaded)
    inter = ROOT / "web/data/inter.otf"
    subset.save_font(loaded, inter, options)
    for made in (emoji, inter):
        print(f"{made}: {made.stat().st_size >> 10} KB")


if __name__ == "__main__":
    main(sys.argv[1])
