"""The demo: a viewer has its photograph edited by another program, and gets over its death.

The viewer starts editor.py and hands it a photograph, then asks for six edits. Request and result
travel as plain data, pixels included, and each result must equal the same edit made here. In the
middle of the third edit the viewer kills the editor: waiting for the result ends at once, with
`PeerGone`. It starts the editor again, repeats the edit and goes on.

No call here has a timeout. A wait ends with the message or with the other program, so that there
is nothing to guess.

    python viewer.py [IMAGE] [--output SHEET.png]
"""

import argparse
import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import alongside

GET_EXTRA = "pip install 'alongside[demo]'"
try:
    import contact_sheet
    import edits
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:
    sys.exit(f"viewer.py: {error}; the demo edits pictures with Pillow: {GET_EXTRA}")

EDITOR = Path(__file__).with_name("editor.py")

STEPS = [
    ("blur", {"radius": 6}),
    ("rotate", {"degrees": 12}),
    ("paint", {"brush": 9}),
    ("thumbnail", {"mode": "L", "scale": 0.5}),
    ("brighten", {"factor": 1.5}),
    ("mirror", {}),
]
# The editor is killed during this one.
FATAL = 2


class Exchange(NamedTuple):
    """One request, its result, and how long that took."""

    edit: str
    parameters: dict
    picture: Image.Image
    exchange_s: float
    computed_s: float
    is_identical: bool


def main():
    # The name of a file need not be text, and the terminal need not know every letter.
    sys.stdout.reconfigure(errors="backslashreplace")
    arguments = parse_arguments()
    path = arguments.image or sample_photograph()
    photograph = load(path)
    print(f"{path.name}, {describe(photograph)}\n")
    try:
        exchanges = edit_elsewhere(photograph)
    except alongside.AlongsideError as error:
        sys.exit(f"viewer.py: {error}")
    print_table(exchanges)
    save_sheet(photograph, exchanges, arguments.output or new_file())
    if not all(each.is_identical for each in exchanges):
        sys.exit("viewer.py: a picture from the editor is not the one made here")


# ---- with the editor -------------------------------------------------------------------------


def edit_elsewhere(photograph):
    """Have all edits made by the editor, which does not survive the third."""
    with start_editor(photograph) as editor:
        exchanges = [ask(editor, photograph, *step) for step in STEPS[:FATAL]]
        kill_during(editor, photograph, *STEPS[FATAL])
    with start_editor(photograph) as editor:
        exchanges += [ask(editor, photograph, *step) for step in STEPS[FATAL:]]
    editor.wait()
    return exchanges


def start_editor(photograph):
    """Start the editor with the photograph, and see that it has arrived."""
    begin = time.perf_counter()
    editor = alongside.start([sys.executable, EDITOR], hello=edits.pack(photograph))
    if editor.receive() != edits.pack(photograph):
        sys.exit("viewer.py: the photograph did not come back as it went")
    passed = duration(time.perf_counter() - begin)
    print(f"started the editor, pid {editor.peer.pid}")
    print(f"    the photograph was there and back after {passed}")
    return editor


def ask(editor, picture, edit, parameters):
    """Have one edit made, and make it here too."""
    message = request(picture, edit, parameters)
    begin = time.perf_counter()
    editor.send(message)
    editor.receive()  # it has begun
    reply = editor.receive()
    exchange_s = time.perf_counter() - begin
    expected = edits.pack(edits.apply(picture, edit, parameters))
    return Exchange(
        edit,
        parameters,
        edits.unpack(reply["picture"]),
        exchange_s,
        reply["computed_s"],
        reply["picture"] == expected,
    )


def kill_during(editor, picture, edit, parameters):
    """Kill the editor when it has begun an edit, and say how fast that was noticed."""
    editor.send(request(picture, edit, parameters))
    begun = editor.receive()["begun"]
    killed = time.perf_counter()
    editor.kill()
    try:
        while True:  # the result for a tiny picture can have been faster than the signal
            editor.receive()
    except alongside.PeerGone as gone:
        noticed = duration(time.perf_counter() - killed)
        print(f"killed the editor during '{begun}'")
        print(f"    noticed after {noticed}: {gone}")


def request(picture, edit, parameters):
    return {"edit": edit, "parameters": parameters, "picture": edits.pack(picture)}


# ---- files -----------------------------------------------------------------------------------


def parse_arguments():
    parser = argparse.ArgumentParser(description="Have a picture edited by another program.")
    parser.add_argument("image", nargs="?", type=Path, help="a photograph of matplotlib's if none")
    parser.add_argument("--output", type=Path, help="where the contact sheet goes, as PNG")
    return parser.parse_args()


def sample_photograph():
    """Give the photograph that matplotlib ships; matplotlib itself need not be loaded."""
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is None:
        sys.exit(f"viewer.py: name an image, or get the one that matplotlib has: {GET_EXTRA}")
    return Path(matplotlib.origin).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"


def load(path):
    """Read a picture, upright and in a mode that every edit takes."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        sys.exit(f"viewer.py: {path} is not an image")
    except OSError as error:
        sys.exit(f"viewer.py: cannot read {path}: {error.strerror or error}")
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        sys.exit(f"viewer.py: cannot read {path}: {error}")
    if upright.mode in ("L", "RGB", "RGBA"):
        return upright
    return upright.convert("RGBA" if upright.has_transparency_data else "RGB")


def new_file():
    return Path(tempfile.mkdtemp(prefix="alongside-demo-")) / "contact-sheet.png"


def save_sheet(photograph, exchanges, path):
    labelled = [
        (each.picture, f"{each.edit} {arguments_text(each.parameters)}", describe(each.picture))
        for each in exchanges
    ]
    sheet = contact_sheet.draw([(photograph, "original", describe(photograph)), *labelled])
    try:
        sheet.save(path, format="PNG")
    except OSError as error:
        sys.exit(f"viewer.py: cannot write {path}: {error.strerror or error}")
    print(f"\ncontact sheet: {path}")


# ---- text ------------------------------------------------------------------------------------


def print_table(exchanges):
    row = "{:<10} {:<18} {:<17} {:>9} {:>9} {:>10}   {}".format
    print()
    print(row("edit", "with", "result", "exchange", "computed", "on the way", "identical"))
    for each in exchanges:
        print(
            row(
                each.edit,
                arguments_text(each.parameters),
                describe(each.picture),
                duration(each.exchange_s),
                duration(each.computed_s),
                duration(each.exchange_s - each.computed_s),
                yes(each.is_identical),
            )
        )


def arguments_text(parameters):
    return " ".join(f"{name}={value}" for name, value in parameters.items())


def describe(picture):
    return f"{picture.width} x {picture.height} {picture.mode}"


def duration(seconds):
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def yes(is_so):
    return "yes" if is_so else "NO"


if __name__ == "__main__":
    main()
