"""Real Tk and Qt programs: a callback changes a widget, on the right thread."""

import os
import subprocess
import sys
import textwrap

import pytest

HEAD = """
import faulthandler, logging, os, subprocess, sys, threading
faulthandler.dump_traceback_later(100, exit=True)
import alongside
from alongside import loops
ECHO = "import alongside\\nfor m in (s := alongside.session()): s.send(m)"
session = alongside.start([sys.executable, "-c", ECHO])
here = threading.get_ident()
"""


def run(source, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HEAD + textwrap.dedent(source)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def tk(display):
    return lambda source: run(
        "import tkinter\nroot = tkinter.Tk()\nlabel = tkinter.Label(root)\nlabel.pack()\n"
        + textwrap.dedent(source),
        DISPLAY=display,
    )


def test_a_callback_changes_a_tk_widget_on_the_main_thread(tk):
    tk(
        """
        seen = []
        def arrived(text):
            label.config(text=text)
            seen.append((label.cget("text"), threading.get_ident()))
            if len(seen) == 100:
                root.quit()
        session.on_message(arrived, on=loops.Tk(root))
        root.after(0, lambda: [session.send(str(i)) for i in range(100)])
        root.mainloop()
        assert seen == [(str(i), here) for i in range(100)], seen
        assert threading.active_count() == 1
        session.close()
        """
    )


def test_a_flood_does_not_freeze_a_tk_window(tk):
    tk(
        """
        flood = alongside.start([sys.executable, "-c",
            "import alongside\\ns = alongside.session()\\nwhile True: s.send(b'x')"])
        counts = []
        count = 0
        def arrived(_):
            global count
            count += 1
        flood.on_message(arrived, on=loops.Tk(root))
        drawn = []
        def tick():
            counts.append(count)
            root.after_idle(lambda: drawn.append(count))
            root.quit() if len(drawn) >= 10 else root.after(1, tick)
        root.after(1, tick)
        root.mainloop()
        assert counts[-1] > 1000
        flood.on_message(None)
        flood.kill()
        flood.wait()
        flood.close(timeout=0)
        session.close()
        """
    )


def test_the_death_of_a_program_reaches_tk(tk):
    tk(
        """
        ended = []
        def closed(reason):
            ended.append(reason)
            root.quit()
        session.on_close(closed, on=loops.Tk(root))
        root.after(0, session.kill)
        root.mainloop()
        assert ended[0].exit_status == -9
        """
    )


def test_a_tk_window_that_is_destroyed_leaves_the_messages_receivable(tk):
    done = tk(
        """
        session.on_message(print, on=loops.Tk(root))
        root.after(0, root.destroy)
        root.mainloop()
        session.send(1)
        assert session.receive() == 1
        try:
            session.on_message(print, on=loops.Tk(root))
        except RuntimeError as error:
            assert "loops.Tk(.) is closed" in str(error), error
        else:
            raise AssertionError
        assert session.lent_bytes == 0
        session.close()
        """
    )
    assert "loops.Tk(.)" in done.stderr
    assert "can be received" in done.stderr


def test_tk_takes_callbacks_only_from_its_thread(tk):
    tk(
        """
        place = loops.Tk(root)
        caught = []
        def elsewhere():
            try:
                session.on_message(print, on=place)
            except RuntimeError as error:
                caught.append(str(error))
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert "from the thread that it runs in" in caught[0]
        session.close()
        """
    )


def test_tk_takes_no_descriptors_beyond_its_bound_and_recovers(tk):
    tk(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        many = [os.dup(0) for _ in range(1100)]
        try:
            session.on_message(print, on=loops.Tk(root))
        except OSError as error:
            assert "Tk watches descriptors below 1024" in str(error)
        else:
            raise AssertionError
        for fd in many:
            os.close(fd)
        got = []
        session.on_message(lambda m: (got.append(m), root.quit()), on=loops.Tk(root))
        session.send(1)
        root.mainloop()
        assert got == [1]
        session.close()
        """
    )


def test_a_tk_window_that_is_destroyed_takes_its_names_and_watches_with_it(tk):
    tk(
        """
        name = f"window/{os.getpid()}"
        registration = alongside.publish(name, lambda data, session: None, on=loops.Tk(root))
        watch = alongside.watch(name)
        seen = []
        def changed(change):
            seen.append(change.kind)
            root.destroy()
        watch.on_change(changed, on=loops.Tk(root))
        root.mainloop()
        assert seen == ["appeared"], seen
        assert alongside.find(name) is None
        # What else happens goes to whoever asks.
        assert watch.next(timeout=60).kind == "vanished"
        session.close()
        """
    )


def test_a_part_of_a_window_that_is_destroyed_takes_no_callbacks(tk):
    tk(
        """
        part = tkinter.Frame(root)
        part.destroy()
        try:
            session.on_message(print, on=loops.Tk(part))
        except RuntimeError as error:
            assert "is closed" in str(error)
        else:
            raise AssertionError
        session.close()
        """
    )


MOVE = """
        begun, go_on = threading.Event(), threading.Event()
        got = []
        def slow(message):
            begun.set()
            go_on.wait()
        def arrived(message):
            got.append((message, threading.get_ident()))
            if len(got) == 2:
                {quit}
        session.on_message(slow)
        for number in range(3):
            session.send(number)
        begun.wait()
        session.on_message(arrived, on={place})
        go_on.set()
        {run}
        assert got == [(1, here), (2, here)], got
        session.close()
"""


def test_callbacks_move_to_tk_amid_one_in_the_librarys_thread(tk):
    tk(MOVE.format(place="loops.Tk(root)", run="root.mainloop()", quit="root.quit()"))


def test_a_session_of_a_tk_program_may_be_closed_in_another_thread(tk):
    tk(
        """
        session.on_message(print, on=loops.Tk(root))
        def elsewhere():
            session.close()
            root.after(0, root.quit)
        root.after(0, lambda: threading.Thread(target=elsewhere).start())
        root.mainloop()
        """
    )


@pytest.fixture(params=["PySide6", "PyQt6"])
def qt(request):
    binding = request.param
    pytest.importorskip(f"{binding}.QtWidgets")

    def start(source):
        return run(
            f"from {binding}.QtWidgets import QApplication, QLabel\n"
            f"from {binding}.QtCore import QTimer\n"
            "app = QApplication([])\nlabel = QLabel()\nlabel.show()\n" + textwrap.dedent(source),
            QT_QPA_PLATFORM="offscreen",
        )

    return start


def test_a_callback_changes_a_qt_widget_on_the_main_thread(qt):
    qt(
        """
        seen = []
        def arrived(text):
            label.setText(text)
            seen.append((label.text(), threading.get_ident()))
            if len(seen) == 100:
                app.quit()
        session.on_message(arrived, on=loops.Qt(app))
        QTimer.singleShot(0, lambda: [session.send(str(i)) for i in range(100)])
        app.exec()
        assert seen == [(str(i), here) for i in range(100)], seen
        assert threading.active_count() == 1
        session.close()
        """
    )


def test_a_flood_does_not_freeze_a_qt_window(qt):
    qt(
        """
        flood = alongside.start([sys.executable, "-c",
            "import alongside\\ns = alongside.session()\\nwhile True: s.send(b'x')"])
        counts = []
        count = 0
        def arrived(_):
            global count
            count += 1
        flood.on_message(arrived, on=loops.Qt(app))
        drawn = []
        class Shown(QLabel):
            def paintEvent(self, event):
                drawn.append(count)
        shown = Shown()
        shown.show()
        timer = QTimer()
        def tick():
            counts.append(count)
            shown.update()
            if len(drawn) >= 10:
                app.quit()
        timer.timeout.connect(tick)
        timer.start(1)
        app.exec()
        assert counts[-1] > 1000
        flood.on_message(None)
        flood.kill()
        flood.wait()
        flood.close(timeout=0)
        session.close()
        """
    )


def test_the_death_of_a_program_reaches_qt(qt):
    qt(
        """
        ended = []
        def closed(reason):
            ended.append(reason)
            app.quit()
        session.on_close(closed, on=loops.Qt(app))
        QTimer.singleShot(0, session.kill)
        app.exec()
        assert ended[0].exit_status == -9
        """
    )


def test_a_qt_application_runs_callbacks_in_every_exec(qt):
    qt(
        """
        got = []
        session.on_message(lambda m: (got.append(m), app.quit()), on=loops.Qt(app))
        for number in range(3):
            session.send(number)
            app.exec()
        assert got == [0, 1, 2], got
        session.on_message(None)
        session.send("free")
        assert session.receive() == "free"
        session.close()
        """
    )


def test_what_is_no_application_is_refused(qt):
    qt(
        """
        for wrong in (label, 5, None):
            try:
                loops.Qt(wrong)
            except TypeError as error:
                assert "no application" in str(error)
            else:
                raise AssertionError
        session.close()
        """
    )


def test_callbacks_move_to_qt_amid_one_in_the_librarys_thread(qt):
    qt(MOVE.format(place="loops.Qt(app)", run="app.exec()", quit="app.quit()"))


def test_qt_takes_callbacks_only_from_its_thread(qt):
    qt(
        """
        caught = []
        def elsewhere():
            try:
                session.on_message(print, on=loops.Qt(app))
            except RuntimeError as error:
                caught.append(str(error))
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert "from the thread that it runs in" in caught[0]
        got = []
        session.on_message(lambda m: (got.append(m), app.quit()), on=loops.Qt(app))
        session.send(1)
        app.exec()
        assert got == [1]
        session.close()
        """
    )


def test_names_and_watches_of_others_come_to_a_qt_window(qt):
    qt(
        """
        import subprocess
        name = f"window/{os.getpid()}"
        seen = []
        def arrived(data, caller):
            label.setText(data)
            seen.append((data, threading.get_ident()))
            app.quit()
        def changed(change):
            seen.append((change.kind, threading.get_ident()))
        registration = alongside.publish(name, arrived, on=loops.Qt(app))
        watch = alongside.watch(name)
        watch.on_change(changed, on=loops.Qt(app))
        source = f"import alongside; alongside.send_to({name!r}, 'hello', wait=True)"
        other = subprocess.Popen([sys.executable, "-c", source])
        app.exec()
        assert sorted(seen) == [("appeared", here), ("hello", here)], seen
        assert label.text() == "hello"
        # The answer is given when the handler has ended, and that is here.
        assert other.wait() == 0
        watch.close()
        registration.revoke()
        session.close()
        """
    )


VISIT = """
        instance = alongside.only("window-visited")
        seen = []
        def came(visit):
            seen.append(threading.get_ident())
            label.{set}({text}visit.argv[0])
            {quit}()
        instance.on_other(came, on=loops.{loop})
        later = "import alongside; alongside.only('window-visited', argv=['x'], timeout=60)"
        other = subprocess.Popen([sys.executable, "-c", later])
        {run}()
        assert other.wait() == 0
        assert seen == [here], seen
        instance.close()
        session.close()
        """


def test_a_later_instance_is_shown_in_a_tk_window(tk, scope):
    tk(
        VISIT.format(
            set="config", text="text=", quit="root.quit", loop="Tk(root)", run="root.mainloop"
        )
    )


def test_a_later_instance_is_shown_in_a_qt_window(qt, scope):
    qt(VISIT.format(set="setText", text="", quit="app.quit", loop="Qt(app)", run="app.exec"))
