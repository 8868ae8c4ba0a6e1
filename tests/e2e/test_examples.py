"""The examples do what their heads say, run as a newcomer runs them."""

import importlib.util
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

EXAMPLES = Path(__file__).parents[2] / "examples"
NEVER_DONE = ["--below", "1000000000000"]

# Every warning is an error, in the started programs too: a session left open would show.
ENVIRONMENT = {
    **os.environ,
    "PYTHONUTF8": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "error",
}


def example(name, *arguments, **options):
    return finished([sys.executable, EXAMPLES / f"{name}.py", *arguments], **options)


def viewer_with(change, *arguments):
    """Run the viewer in a world that is different in one thing."""
    source = f"import sys; sys.path.insert(0, {os.fspath(EXAMPLES)!r})\n{change}\n"
    return finished([sys.executable, "-c", f"{source}import viewer; viewer.main()", *arguments])


def finished(command, **variables):
    environment = ENVIRONMENT | variables
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", env=environment, check=False
    )


def started(name, *arguments):
    return subprocess.Popen(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=ENVIRONMENT,
    )


def line_with(stream, pattern):
    """Read on to the line that matches."""
    return next(found for line in stream if (found := re.search(pattern, line)))


def wait_until_gone(pid):
    """Wait for the end of a process that is not this one's child."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        select.select([handle], [], [])
    finally:
        os.close(handle)


def assert_fails_with_one_line(result, *words):
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr


# ---- the demo --------------------------------------------------------------------------------


def noise(mode, size):
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, size, os.urandom(bands * size[0] * size[1]))


def palette_with_a_hole():
    picture = noise("RGB", (31, 17)).quantize(16)
    picture.info["transparency"] = 3
    return picture


PICTURES = {
    "photograph": None,
    "rgba.png": lambda: noise("RGBA", (13, 37)),
    "grey.png": lambda: noise("L", (641, 3)),
    "pixel.png": lambda: Image.new("RGB", (1, 1)),
    "palette.gif": palette_with_a_hole,
}


class Demo:
    """One whole run of the demo."""

    def __init__(self, directory, name):
        self.path = directory / "sheet.png"
        arguments = ["--output", self.path]
        if make := PICTURES[name]:
            make().save(directory / name)
            arguments.append(directory / name)
        self.result = example("viewer", *arguments)
        self.output = self.result.stdout

    def editors(self):
        return [
            int(pid) for pid in re.findall(r"^started the editor, pid (\d+)", self.output, re.M)
        ]


@pytest.fixture(scope="module", params=PICTURES)
def demo(request, tmp_path_factory):
    return Demo(tmp_path_factory.mktemp("demo"), request.param)


def test_the_demo_survives_the_death_of_its_editor(demo):
    assert (demo.result.returncode, demo.result.stderr) == (0, "")
    first, second = demo.editors()
    assert first != second
    assert "killed the editor during 'paint'" in demo.output
    assert re.search(r"noticed after [\d.]+ (µs|ms): .*signal 9", demo.output)


def test_each_of_the_six_pictures_comes_back_as_it_would_be_made_here(demo):
    rows = re.findall(r"^(\w+) .* [\d.]+ (?:µs|ms) +(yes|NO)$", demo.output, re.M)
    names = ["blur", "rotate", "paint", "thumbnail", "brighten", "mirror"]
    assert rows == [(name, "yes") for name in names]


def test_the_demo_leaves_no_editor_behind(demo):
    for pid in demo.editors():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_contact_sheet_holds_seven_pictures(demo):
    assert f"contact sheet: {demo.path}" in demo.output
    with Image.open(demo.path) as sheet:
        assert sheet.format == "PNG"
        sheet.verify()
    assert len(pictures_on(demo.path)) == 7


def test_the_contact_sheet_shows_the_original_and_what_was_made_of_it(tmp_path):
    demo = Demo(tmp_path, "photograph")
    original, blurred, _, _, thumbnail, _, mirrored = pictures_on(demo.path)
    with Image.open(sample_photograph()) as photograph:
        assert looks_like(original, photograph)
        assert looks_like(mirrored, ImageOps.mirror(photograph))
        assert not looks_like(mirrored, photograph)
    assert abs(blurred.width - 2 * thumbnail.width) <= 2
    red, green, blue = thumbnail.split()
    assert red.tobytes() == green.tobytes() == blue.tobytes()


def pictures_on(path):
    """Cut out what is not background at each place for a picture."""
    spec = importlib.util.spec_from_file_location("contact_sheet", EXAMPLES / "contact_sheet.py")
    contact_sheet = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(contact_sheet)
    with Image.open(path) as sheet:
        cells = [sheet.crop(box) for box in contact_sheet.places()]
    background = [Image.new("RGB", cell.size, contact_sheet.BACKGROUND) for cell in cells]
    boxes = [ImageChops.difference(*pair).getbbox() for pair in zip(cells, background, strict=True)]
    return [cell.crop(box) for cell, box in zip(cells, boxes, strict=True) if box]


def looks_like(picture, other):
    difference = ImageChops.difference(picture, other.resize(picture.size))
    return max(ImageStat.Stat(difference).mean) < 10


def sample_photograph():
    package = Path(importlib.util.find_spec("matplotlib").origin).parent
    return package / "mpl-data" / "sample_data" / "grace_hopper.jpg"


def test_a_photograph_taken_sideways_is_edited_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise("RGB", (40, 30)).save(tmp_path / "sideways.jpg", exif=exif)
    result = example("viewer", tmp_path / "sideways.jpg", "--output", tmp_path / "sheet.png")
    assert "sideways.jpg, 30 x 40 RGB" in result.stdout


def test_a_file_name_need_not_be_text(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.png"
    noise("RGB", (4, 4)).save(os.fsdecode(path))
    result = example("viewer", path, "--output", tmp_path / "sheet.png")
    assert (result.returncode, result.stderr) == (0, "")


def test_without_output_the_sheet_goes_where_temporary_files_go(tmp_path):
    noise("RGB", (4, 4)).save(tmp_path / "small.png")
    result = example("viewer", tmp_path / "small.png", TMPDIR=os.fspath(tmp_path))
    path = Path(re.search(r"^contact sheet: (.*)$", result.stdout, re.M)[1])
    assert path.is_relative_to(tmp_path)
    assert len(pictures_on(path)) == 7


# ---- the demo, badly treated -----------------------------------------------------------------


def bad_inputs():
    whole = sample_photograph().read_bytes()
    return {
        "missing.png": (None, "No such file or directory"),
        "text.png": (b"this is no picture", "is not an image"),
        "empty.jpg": (b"", "is not an image"),
        "half.jpg": (whole[: len(whole) // 2], "truncated"),
    }


@pytest.mark.parametrize("name", bad_inputs())
def test_what_is_no_picture_is_refused_in_one_line(tmp_path, name):
    content, reason = bad_inputs()[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    result = example("viewer", tmp_path / name)
    assert_fails_with_one_line(result, os.fspath(tmp_path / name), reason)
    assert result.stdout == ""


def test_a_directory_is_refused_in_one_line(tmp_path):
    assert_fails_with_one_line(example("viewer", tmp_path), "Is a directory")


def test_a_sheet_that_cannot_be_written_is_an_error_of_one_line(tmp_path):
    noise("RGB", (4, 4)).save(tmp_path / "small.png")
    sheet = tmp_path / "nowhere" / "sheet.png"
    result = example("viewer", tmp_path / "small.png", "--output", sheet)
    assert_fails_with_one_line(result, os.fspath(sheet), "No such file or directory")


def test_without_pillow_the_demo_names_the_extra():
    result = viewer_with("sys.modules['PIL'] = None")
    assert_fails_with_one_line(result, "Pillow", "alongside[demo]")


def test_without_matplotlib_the_demo_names_the_extra():
    result = viewer_with("import importlib.util; importlib.util.find_spec = lambda name: None")
    assert_fails_with_one_line(result, "matplotlib", "alongside[demo]")


def test_the_demo_fails_when_a_picture_is_not_the_one_made_here(tmp_path):
    noise("RGB", (9, 5)).save(tmp_path / "small.png")
    other_mirror = "import edits; edits.EDITS['mirror'] = lambda picture: picture.rotate(180)"
    output = "--output", tmp_path / "sheet.png"
    result = viewer_with(other_mirror, tmp_path / "small.png", *output)
    assert_fails_with_one_line(result, "not the one made here")
    assert re.search(r"^mirror .* NO$", result.stdout, re.M)
    assert result.stdout.count("NO") == 1


def test_an_editor_that_does_not_start_is_an_error_of_one_line(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(3)")
    result = viewer_with(f"import viewer; viewer.EDITOR = {os.fspath(broken)!r}")
    assert_fails_with_one_line(result, "exit status 3")


def test_the_editor_ends_when_its_viewer_is_killed():
    with started("viewer") as viewer:
        editor = int(line_with(viewer.stdout, r"pid (\d+)")[1])
        viewer.kill()
        wait_until_gone(editor)
        assert re.match(r"editor.py: the other program \(pid \d+\) is gone", viewer.stderr.read())


# ---- the small examples ----------------------------------------------------------------------


def test_handover_gets_its_result_from_another_process():
    result = example("handover", "a", "b", "a")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.match(r"3 words, counted by process \d+\n2 x a\n1 x b\n", result.stdout)


def test_the_host_gets_every_answer_from_a_plugin_that_crashes():
    result = example("plugin_host", "ab", "cd", "ef", "gh", "ij")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    answers = [line for line in lines if "->" in line]
    assert answers == ["ab -> ba", "cd -> dc", "ef -> fe", "gh -> hg", "ij -> ji"]
    crashes = [line.split(":")[0] for line in lines if "ended by signal 9" in line]
    assert crashes == ["ef", "ij"]


def test_the_host_gives_up_a_request_that_always_kills_its_plugin():
    result = example("plugin_host", "ab", "poison", "cd")
    assert_fails_with_one_line(result, "no answer to poison")
    assert (
        len(re.findall(r"poison: the other program .* is gone: ended by signal 9", result.stdout))
        == 3
    )
    assert result.stdout.endswith("cd -> dc\n")


def test_the_worker_reports_each_step_and_the_result():
    result = example("worker_progress", "--below", "50000")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1:] == [
        "working: 2262 primes below 20000",
        "working: 4203 primes below 40000",
        "working: 5133 primes below 50000",
        "done: 5133 primes below 50000",
    ]


def test_a_message_cancels_the_worker():
    result = example("worker_progress", *NEVER_DONE, "--cancel-after", "2")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1].startswith("cancelled: ")


def test_a_worker_that_is_done_before_it_is_cancelled_is_no_error():
    result = example("worker_progress", "--below", "10", "--cancel-after", "1")
    assert (result.returncode, result.stderr) == (0, "")
    assert "done: 4 primes below 10" in result.stdout


def test_the_death_of_the_worker_ends_the_wait_for_it():
    with started("worker_progress", *NEVER_DONE) as host:
        worker = int(line_with(host.stdout, r"^process (\d+)")[1])
        line_with(host.stdout, "^working")
        os.kill(worker, signal.SIGKILL)
        _, errors = host.communicate()
    assert host.returncode == 1
    told = r"worker_progress.py: the other program \(pid \d+\) is gone: ended by signal 9\n"
    assert re.fullmatch(told, errors)


def test_the_worker_ends_when_its_host_is_killed():
    with started("worker_progress", *NEVER_DONE) as host:
        worker = int(line_with(host.stdout, r"^process (\d+)")[1])
        line_with(host.stdout, "^working")
        host.kill()
        wait_until_gone(worker)
        assert re.match(r"worker.py: the other program \(pid \d+\) is gone", host.stderr.read())


@pytest.mark.parametrize("name", ["editor", "plugin", "worker"])
def test_a_program_that_others_start_says_so_when_a_person_does(name):
    assert_fails_with_one_line(example(name), f"{name}.py", "which starts it")


# ---- the camera ----------------------------------------------------------------------------------


def test_a_camera_feeds_a_consumer_every_frame_in_order():
    done = example("camera_statistics", "--frames", "200", "--width", "640", "--height", "480")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "200 frames of 640 x 480" in done.stdout
    taken = int(re.search(r"camera: (\d+) frames taken", done.stdout)[1])
    # It runs ahead, but no further than it may.
    assert 200 <= taken <= 200 + 16


def test_a_window_shows_what_a_camera_sees(display):
    done = example("camera_window", "--frames", "50", DISPLAY=display)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.search(r"50 frames shown: frame 49, \d+ frames/s", done.stdout)


def test_a_window_says_that_its_camera_has_died(display):
    window = subprocess.Popen(
        [sys.executable, EXAMPLES / "camera_window.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=ENVIRONMENT | {"DISPLAY": display},
    )
    pid = int(line_with(window.stdout, r"camera pid (\d+)")[1])
    os.kill(pid, signal.SIGKILL)
    assert "ended by signal 9" in line_with(window.stdout, "the camera is gone: (.*)")[1]
    window.kill()
    window.communicate()
