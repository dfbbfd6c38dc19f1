#!/usr/bin/env python3
"""Makes core/data/emoji.webp and core/data/emoji.json: one set of emoji, drawn by two vendors.

    pip install pillow
    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    python3 tools/make_emoji.py emoji-datasource-google-16.0.0.tgz emoji-datasource-twitter-16.0.0.tgz

Every emoji that both vendors draw, without its skin-tone variations, at 32x32 on white. The sheet's cells run row
by row: first all of Noto, then all of Twemoji in the same order.

Licences of the pictures: Noto Emoji, Apache-2.0 (Google); Twemoji, CC-BY-4.0 (Twitter and contributors).
"""

import io
import json
import sys
import tarfile
from pathlib import Path

from PIL import Image

SIDE = 32  # pixels per side, as in the vendors' own 32 px sheets
PADDING = 1  # transparent pixels around each cell of emoji-datasource's sheets
COLUMNS = 64  # of the sheet made here
DATA = Path(__file__).resolve().parent.parent / "core" / "data"


def read(package, vendor):
    with tarfile.open(package) as archive:
        sheet = archive.extractfile(f"package/img/{vendor}/sheets-clean/32.png").read()
        emoji = json.load(archive.extractfile("package/emoji.json"))
    return Image.open(io.BytesIO(sheet)).convert("RGBA"), emoji


def cell(sheet, emoji):
    pitch = SIDE + 2 * PADDING
    left, top = emoji["sheet_x"] * pitch + PADDING, emoji["sheet_y"] * pitch + PADDING
    picture = sheet.crop((left, top, left + SIDE, top + SIDE))
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    noto, emoji = read(sys.argv[1], "google")
    twemoji, _ = read(sys.argv[2], "twitter")
    emoji = [e for e in emoji if e["has_img_google"] and e["has_img_twitter"] and e["category"] != "Component"]
    emoji.sort(key=lambda e: e["sort_order"])

    count = 2 * len(emoji)
    sheet = Image.new("RGB", (COLUMNS * SIDE, -(-count // COLUMNS) * SIDE), "white")
    pictures = [cell(vendor, e) for vendor in (noto, twemoji) for e in emoji]
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % COLUMNS * SIDE, i // COLUMNS * SIDE))
    sheet.save(DATA / "emoji.webp", lossless=True, quality=100, method=6)

    categories = sorted({e["category"] for e in emoji})
    table = {
        "categories": categories,
        "names": [(e["name"] or e["short_name"]).lower() for e in emoji],
        "category": [categories.index(e["category"]) for e in emoji],
    }
    (DATA / "emoji.json").write_text(json.dumps(table, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{len(emoji)} emoji by two vendors, {(DATA / 'emoji.webp').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
