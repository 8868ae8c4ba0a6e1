"""A consumer of camera frames: it computes on each where it lies, at the camera's full rate.

    python camera_statistics.py [--frames 300] [--width 1920] [--height 1080]

The frames arrive as numpy arrays in the camera's own memory. Nothing is copied between the two
programs, however large a frame is.
"""

import argparse
import sys
import time
from pathlib import Path

import alongside

CAMERA = Path(__file__).with_name("camera.py")


def main():
    arguments = parse_arguments()
    size = {"width": arguments.width, "height": arguments.height}
    brightness = []
    with alongside.start([sys.executable, CAMERA], hello=size) as camera:
        began = time.perf_counter()
        for message in camera:
            assert message["number"] == len(brightness), "a frame is missing"
            brightness.append(float(message["frame"][::8, ::8].mean()))
            if len(brightness) == arguments.frames:
                break
        took = time.perf_counter() - began
    camera.wait()
    megabytes = arguments.frames * arguments.width * arguments.height * 3 / 1e6
    print(
        f"{arguments.frames} frames of {arguments.width} x {arguments.height}, "
        f"brightness {min(brightness):.1f} to {max(brightness):.1f}"
    )
    print(f"{arguments.frames / took:.0f} frames/s, {megabytes / took / 1000:.1f} GB/s")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    return parser.parse_args()


if __name__ == "__main__":
    main()
