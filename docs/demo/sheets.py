"""The demo's images as two contact sheets: one row for each class, so that fifteen hundred small images are two files.

python docs/demo/sheets.py pack IMAGES     # from IMAGES/<class>/: how train.jpg and validation.jpg were made
python docs/demo/sheets.py unpack OUT      # to OUT/train/<class>/ and OUT/validation/<class>/
"""

import argparse
from itertools import islice
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = 32  # pixels; a multiple of JPEG's 16-pixel blocks, so that no image shows traces of its neighbours
COLUMNS = {"train": 100, "validation": 50}
QUALITY = 80


def pack(images: Path, out: Path) -> None:
    """Draw the first images of every class, in the order of their names, into one sheet for each split."""
    files = {name: iter(sorted((images / name).iterdir())) for name in CLASSES}
    for split, columns in COLUMNS.items():
        sheet = Image.new("RGB", (columns * SIZE, len(CLASSES) * SIZE))
        for row, name in enumerate(CLASSES):
            for column, file in enumerate(islice(files[name], columns)):
                with Image.open(file) as image:
                    sheet.paste(image, (column * SIZE, row * SIZE))
        sheet.save(out / f"{split}.jpg", quality=QUALITY, optimize=True)


def unpack(sheets: Path, out: Path) -> int:
    """Cut the sheets into image folders that timm reads as they are; the number of images."""
    count = 0
    for split, columns in COLUMNS.items():
        with Image.open(sheets / f"{split}.jpg") as sheet:
            for row, name in enumerate(CLASSES):
                folder = out / split / name
                folder.mkdir(parents=True, exist_ok=True)
                for column in range(columns):
                    left, top = column * SIZE, row * SIZE
                    sheet.crop((left, top, left + SIZE, top + SIZE)).save(folder / f"{column:03d}.png")
                    count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("pack").add_argument("images", type=Path)
    commands.add_parser("unpack").add_argument("out", type=Path)
    args = parser.parse_args()
    if args.command == "pack":
        pack(args.images, HERE)
    else:
        print(f"{unpack(HERE, args.out)} images -> {args.out}")


if __name__ == "__main__":
    main()
