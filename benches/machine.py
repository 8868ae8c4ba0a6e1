"""What the figures were measured on."""

import os
import platform
from importlib import metadata
from pathlib import Path

_LIBRARIES = ("alongside", "pyzmq", "iceoryx2", "kickmsg", "eclipse-zenoh", "joblib", "numpy")


def _cpu_model():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _is_virtual():
    return " hypervisor" in Path("/proc/cpuinfo").read_text()


def _version(library):
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def description():
    """Names and values, for the head of the report."""
    cpus = len(os.sched_getaffinity(0))
    virtual = ", virtual" if _is_virtual() else ""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return {
        "CPU": f"{_cpu_model()}, {cpus} processors{virtual}",
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }
