"""A Tk window that shows what a camera sees, and how fast.

    python camera_window.py [--frames N]

Frames arrive as callbacks in Tk's own loop (`on=loops.Tk(root)`), where widgets may be changed.
While the window draws, the camera waits: it is at most a few frames ahead. If the camera dies the
window says so. With --frames it closes after so many.
"""

import argparse
import sys
import time
import tkinter
from pathlib import Path

import alongside
from alongside import loops

CAMERA = Path(__file__).with_name("camera.py")
SIZE = {"width": 320, "height": 240}


class Window:
    """The window, and what it has shown so far."""

    def __init__(self, root, limit):
        self.root = root
        self.limit = limit
        self.shown = 0
        self.began = time.perf_counter()
        self.picture = tkinter.PhotoImage(width=SIZE["width"], height=SIZE["height"])
        tkinter.Label(root, image=self.picture).pack()
        self.text = tkinter.Label(root, text="waiting for the camera")
        self.text.pack()

    def show(self, message):
        """Draw one frame."""
        if self.shown == self.limit:
            return
        head = f"P6 {SIZE['width']} {SIZE['height']} 255 ".encode()
        self.picture.configure(data=head + message["frame"].tobytes(), format="PPM")
        self.shown += 1
        rate = self.shown / (time.perf_counter() - self.began)
        self.text.configure(text=f"frame {message['number']}, {rate:.0f} frames/s")
        if self.shown == self.limit:
            self.root.after_idle(self.root.quit)

    def say_the_end(self, reason):
        """Write what became of the camera."""
        self.text.configure(text=str(reason).splitlines()[0])
        print(f"the camera is gone: {reason}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=0, help="close after so many")
    arguments = parser.parse_args()
    root = tkinter.Tk()
    root.title("camera")
    window = Window(root, arguments.frames)
    with alongside.start([sys.executable, CAMERA], hello=SIZE, die_with_parent=True) as camera:
        camera.on_close(window.say_the_end, on=loops.Tk(root))
        camera.on_message(window.show)
        root.protocol("WM_DELETE_WINDOW", root.quit)
        print(f"camera pid {camera.peer.pid}", flush=True)
        root.mainloop()
        print(f"{window.shown} frames shown: {window.text.cget('text')}", flush=True)
    root.destroy()


if __name__ == "__main__":
    main()
