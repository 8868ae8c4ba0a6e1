"""A host whose plug-in crashes: it starts the plug-in again and repeats the request.

The plug-in lives in a process of its own, so that its crash is an exception here, `PeerGone`, at
once and in the very call that waits for the answer. A request that kills the plug-in every time
is given up. The plug-in is a stranger's code: each answer is checked against a type as it comes.

    python plugin_host.py [WORD...]
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import alongside

PLUGIN = Path(__file__).with_name("plugin.py")
WORDS = ["step", "on", "no", "pets", "live"]
ATTEMPTS = 3


@dataclass
class Answer:
    """What the plug-in must send."""

    turned: str


class Host:
    """Keeps one plug-in running."""

    def __init__(self):
        self.plugin = start_plugin()

    def ask(self, word):
        """Give the plug-in's answer, or None when the request is more than it survives."""
        for _ in range(ATTEMPTS):
            try:
                self.plugin.send(word)
                return self.plugin.receive(type=Answer)
            except alongside.PeerGone as gone:
                print(f"{word}: {gone}; starting the plug-in again")
                self.restart()
        return None

    def restart(self):
        """Put a new plug-in in the place of the dead one."""
        self.plugin.close()
        self.plugin = start_plugin()


def start_plugin():
    # Killed with its host: a stranger's code would perhaps not notice that it is alone.
    return alongside.start([sys.executable, PLUGIN], die_with_parent=True)


def main():
    host = Host()
    given_up = [word for word in sys.argv[1:] or WORDS if not turn(host, word)]
    host.plugin.close()
    if given_up:
        sys.exit(f"plugin_host.py: no answer to {', '.join(given_up)}")


def turn(host, word):
    answer = host.ask(word)
    if answer is None:
        print(f"{word}: given up after {ATTEMPTS} attempts")
        return False
    print(f"{word} -> {answer.turned}")
    return True


if __name__ == "__main__":
    main()
