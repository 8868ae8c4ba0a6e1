"""A list of the servers that run at the moment, and a way to send a text to one of them.

    python server_viewer.py
    python server_viewer.py --terminal [--send TEXT [--pick N] [--wait]]

Start some of sample_server.py first, or later: the list follows, for the directory is watched. A
server that ends, or is killed, is off the list at once. Pick one, type a text, and send it to that
very program, though others may run under the same name.

"Send" is done when the text has arrived; "Send and wait" when the server's handler has ended, and
then what the handler raised is told. With --terminal the list is printed once, the oldest first;
--send sends to the one with the number that --pick says.
"""

import argparse
import sys
import threading
import time
import tkinter
import traceback
from functools import partial
from tkinter import ttk

import alongside
from alongside import loops

SERVERS = "SampleServer/*"
COLUMNS = {"name": 170, "process": 70, "about": 190, "since": 80}


def main() -> None:
    arguments = parse_arguments()
    if arguments.terminal or arguments.send is not None:
        run_in_the_terminal(arguments)
    else:
        root = tkinter.Tk()
        root.title("servers")
        root.protocol("WM_DELETE_WINDOW", root.quit)
        # Ended before its loop is, the watch ends in order.
        with Window(root).watch:
            root.mainloop()
        root.destroy()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--terminal", action="store_true", help="print the list, and end")
    parser.add_argument("--send", metavar="TEXT", help="send this to one of them, and end")
    parser.add_argument("--pick", metavar="N", type=int, default=1, help="which one, from 1")
    parser.add_argument("--wait", action="store_true", help="until it has been handled")
    return parser.parse_args()


def row(entry: alongside.Entry) -> tuple[str, int, str, str]:
    since = time.strftime("%H:%M:%S", time.localtime(entry.since))
    return entry.name, entry.peer.pid, entry.about, since


# ---- with a window -------------------------------------------------------------------------------


class Window:
    """The list, an entry field for the text, two buttons, and what became of each text."""

    def __init__(self, root: tkinter.Tk) -> None:
        self.root = root
        self.entries: dict[str, alongside.Entry] = {}
        self.list = ttk.Treeview(root, columns=list(COLUMNS), show="headings", height=5)
        for column, width in COLUMNS.items():
            self.list.heading(column, text=column, anchor="w")
            self.list.column(column, width=width)
        line = tkinter.Frame(root)
        self.text = tkinter.Entry(line)
        self.text.pack(side="left", fill="x", expand=True)
        for label, wait in (("Send", False), ("Send and wait", True)):
            button = tkinter.Button(line, text=label, command=partial(self.send, wait=wait))
            button.pack(side="left")
        self.outcomes = tkinter.Listbox(root, height=5)
        self.outcomes.pack(side="bottom", fill="x")
        line.pack(side="bottom", fill="x")
        self.list.pack(fill="both", expand=True)
        self.watch = alongside.watch(SERVERS)
        self.watch.on_change(self.changed, on=loops.Tk(root))

    def changed(self, change: alongside.Change) -> None:
        """Keep the list true; what runs already comes first."""
        # Names may be those of several programs, and processes may have several names.
        instance = change.entry.instance
        if change.kind == "vanished":
            self.list.delete(instance)
            del self.entries[instance]
            return
        if change.kind == "appeared":
            self.list.insert("", "end", iid=instance)
        self.list.item(instance, values=row(change.entry))
        self.entries[instance] = change.entry

    def send(self, *, wait: bool) -> None:
        """Send the text to the one that is picked, in a thread, so that the window lives on.

        Two texts that are on their way at the same time may arrive in either order.
        """
        if not self.list.selection():
            self.tell("pick a server first")
            return
        entry = self.entries[self.list.selection()[0]]
        arguments = entry, self.text.get(), wait
        threading.Thread(target=self.deliver, args=arguments, daemon=True).start()

    def deliver(self, entry: alongside.Entry, text: str, wait: bool) -> None:
        """Send a text and have the outcome shown; not in Tk's thread, where nobody may wait."""
        try:
            outcome = send(entry, text, wait=wait)
        except alongside.AlongsideError as error:
            outcome = str(error).splitlines()[0]
        try:
            self.root.after(0, self.tell, f"{text} - {outcome}")
        except (RuntimeError, tkinter.TclError):
            # The window was closed meanwhile.
            return

    def tell(self, outcome: str) -> None:
        """Show what became of a text."""
        self.outcomes.insert("end", outcome)
        self.outcomes.see("end")


# ---- without -------------------------------------------------------------------------------------


def run_in_the_terminal(arguments: argparse.Namespace) -> None:
    entries = alongside.running(SERVERS)
    for number, entry in enumerate(entries, start=1):
        print(number, *row(entry), sep="\t")
    if arguments.send is None:
        return
    picked: int = arguments.pick
    if not 1 <= picked <= len(entries):
        sys.exit(f"server_viewer.py: there is no number {picked}")
    try:
        print(send(entries[picked - 1], arguments.send, wait=arguments.wait))
    except alongside.AlongsideError as error:
        # With its notes: they show where in the other program a handler raised.
        sys.exit("".join(traceback.format_exception_only(error)).rstrip())


# ---- both ----------------------------------------------------------------------------------------


def send(entry: alongside.Entry, text: str, *, wait: bool) -> str:
    """Send a text to that very program, and say what became of it."""
    alongside.send_to(entry, text, wait=wait)
    return f"{'handled by' if wait else 'arrived at'} process {entry.peer.pid}"


if __name__ == "__main__":
    main()
