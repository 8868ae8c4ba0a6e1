"""The contact sheet of the demo: the original, large, and beside it the pictures made from it.

The pictures share one scale, so that one of half the size is seen to be half the size.
Nothing here is about alongside.
"""

from PIL import Image, ImageDraw, ImageFont

GAP = 20
SIDE = 260
LABEL = 52
COLUMNS = 3
ROWS = 2

BACKGROUND = "#eceef1"
TITLE = ("black", ImageFont.load_default(17))
DETAIL = ("#6b6f76", ImageFont.load_default(14))


def places():
    """Give the boxes for the pictures: (left, top, right, bottom), the original's first."""
    step = SIDE + LABEL + GAP
    large = ROWS * step - GAP - LABEL
    boxes = [(GAP, GAP, GAP + large, GAP + large)]
    for number in range(ROWS * COLUMNS):
        row, column = divmod(number, COLUMNS)
        left, top = 2 * GAP + large + column * (SIDE + GAP), GAP + row * step
        boxes.append((left, top, left + SIDE, top + SIDE))
    return boxes


def draw(labelled):
    """Give the sheet of one original and six results, each (picture, title, detail)."""
    boxes = places()
    right, bottom = boxes[-1][2:]
    sheet = Image.new("RGB", (right + GAP, bottom + LABEL + GAP // 2), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    scale = min(fitting(picture, boxes[-1]) for picture, _, _ in labelled[1:])
    scales = [fitting(labelled[0][0], boxes[0])] + [scale] * (len(labelled) - 1)
    for (picture, title, detail), box, factor in zip(labelled, boxes, scales, strict=True):
        place(sheet, scaled(picture, factor), box)
        label(pen, box, title, detail)
    return sheet


def fitting(picture, box):
    """Give the largest scale at which a picture fits into a box."""
    left, top, right, bottom = box
    return min((right - left) / picture.width, (bottom - top) / picture.height)


def scaled(picture, factor):
    size = tuple(max(1, int(side * factor)) for side in picture.size)
    # A picture of few pixels shows them.
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    return picture.convert("RGBA").resize(size, how)


def place(sheet, picture, box):
    """Put a picture on the sheet, at the bottom of its box and in the middle."""
    left, _, right, bottom = box
    corner = (left + (right - left - picture.width) // 2, bottom - picture.height)
    sheet.paste(picture, corner, mask=picture)


def label(pen, box, title, detail):
    left, _, right, bottom = box
    middle = (left + right) / 2
    for (colour, font), text, below in ((TITLE, title, 18), (DETAIL, detail, 39)):
        pen.text((middle, bottom + below), text, fill=colour, font=font, anchor="mm")
