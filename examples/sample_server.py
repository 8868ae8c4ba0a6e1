"""A server that others can find: it publishes a name and shows what is sent to it, and by whom.

    python sample_server.py [NAME] [--about TEXT] [--terminal]

Start several, also under one name: what stands in the entry field tells them apart, and whoever
watches sees each change of it. server_viewer.py lists them all and sends them texts. The text
"fail" makes the handler raise: a sender that waits sees that, and the server goes on.

With --terminal there is no window: messages are printed, a line that is typed is the new `about`,
and the end of the input ends the program. Nothing has to be tidied up, in whatever way it ends.
"""

import argparse
import os
import sys
import tkinter
from typing import Any

import alongside
from alongside import loops

PREFIX = "SampleServer/"


def main() -> None:
    arguments = parse_arguments()
    run = run_in_the_terminal if arguments.terminal else run_in_a_window
    run(PREFIX + arguments.name, arguments.about)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="?", default="notes", help="is published behind " + PREFIX)
    parser.add_argument("--about", default="", help="what tells this one from the others")
    parser.add_argument("--terminal", action="store_true", help="without a window")
    return parser.parse_args()


def described(data: object, session: alongside.Session) -> str:
    """Say what arrived and who sent it: the kernel's word, not the sender's."""
    return f"{data} - from process {session.peer.pid}"


def handle(data: object) -> None:
    """Do what a real server would; what is raised here reaches a sender that waits."""
    if data == "fail":
        raise ValueError("asked to fail")


# ---- with a window -------------------------------------------------------------------------------


class Window:
    """Shows the messages, the newest at the end."""

    def __init__(self, root: tkinter.Tk, name: str, about: str) -> None:
        self.about = tkinter.Entry(root)
        self.about.insert(0, about)
        self.about.bind("<Return>", self.change_about)
        self.messages = tkinter.Listbox(root, width=36, height=8)
        tkinter.Label(root, text=f"{name}, process {os.getpid()}").pack()
        self.about.pack(fill="x")
        self.messages.pack(fill="both", expand=True)
        # Callbacks run in Tk's own loop, where they may change widgets.
        self.registration = alongside.publish(
            name, on_message=self.arrived, about=about, on=loops.Tk(root)
        )

    def change_about(self, _event: object) -> None:
        """Tell everybody who watches."""
        self.registration.update(about=self.about.get())

    def arrived(self, data: Any, session: alongside.Session) -> None:
        """Show one message."""
        self.messages.insert("end", f"{self.messages.size() + 1}. {described(data, session)}")
        self.messages.see("end")
        handle(data)


def run_in_a_window(name: str, about: str) -> None:
    root = tkinter.Tk()
    root.title(name)
    root.protocol("WM_DELETE_WINDOW", root.quit)
    # The name goes before the loop does in which callers are answered.
    with Window(root, name, about).registration:
        root.mainloop()
    root.destroy()


# ---- without -------------------------------------------------------------------------------------


def run_in_the_terminal(name: str, about: str) -> None:
    def arrived(data: Any, session: alongside.Session) -> None:
        print(described(data, session), flush=True)
        handle(data)

    with alongside.publish(name, on_message=arrived, about=about) as registration:
        print(f"{name}, process {os.getpid()}", flush=True)
        for line in sys.stdin:
            registration.update(about=line.strip())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
