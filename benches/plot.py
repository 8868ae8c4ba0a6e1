"""The plots of round trips and of lent memory by size, as SVG for the page and PNG for elsewhere.

Both axes are logarithmic: the contestants differ by factors, not by amounts. Each line is named at
its end instead of in a box, alongside's is the only one in a colour that calls.
"""

_COLOURS = {
    "alongside": "#d1495b",
    "Pipe": "#30638e",
    "socketpair": "#66a182",
    "pyzmq": "#8d6a9f",
    "iceoryx2 polling": "#b08968",
    "kickmsg polling": "#7a8b99",
}
_SIZE_TICKS = {64: "64 B", 1 << 10: "1 KiB", 16 << 10: "16 KiB", 256 << 10: "256 KiB"}
_SIZE_TICKS |= {4 << 20: "4 MiB", 64 << 20: "64 MiB"}
_TIME_TICKS = {1: "1 µs", 10: "10 µs", 100: "100 µs", 1e3: "1 ms", 1e4: "10 ms", 1e5: "100 ms"}
_APART = 0.055  # of names, as a share of the height


def _pyplot():
    import matplotlib as mpl

    mpl.use("Agg")
    # Fixed, so that the same numbers give the same file.
    mpl.rcParams |= {"svg.hashsalt": "alongside", "svg.fonttype": "none", "font.size": 11}
    from matplotlib import pyplot

    return pyplot


def _save(pyplot, figure, folder, name):
    for kind in ("svg", "png"):
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(folder / f"{name}.{kind}", dpi=160, metadata=metadata)
    pyplot.close(figure)


def draw_lending(curves, machine, folder):
    """Write `lending.svg` and `lending.png`: time by size, which is to be a flat line."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 4), layout="constrained")
    for name, points in curves.items():
        _line(axes, name, points, lambda _name, _size: False)
        size, time = points[-1]
        axes.annotate(name, (size, time), xytext=(8, 0), textcoords="offset points", va="center")
    axes.set(xscale="log", ylim=(0, max(5.5, *(t for c in curves.values() for _, t in c))))
    ticks = {size: text for size, text in _SIZE_TICKS.items() if size >= 64 << 10}
    ticks |= {1 << 30: "1 GiB", 64 << 10: "64 KiB"}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Handing over memory that was filled in place", loc="left", pad=12)
    axes.set_xlabel(f"size\n{machine['CPU']} · {machine['kernel']} · {machine['Python']}")
    axes.set_ylabel("µs, median, two cores")
    _save(pyplot, figure, folder, "lending")


def draw(curves, is_view, machine, folder):
    """Write `latency.svg` and `latency.png`."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 5.4), layout="constrained")
    for name, points in curves.items():
        _line(axes, name, points, is_view)
    axes.set(xscale="log", yscale="log")
    _name_lines(axes, curves)
    axes.set_xticks(list(_SIZE_TICKS), list(_SIZE_TICKS.values()))
    low, high = axes.get_ylim()
    shown = {at: text for at, text in _TIME_TICKS.items() if low <= at <= high}
    axes.set_yticks(list(shown), list(shown.values()))
    axes.minorticks_off()
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Round trip of one message between two Python programs", loc="left", pad=12)
    axes.text(
        0.01,
        0.97,
        "dashed: received as a view of shared memory, not as bytes",
        transform=axes.transAxes,
        color="#666666",
        fontsize=9,
        va="top",
    )
    axes.set_xlabel(f"message size\n{machine['CPU']} · {machine['kernel']} · {machine['Python']}")
    axes.set_ylabel("median, two cores; less is better")
    _save(pyplot, figure, folder, "latency")


def _line(axes, name, points, is_view):
    """One contestant; dashed where its receiver gets a view."""
    is_ours = name == "alongside"
    split = next((i for i, (size, _) in enumerate(points) if is_view(name, size)), len(points))
    for part, style in ((points[:split], "-"), (points[max(split - 1, 0) :], (0, (3, 2)))):
        if style != "-" and split == len(points):
            continue
        axes.plot(
            *zip(*part, strict=True),
            color=_COLOURS.get(name, "#888888"),
            linestyle=style,
            linewidth=2.8 if is_ours else 1.5,
            marker="o",
            markersize=5 if is_ours else 3.5,
            zorder=3 if is_ours else 2,
        )


def _name_lines(axes, curves):
    """Names at the right, as near to their lines as they can be without lying on each other."""
    transform = axes.transData + axes.transAxes.inverted()
    ends = sorted((transform.transform(points[-1])[1], name) for name, points in curves.items())
    heaps = []  # of names that touch: their wished places
    for y, _ in ends:
        heaps.append([y])
        while len(heaps) > 1 and _lowest(heaps[-1]) < _lowest(heaps[-2]) + _APART * len(heaps[-2]):
            upper = heaps.pop()
            heaps[-1] += upper
    places = [_lowest(heap) + _APART * i for heap in heaps for i in range(len(heap))]
    for place, (_, name) in zip(places, ends, strict=True):
        axes.text(
            1.015,
            place,
            name,
            transform=axes.transAxes,
            color=_COLOURS.get(name, "#888888"),
            fontweight="bold" if name == "alongside" else "normal",
            va="center",
        )


def _lowest(heap):
    """Where the lowest name of a heap goes that has its middle where its lines have theirs."""
    return sum(heap) / len(heap) - _APART * (len(heap) - 1) / 2
