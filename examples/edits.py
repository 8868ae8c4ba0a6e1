"""What viewer.py and editor.py have in common: the edits, and how a picture travels.

A picture travels as plain data - mode, size and the bare pixels - because that is all another
program needs to know, in whatever language it is written. Nothing is encoded on the way, so what
arrives can be compared byte by byte.

This file knows nothing of sessions: an edit takes a picture and gives a new one.
"""

from PIL import Image, ImageEnhance, ImageFilter, ImageOps


def blur(picture, *, radius):
    return picture.filter(ImageFilter.GaussianBlur(radius))


def rotate(picture, *, degrees):
    return picture.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor="white")


def paint(picture, *, brush):
    """Each pixel becomes the commonest around it; by far the slowest of the edits."""
    return picture.filter(ImageFilter.ModeFilter(brush))


def thumbnail(picture, *, mode, scale):
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.convert(mode).resize((width, height), Image.Resampling.LANCZOS)


def brighten(picture, *, factor):
    return ImageEnhance.Brightness(picture).enhance(factor)


def mirror(picture):
    return ImageOps.mirror(picture)


EDITS = {edit.__name__: edit for edit in (blur, rotate, paint, thumbnail, brighten, mirror)}


def apply(picture, edit, parameters):
    """Give the picture that the edit of this name makes."""
    return EDITS[edit](picture, **parameters)


def pack(picture):
    """Give a picture as data that can be sent."""
    return {"mode": picture.mode, "size": list(picture.size), "pixels": picture.tobytes()}


def unpack(data):
    """Give the picture that `pack` made into data."""
    return Image.frombytes(data["mode"], tuple(data["size"]), data["pixels"])
