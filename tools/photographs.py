"""Makes sets of freely licensed photographs from Debian's packages of wallpapers, to judge `barlow train --preset photos`.

    pip install pillow
    python3 tools/photographs.py OUT                  # 37 photographs, whole, in OUT
    python3 tools/photographs.py OUT --parts 11       # 407 pictures: 11 parts of each, in one folder per photograph
    python3 tools/photographs.py OUT --parts 108 --only odd

Parts are squares of a grid, which do not overlap. With one folder per photograph, `barlow train` evaluates whether a part finds others of
the same photograph: of the same place or thing. It needs Debian's `apt-get` and `dpkg`, and downloads 200 MB, for which each package's
`copyright` file has the licences (CC BY-SA, GPL and others). Nothing of it is copied into this project.
"""

import argparse
import pathlib
import subprocess
import tempfile

from PIL import Image

# By package: below usr/share, where which photographs are. Other wallpapers of these packages are drawings.
PHOTOGRAPHS = {
    "lomiri-wallpapers-16.04": "wallpapers/{}.jpg:Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace "
    "Picture_1A_by_freespace Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich friends_by_Aitzol_Berasategi "
    "greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt "
    "sunset_by_Aitzol_Berasategi",
    "lomiri-wallpapers-20.04": "wallpapers/{}.jpg:Kleiber_by_Lukas_Baubkus",
    "mate-backgrounds": "backgrounds/mate/nature/{}.jpg:Aqua Blinds Dune Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood "
    "YellowFlower",
    "plasma-workspace-wallpapers": "wallpapers/{}/contents/images:BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf "
    "Grey Kite OneStandsOut Path Volna summer_1am",
}
# Pixels per side of a part, at most.
SIDE = 256


def photographs(place):
    """The path of each photograph by its name; packages are unpacked in `place`."""
    found = {}
    for package, names in PHOTOGRAPHS.items():
        subprocess.run(["apt-get", "download", "-qq", package], cwd=place, check=True, stderr=subprocess.DEVNULL)
        (archive,) = place.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", archive, place], check=True)
        pattern, names = names.split(":")
        for name in names.split():
            path = place / "usr/share" / pattern.format(name)
            if path.is_dir():
                # The largest of several sizes.
                path = max(path.glob("*.jpg"), key=lambda file: file.stat().st_size)
            elif not path.exists():
                (path,) = place.glob(f"usr/share/**/{name}.jpg")
            found[name.split("_by_")[0]] = path
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def parts(picture, count):
    """`count` squares of the picture that do not overlap, as large as possible, evenly spread over it."""
    width, height = picture.size
    side = max(s for s in range(1, min(width, height) + 1) if (width // s) * (height // s) >= count)
    columns, rows = width // side, height // side
    for k in range(count):
        row, column = divmod(k * columns * rows // count, columns)
        left, top = (width - columns * side) // 2 + column * side, (height - rows * side) // 2 + row * side
        yield picture.crop((left, top, left + side, top + side))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("out", type=pathlib.Path)
    arguments.add_argument("--parts", type=int, default=0, help="parts of each photograph; without it, whole ones")
    arguments.add_argument("--only", choices=["even", "odd"], help="every second photograph")
    arguments = arguments.parse_args()
    count = 0
    with tempfile.TemporaryDirectory() as place:
        chosen = list(photographs(pathlib.Path(place)).items())
        if arguments.only:
            chosen = chosen[("even", "odd").index(arguments.only)::2]
        for name, path in chosen:
            picture = Image.open(path).convert("RGB")
            folder = arguments.out / name if arguments.parts else arguments.out
            folder.mkdir(parents=True, exist_ok=True)
            if not arguments.parts:
                picture.thumbnail((1024, 1024))
                picture.save(folder / f"{name}.jpg", quality=92)
                count += 1
            for number, part in enumerate(parts(picture, arguments.parts) if arguments.parts else []):
                part.thumbnail((SIDE, SIDE))
                part.save(folder / f"{number:03}.jpg", quality=92)
                count += 1
    print(f"{count} pictures of {len(chosen)} photographs in {arguments.out}")


if __name__ == "__main__":
    main()
