"""A camera, as far as programs see it: it fills frames in place and sends them as fast as it can.

Started by camera_statistics.py and camera_window.py. Each frame is filled in memory of the session
(`lend`), so sending it moves nothing; the memory is used again when the other program has let the
frame go. How far the camera may run ahead is said by `lend_limit`.
"""

import alongside
import numpy as np

FRAMES_AHEAD = 4


def main():
    session = alongside.session(required=True)
    height, width = session.hello["height"], session.hello["width"]
    session.lend_limit = FRAMES_AHEAD * height * width * 3
    picture = scene(height, width)
    number = 0
    try:
        while True:
            with session.lend((height, width, 3), "u1") as frame:
                expose(frame, picture, number)
                session.send({"number": number, "frame": frame})
            number += 1
    except alongside.SessionEnded:
        print(f"camera: {number} frames taken")


def scene(height, width):
    """Give a colourful plane, twice as wide as the frame that moves over it."""
    y, x = np.mgrid[0:height, 0 : 2 * width]
    return np.stack([x * 255 // (2 * width), y * 255 // height, (x ^ y) & 255], axis=-1).astype(
        "u1"
    )


def expose(frame, picture, number):
    """Fill a frame with what the camera sees at the moment."""
    left = number * 3 % frame.shape[1]
    np.copyto(frame, picture[:, left : left + frame.shape[1]])


if __name__ == "__main__":
    main()
