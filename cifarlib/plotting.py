"""Figures of the chapters and of the reports on runs, in one style.

Every function returns its figure or draws on the axes it is given, and never shows anything:
the notebook does that. Colours are told apart by the colour-blind (Okabe and Ito's palette as
seaborn has it; cividis for amounts), and no meaning rests on colour alone. Not for measuring:
`evaluation` and the chapters do.
"""

import itertools
import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import patheffects, ticker
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.transforms import Bbox
from seaborn.utils import relative_luminance

from cifarlib import data

PALETTE = sns.color_palette("colorblind", 10)
# Red, green and blue as the colour-blind can tell them, each with a line style of its own.
CHANNELS = (("red", PALETTE[3], "-"), ("green", PALETTE[2], "--"), ("blue", PALETTE[0], ":"))
AMOUNTS = "cividis"
DIFFERENCES = "PuOr"
_MARKERS = "osD^vPX*<p"  # one for each colour, since ten hues cannot be told apart


def use_style() -> None:
    """Set the style of all figures that follow; each chapter's set-up cell calls it."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=PALETTE,
        rc={
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": "medium",
            "axes.titleweight": "bold",
            "figure.titlesize": "large",
            "figure.titleweight": "bold",
            "legend.frameon": False,
            "image.cmap": AMOUNTS,
            "lines.linewidth": 2,
        },
    )


def subplots(
    num_rows: int = 1,
    num_columns: int = 1,
    *,
    size: tuple[float, float] = (8, 4),
    title: str = "",
    **options,
) -> tuple[Figure, Axes | np.ndarray]:
    """Make a figure with its axes, marked if the images behind it are synthetic.

    Args:
        num_rows: rows of axes.
        num_columns: columns of axes.
        size: width and height in inches.
        title: title of the whole figure.
        **options: for ``matplotlib.pyplot.subplots``.

    Returns:
        The figure, and one ``Axes`` or an array of them.
    """
    figure, axes = plt.subplots(num_rows, num_columns, figsize=size, **options)
    if title:
        figure.suptitle(title)
    description = data.current()
    if description is not None and description.kind == "synthetic":
        figure.text(
            0.5,
            0.5,
            "SYNTHETIC IMAGES\nnot CIFAR-10",
            ha="center",
            va="center",
            rotation=25,
            fontsize=min(6 * size[0], 12 * size[1]) * 0.7,
            color=PALETTE[3],
            alpha=0.45,
            weight="bold",
            zorder=100,
        )
    return figure, axes


def show_images(
    pictures: np.ndarray,
    captions: Sequence[str] = (),
    *,
    row_names: Sequence[str] = (),
    num_columns: int = 10,
    inches: float = 0.75,
    title: str = "",
) -> Figure:
    """Show images in rows and columns.

    Args:
        pictures: uint8 or unit-range float array of shape (n, height, width, 1 or 3).
        captions: a line above each image.
        row_names: a name to the left of each row.
        num_columns: images in a row.
        inches: width of an image.
        title: title of the figure.

    Returns:
        The figure; of no images, one that says so.

    Raises:
        ValueError: if there are captions, but not one for each image.
    """
    captions, row_names = list(captions), list(row_names)
    if captions and len(captions) != len(pictures):
        raise ValueError(
            f"expected {len(pictures)} captions, one for each image, or none; found {len(captions)}"
        )
    num_rows = max(1, -(-len(pictures) // num_columns))
    num_lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    size = (
        num_columns * inches + (1.1 if row_names else 0.2),
        num_rows * (inches + 0.19 * num_lines) + (0.5 if title else 0.1),
    )
    figure, axes = subplots(num_rows, num_columns, size=size, title=title, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for index, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        # Bytes are shown as they are; imshow would stretch a single channel to its own range.
        top = 255 if picture.dtype == np.uint8 else 1
        shown = picture[..., 0] if picture.shape[-1] == 1 else picture
        ax.imshow(shown, cmap="gray", vmin=0, vmax=top, interpolation="nearest")
        if captions:
            ax.set_title(captions[index], fontsize=9, weight="normal", pad=2)
    if not len(pictures):
        axes[0, 0].text(0, 0.5, "no images", va="center", fontsize=11)
    for row, name in enumerate(row_names):
        axes[row, 0].text(
            -0.15, 0.5, name, transform=axes[row, 0].transAxes, ha="right", va="center", fontsize=11
        )
    return figure


def plot_class_counts(counts: pd.DataFrame) -> Figure:
    """Draw the number of images of each class as bars.

    Args:
        counts: a row a class, a column a split.
    """
    figure, ax = subplots(size=(9, 3.4), title="Images in each class")
    counts.plot.bar(ax=ax, width=0.8, color=PALETTE[: counts.shape[1]], rot=30)
    ax.set(xlabel="class", ylabel="images")
    ax.legend(title="split", bbox_to_anchor=(1, 1), loc="upper left")
    return figure


def plot_channel_histograms(pictures: np.ndarray, ax: Axes) -> None:
    """Draw how often each value from 0 to 255 occurs in each channel.

    Args:
        pictures: uint8 array of shape (n, height, width, 3).
        ax: where to draw.
    """
    for index, (name, color, line) in enumerate(CHANNELS):
        shares = np.bincount(pictures[..., index].ravel(), minlength=256)
        shares = shares / shares.sum() * 100
        ax.plot(shares, line, color=color, label=name)
    ax.set(xlabel="pixel value", ylabel="share of pixels (%)", xlim=(-4, 259), ylim=(0, None))
    ax.legend(title="channel")


def plot_matrix(
    matrix: pd.DataFrame,
    ax: Axes,
    *,
    fmt: str = ".2f",
    colors: str = AMOUNTS,
    center: float | None = None,
    bar_label: str = "",
) -> None:
    """Draw a matrix with its numbers, its rows and columns named by the frame.

    Args:
        matrix: values, with an index and columns that have names.
        ax: where to draw.
        fmt: format of a number.
        colors: name of a colour map; `DIFFERENCES` with ``center=0`` for signed values.
        center: value of the middle colour. The diagonal of a square matrix then takes no part
            in the choice of the scale: a confusion is a few points where a recall is many.
        bar_label: what the values are.
    """
    bar, limits = {"label": bar_label, "shrink": 0.8}, {}
    if center is not None and matrix.shape[0] == matrix.shape[1]:
        beside = matrix.to_numpy(float)[~np.eye(len(matrix), dtype=bool)]
        if reach := np.abs(beside - center).max(initial=0):
            limits = {"vmin": center - reach, "vmax": center + reach}
            bar["extend"] = "both"
    nothing = format(0, fmt.replace("+", ""))
    numbers = matrix.map(lambda value: format(value, fmt))
    # No signs on what is zero at this precision.
    numbers = numbers.map(lambda told: nothing if told.lstrip("+-") == nothing else told)
    sns.heatmap(
        matrix,
        ax=ax,
        annot=numbers,
        fmt="",
        cmap=colors,
        center=center,
        square=True,
        linewidths=0.5,
        annot_kws={"fontsize": 8},
        cbar_kws=bar,
        **limits,
    )
    # Seaborn's white numbers are faint on the middle colours; dark and white are as plain on this.
    faces = ax.collections[0].get_facecolors()
    for text in ax.texts:
        column, row = (int(place) for place in text.get_position())
        is_dark = relative_luminance(faces[row * matrix.shape[1] + column]) < 0.22
        text.set_color("white" if is_dark else ".15")
    ax.set_yticklabels(ax.get_yticklabels(), rotation=0)
    ax.set_xticklabels(ax.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")


def plot_image_map(
    positions: np.ndarray,
    pictures: np.ndarray,
    labels: np.ndarray,
    ax: Axes,
    *,
    num_thumbnails: int = 90,
) -> None:
    """Draw a map of images: a mark for each, by class, and thumbnails where there is room.

    Args:
        positions: float array of shape (n, 2).
        pictures: uint8 array of shape (n, height, width, C).
        labels: integer array of shape (n,).
        ax: where to draw.
        num_thumbnails: at most so many images are shown themselves, framed in the colour of
            their class.
    """
    handles = [
        ax.scatter(*positions[labels == label].T, s=20, marker=marker, color=color, linewidths=0)
        for label, (marker, color) in enumerate(zip(_MARKERS, PALETTE, strict=True))
    ]
    extent = np.ptp(positions, axis=0)
    extent[extent == 0] = 1  # all in one line
    shown = np.empty((0, 2))
    for index in range(len(positions)):
        place = positions[index] / extent
        if len(shown) and np.abs(shown - place).max(axis=1).min() < 0.07:
            continue  # it would cover another thumbnail
        if len(shown) == num_thumbnails:
            break
        shown = np.vstack([shown, place])
        picture = OffsetImage(
            pictures[index].squeeze(),
            zoom=0.8,
            cmap="gray",
            norm=Normalize(0, 255),  # or each gray image is stretched to its own range
            interpolation="nearest",
        )
        frame = {"edgecolor": PALETTE[labels[index]], "linewidth": 2}
        box = AnnotationBbox(picture, positions[index], pad=0.05, bboxprops=frame)
        box.set_in_layout(False)  # or the layout makes room for each beside the axes
        ax.add_artist(box)
    ax.legend(
        handles,
        data.CLASS_NAMES,
        bbox_to_anchor=(1, 1),
        loc="upper left",
        title="class (mark, frame)",
        markerscale=1.5,
    )
    ax.set_axis_off()


def plot_history(history: pd.DataFrame, title: str = "") -> Figure:
    """Draw loss and accuracy of training and validation against the epoch.

    Args:
        history: a row an epoch, as `training.train` returns it.
        title: title of the figure.
    """
    figure, axes = subplots(1, 2, size=(10, 3.8), title=title)
    marker = "o" if len(history) == 1 else None  # a line of one point is invisible
    for ax, name, factor in zip(axes, ("loss", "accuracy"), (1, 100), strict=True):
        for split, column, color, line in (
            ("training, as learned", name, PALETTE[0], "--"),
            ("validation", f"validation_{name}", PALETTE[1], "-"),
        ):
            if column in history:
                values = history[column] * factor
                ax.plot(history["epoch"], values, line, color=color, label=split, marker=marker)
        ax.set(xlabel="epoch", ylabel=f"{name} (%)" if factor == 100 else name)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend(title="images")
    if history.get("validation_accuracy", pd.Series(dtype=float)).notna().any():
        best = history.loc[history["validation_accuracy"].idxmax()]
        told = f"best: epoch {best['epoch']:.0f}, {best['validation_accuracy']:.1%}"
        axes[1].axvline(best["epoch"], color="gray", linewidth=1, linestyle=":", label=told)
        axes[1].legend(handles=[axes[1].lines[-1]])
    return figure


def plot_reliability(tables: dict[str, pd.DataFrame]) -> Figure:
    """Draw how often answers are right against how sure they were.

    Args:
        tables: a name and a table of `evaluation.reliability` for each line.
    """
    figure, ax = subplots(size=(5, 4.6), title="Is it as sure as it should be?")
    ax.plot([0, 100], [0, 100], color="gray", linewidth=1, linestyle=":", label="perfect")
    for index, (name, table) in enumerate(tables.items()):
        line = {"color": PALETTE[index % 10], "marker": _MARKERS[index % len(_MARKERS)]}
        ax.plot(table["confidence"] * 100, table["right"] * 100, label=name, markersize=5, **line)
    ax.set(xlabel="confidence (%)", ylabel="right (%)", xlim=(0, 101), ylim=(0, 101))
    ax.legend()
    return figure


def plot_comparison(histories: pd.DataFrame, title: str = "") -> Figure:
    """Draw the accuracy of several ways to train: a line for the mean, a band for all seeds.

    Args:
        histories: as `experiments.Comparison` has it, with ``variant``, ``seed`` and ``epoch``.
        title: title of the figure.
    """
    figure, axes = subplots(1, 2, size=(10, 3.8), title=title, sharey=True)
    columns = {"accuracy": "training images, as learned", "validation_accuracy": "validation"}
    variants = list(dict.fromkeys(histories["variant"]))
    for ax, (column, name) in zip(axes, columns.items(), strict=True):
        for index, variant in enumerate(variants):
            by_epoch = _of_every_seed(histories, variant).groupby("epoch")[column]
            style = {"color": PALETTE[index % 10], "marker": _MARKERS[index % len(_MARKERS)]}
            mean = by_epoch.mean() * 100
            ax.plot(mean, label=variant, markersize=5, markevery=max(1, len(mean) // 8), **style)
            low, high = by_epoch.min() * 100, by_epoch.max() * 100
            ax.fill_between(mean.index, low, high, alpha=0.2, color=style["color"], linewidth=0)
        ax.set(title=name, xlabel="epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("accuracy (%)")
    axes[1].legend(bbox_to_anchor=(1, 1), loc="upper left")
    return figure


def _of_every_seed(histories: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Return a variant's epochs that every seed has: the mean of those left over would jump."""
    of_variant = histories[histories["variant"] == variant]
    num_seeds = of_variant.groupby("epoch")["epoch"].transform("size")
    return of_variant[num_seeds == num_seeds.max()]


def plot_race(histories: pd.DataFrame, floors: dict[str, float], title: str = "") -> Figure:
    """Draw validation accuracy against the seconds of training, a line for each variant.

    Args:
        histories: as `experiments.Comparison` has it, with ``variant``, ``seed``, ``epoch`` and
            ``seconds``; seeds are averaged.
        floors: seconds below which nothing can come, by what sets them.
        title: title of the figure.
    """
    figure, ax = subplots(size=(8.5, 4.6), title=title)
    for index, variant in enumerate(dict.fromkeys(histories["variant"])):
        by_epoch = _of_every_seed(histories, variant).groupby("epoch")
        by_epoch = by_epoch[["seconds", "validation_accuracy"]].mean()
        style = {"color": PALETTE[index % 10], "marker": _MARKERS[index % len(_MARKERS)]}
        seconds = by_epoch["seconds"].cumsum()
        ax.plot(
            seconds, by_epoch["validation_accuracy"] * 100, label=variant, markersize=5, **style
        )
    for (name, seconds), line in zip(floors.items(), itertools.cycle((":", "--", "-."))):
        ax.axvline(seconds, color="black", linewidth=1.2, linestyle=line, label=name)
    ax.set(xlabel="seconds of training", ylabel="validation accuracy (%)")
    ax.set_xlim(left=0)
    ax.legend(bbox_to_anchor=(1, 1), loc="upper left")
    return figure


def plot_intervals(table: pd.DataFrame, title: str = "", *, label: str = "") -> Figure:
    """Draw values with their intervals, a row each from the top, and a line at zero.

    Args:
        table: columns ``value``, ``low`` and ``high``, a named row each.
        title: title of the figure.
        label: what the values are, with their unit.
    """
    figure, ax = subplots(size=(7, 0.34 * len(table) + 1.2), title=title)
    ax.axvline(0, color="gray", linewidth=1)
    # One that does not reach zero is filled.
    is_clear = (table["low"] > 0) | (table["high"] < 0)
    for is_filled, shown in table[::-1].assign(row=range(len(table))).groupby(is_clear):
        ends = [shown["value"] - shown["low"], shown["high"] - shown["value"]]
        style = {"color": PALETTE[0], "markerfacecolor": PALETTE[0] if is_filled else "white"}
        ax.errorbar(shown["value"], shown["row"], xerr=ends, fmt="o", capsize=3, **style)
    ax.set_yticks(range(len(table)), table.index[::-1])
    ax.set(xlabel=label)
    return figure


def plot_claims(table: pd.DataFrame, allowance: float, title: str = "") -> Figure:
    """Draw what was claimed of each model, what its own files show, and what was measured.

    Args:
        table: percentages in columns ``claimed``, ``evidence``, ``measured`` and ``sd``, NaN for
            what is not there; a named row each, drawn from the top.
        allowance: how far below a claim still counts as holding, in points.
        title: title of the figure.
    """
    figure, ax = subplots(size=(8.5, 0.4 * len(table) + 1.6), title=title)
    rows = np.arange(len(table))[::-1]
    said = table["claimed"].fillna(table["evidence"])
    band = {"color": "gray", "alpha": 0.25, "label": f"claim, less {allowance:g} points"}
    ax.barh(rows, allowance, left=said - allowance, height=0.5, **band)
    for column, marker, color in (("claimed", "D", PALETTE[1]), ("evidence", "x", "black")):
        style = {"marker": marker, "color": color, "facecolor": color, "zorder": 3}
        ax.scatter(table[column], rows, s=36, label=column, **style)
    style = {"fmt": "o", "color": PALETTE[0], "capsize": 3, "label": "measured (sd over seeds)"}
    ax.errorbar(table["measured"], rows, xerr=table["sd"].fillna(0), zorder=4, **style)
    ax.set_yticks(rows, table.index)
    ax.set(xlabel="accuracy (%)")
    ax.use_sticky_edges = False  # the bars' left ends are ends, not a floor
    ax.margins(x=0.04)
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return figure


def plot_tradeoff(table: pd.DataFrame, cost: str, gain: str, title: str = "") -> Figure:
    """Draw what each thing costs and earns, and the front that nothing surpasses (Pareto).

    Args:
        table: a named row each; the two columns' names are the axes' labels. Rows of one name,
            such as a network trained in two ways, are joined by a line and named at the best.
        cost: the column that should be small, all above 0; drawn on a logarithmic axis.
        gain: the column that should be large.
        title: title of the figure.
    """
    figure, ax = subplots(size=(8.5, 6), title=title)
    shown = table[[cost, gain]].dropna().astype(float)
    shown = shown.sort_values([cost, gain], ascending=[True, False])
    best = shown[gain].cummax().shift(fill_value=-np.inf)
    is_front = shown[gain] > best
    front = shown[is_front]
    if shown.empty:
        ax.set(xlabel=cost, ylabel=gain)
        ax.text(0.5, 0.5, "nothing is known of these", ha="center", transform=ax.transAxes)
        return figure
    line = {"where": "post", "color": "gray", "linewidth": 1, "zorder": 1}
    (drawn,) = ax.step(front[cost], front[gain], **line)
    for is_on, marker in ((True, "o"), (False, "x")):
        part = shown[is_front == is_on]
        told = "on the front" if is_on else "surpassed by one as cheap"
        ax.scatter(part[cost], part[gain], marker=marker, color=PALETTE[not is_on], label=told)
    dotted = {"color": "gray", "linewidth": 1, "linestyle": ":", "zorder": 1}
    for index, name in enumerate(shown.index[shown.index.duplicated()].unique()):
        way = shown.loc[name].sort_values(gain)
        ax.plot(way[cost], way[gain], **dotted, label="" if index else "the same, in another way")
    ax.set_xscale("log")
    decades = np.log10(shown[cost].max() / shown[cost].min())
    numbers = (1, 2, 5) if decades < 3 else (1, 3) if decades < 4 else (1,)
    ax.xaxis.set_major_locator(ticker.LogLocator(subs=numbers))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    ax.xaxis.set_minor_formatter(ticker.NullFormatter())
    ax.set(xlabel=cost, ylabel=gain)
    ax.margins(x=0.15, y=0.1)
    ax.legend(loc="lower right")
    _name_points(ax, shown, drawn)
    return figure


# Where a name may stand beside its point, in points of type, and how it is aligned there; the
# nearest first.
_BESIDE = tuple(
    ((x * far, y * far), "left" if x > 0 else "right", "bottom" if y > 0 else "top")
    for far in (1, 2, 3, 4, 5, 6, 7, 8, 9)
    for x, y in ((5, 4), (5, -4), (-5, 4), (-5, -4), (2, 6), (2, -6), (-2, 6), (-2, -6))
)
_TOO_FAR = 10  # points of type: from there on a line leads to the name


def _name_points(ax: Axes, points: pd.DataFrame, front: Line2D) -> None:
    """Write each name beside its best point, clear of everything else if there is such a place.

    Args:
        ax: with everything else drawn.
        points: a named row each, two columns: x and y.
        front: the first of the lines that names should not lie on, either.
    """
    ax.figure.draw_without_rendering()  # the layout decides where things are
    inside = ax.get_window_extent()
    places = ax.transData.transform(points)
    corners = front.get_transform().transform(front.get_path().vertices)
    texts = [ax.get_legend().get_window_extent()]
    taken = [Bbox.from_bounds(*(place - 4), 8, 8) for place in places]
    taken += [Bbox(sorted(ends)).padded(1) for ends in itertools.pairwise(corners.tolist())]
    for joining in ax.lines[ax.lines.index(front) + 1 :]:
        for ends in itertools.pairwise(joining.get_transform().transform(joining.get_xydata())):
            taken += [Bbox.from_bounds(*each, 1, 1) for each in np.linspace(*ends, 30)]

    def leader(place: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
        """Return where the line to a name runs, (n, 2), none to one that is near enough."""
        share = np.linspace(0.2, 1, 9 if math.hypot(*offset) > _TOO_FAR else 0)
        return place + share[:, None] * np.array(offset) * ax.figure.dpi / 72

    def is_anothers(extent: Bbox, place: np.ndarray, line: np.ndarray, others: np.ndarray) -> bool:
        """Tell whether a reader would take the name for another point's."""
        if len(line):
            return bool((np.abs(line[:, None] - others).max(axis=-1) < 5).any())
        own = _distances(extent, place[None])[0]
        return _distances(extent, others).min(initial=np.inf) <= 1.5 * own

    for name in points.index.unique():
        of_name = np.flatnonzero(points.index == name)
        which = of_name[points.iloc[of_name, 1].argmax()]
        point, place = tuple(points.iloc[which]), places[which]
        text = ax.annotate(name, point, (0, 0), textcoords="offset points", fontsize=8)
        text.set_path_effects([patheffects.withStroke(linewidth=2, foreground="white")])
        others = places[points.index != name]
        found = {}
        for beside in _BESIDE:
            offset, side, level = beside
            text.set(position=offset, ha=side, va=level)
            extent, line = text.get_window_extent(), leader(place, offset)
            is_inside = inside.x0 <= extent.x0 and extent.x1 <= inside.x1
            is_inside = is_inside and extent.y1 <= inside.y1
            badness = extent.padded(2).count_overlaps(taken) + 10 * (not is_inside)
            badness += 5 * extent.padded(2).count_overlaps(texts)
            badness += sum(each.count_contains(line) for each in texts)
            badness += is_anothers(extent, place, line, others)
            found[beside] = badness, extent
            if not badness:
                break
        # Crowded: where it covers least.
        (offset, side, level), (_, extent) = min(found.items(), key=lambda item: item[1][0])
        text.set(position=offset, ha=side, va=level)
        # Names side by side would be read as one.
        texts.append(Bbox.from_extents(extent.x0 - 6, extent.y0, extent.x1 + 6, extent.y1))
        if len(way := leader(place, offset)):
            ends = {"xytext": offset, "textcoords": "offset points", "ha": side, "va": level}
            line = {"arrowstyle": "-", "color": "gray", "linewidth": 0.6}
            arrow = {**line, "shrinkA": 0, "shrinkB": 3}
            ax.annotate("", point, arrowprops=arrow, zorder=1, **ends)
            taken += [Bbox.from_bounds(*each, 1, 1) for each in way]


def _distances(extent: Bbox, places: np.ndarray) -> np.ndarray:
    """Return how far places (n, 2) are from a box, 0 inside."""
    return np.hypot(*(places - places.clip(extent.min, extent.max)).T)


_ENDINGS = {"finished": ("o", 0), "pruned": ("x", 1), "failed": ("^", 3)}  # of trials


def plot_search(trials: pd.DataFrame) -> Figure:
    """Draw the accuracy of each trial of a search, and the best so far.

    Args:
        trials: as `tuning.Tuning` has it.
    """
    figure, ax = subplots(size=(8, 4), title="The search, trial by trial")
    percent = trials["accuracy"].astype(float) * 100
    for state, (marker, color) in _ENDINGS.items():
        shown = percent[trials["state"] == state].dropna()
        if len(shown):
            ax.scatter(shown.index, shown, marker=marker, color=PALETTE[color], label=state)
    finished = percent.where(trials["state"] == "finished").cummax().ffill()
    ax.step(finished.index, finished, where="post", color="gray", linewidth=1, label="best so far")
    if trials["state"].get(0) == "finished":  # of a trial that failed, what it reached is no value
        ax.annotate(
            "default",
            (0, percent[0]),
            xytext=(6, -14),
            textcoords="offset points",
        )
    ax.set(xlabel="trial", ylabel="validation accuracy (%)")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(bbox_to_anchor=(1, 1), loc="upper left")
    return figure


def plot_importance(shares: pd.Series) -> Figure:
    """Draw how much each parameter of a search mattered.

    Args:
        shares: as `tuning.Tuning.importance` returns it.
    """
    figure, ax = subplots(size=(7, 0.3 * len(shares) + 1.2), title="What made trials differ")
    ax.barh(shares.index[::-1], shares[::-1] * 100, color=PALETTE[0])
    ax.set(xlabel="importance by itself (%; 100 for all together)")
    return figure


_EDGED = [patheffects.withStroke(linewidth=5, foreground="black")]


def plot_parallel(trials: pd.DataFrame, parameters: Sequence[str]) -> Figure:
    """Draw each finished trial as a line through its parameters' values, the best one thick.

    Args:
        trials: as `tuning.Tuning` has it.
        parameters: columns of it, an axis each.
    """
    finished = trials[trials["state"] == "finished"]
    finished = finished[::-1].sort_values("accuracy", kind="stable")  # of equals the first is last
    figure, ax = subplots(size=(1.15 * len(parameters) + 1.5, 4.6), title="Trials as lines")
    percent = finished["accuracy"].astype(float) * 100
    norm = plt.Normalize(percent.min(), percent.max())
    places = np.empty((len(finished), len(parameters)))
    for column, name in enumerate(parameters):
        places[:, column] = _draw_axis(ax, column, finished[name])
    colors = plt.get_cmap(AMOUNTS)(norm(percent))
    for row in range(len(finished)):
        is_best = row == len(finished) - 1
        style = {"linewidth": 3, "zorder": 1, "path_effects": _EDGED} if is_best else {}
        ax.plot(places[row], **{"linewidth": 1.2, "alpha": 0.85, "color": colors[row], **style})
    names = [name.replace("_", "\n") for name in parameters]
    ax.set_xticks(range(len(parameters)), names, fontsize=9)
    ax.set_yticks([])
    ax.set(xlim=(-0.3, len(parameters) - 0.4), ylim=(-0.06, 1.06))
    ax.spines[:].set_visible(False)
    mappable = plt.cm.ScalarMappable(norm, AMOUNTS)
    figure.colorbar(mappable, ax=ax, label="validation accuracy (%)", shrink=0.8)
    return figure


def _draw_axis(ax: Axes, column: int, values: pd.Series) -> np.ndarray:
    """Draw a parameter's axis with its values; return where on it, 0 to 1, each trial lies."""
    is_list = isinstance(values.iloc[0], (list, tuple)) if len(values) else False
    if is_list:  # such as augmentations
        values = values.map(lambda names: ", ".join(map(str, names)) or "none")
    if values.isna().any():  # None beside numbers
        values = values.astype(object).where(values.notna(), "none")
    choices = sorted(values.unique(), key=lambda value: (isinstance(value, str), value))
    is_range = len(choices) > 7 and not isinstance(choices[-1], str)
    if is_range:  # its ends are enough
        numbers = values.astype(float).to_numpy()
        numbers = np.log(numbers) if numbers.min() > 0 else numbers
        places = (numbers - numbers.min()) / np.ptp(numbers)
        ticks = [(_short(choices[0], 2), 0.0), (_short(choices[-1], 2), 1.0)]
    else:
        spread = max(1, len(choices) - 1)
        ticks = [(_short(choice), index / spread) for index, choice in enumerate(choices)]
        places = np.array([choices.index(value) / spread for value in values])
    ax.plot([column, column], [0, 1], color="gray", linewidth=0.8, zorder=0)
    for name, place in ticks:
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 1}
        ax.text(column + 0.04, place, name, fontsize=8, va="center", bbox=box, zorder=10)
    return places


def _short(value: object, num_digits: int = 3) -> str:
    return f"{value:.{num_digits}g}" if isinstance(value, float) else str(value)
