"""The page of a GPU report: Markdown with two charts that compare its figures with published ones and the roofline."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval.files import write_whole

PAGE, SPEED_CHART, BLOCK_CHART = "report.md", "speed.png", "block.png"
PUBLISHED = {
    "LongLive, one H100 (published)": 20.7,
    "FlashDreams, one H100, with the commit pass (inferred)": 29.6,
    "FlashDreams, one H100, without the commit pass (published)": 34.9,
}
"""Frames per second of the same backbone at 832x480, according to others."""
COUNTED_LIMIT = {"limit at 635 TFLOP/s (counted)": 54.0}
COMPARABLE = {"wan-1.3b": {**PUBLISHED, **COUNTED_LIMIT}}
"""Figures to set beside those measured, by shape."""
GIB = 2**30
Figures = Mapping[str, Any]


def write_page(folder: Path, report: Figures) -> None:
    """Write the page and, if Matplotlib is installed, its charts.

    Args:
        folder: the report's folder.
        report: a `GpuReport` as JSON-serializable values.
    """
    results = {name: step["result"] for name, step in report["steps"].items() if step["result"]}
    drawn = importlib.util.find_spec("matplotlib") is not None and "bench" in results
    if drawn:
        _draw(folder, results, report["shape"])
    write_whole(folder / PAGE, ("\n".join(page_lines(report, results, drawn)) + "\n").encode())


def page_lines(report: Figures, results: Mapping[str, Figures], drawn: bool = False) -> list[str]:
    """Return the page's lines."""
    lines = [f"# {report['shape']} on {report['device']}, {report['dtype']}", ""]
    lines += ["Random weights; a block is a number of latent frames that are denoised together.", ""]
    if "machine" in results:
        lines += _machine(results["machine"])
    found = speeds(results, report["shape"])
    if found:
        lines += ["## Frames per second", ""]
        lines += [f"![Frames per second]({SPEED_CHART})", ""] if drawn else []
        rates = [(name, f"{value:.1f}") for name, value in found.items()]
        lines += table(("what", "frames per second"), rates)
    sections = {
        "bench": _bench,
        "generate-native": _take,
        "generate-memory": _take,
        "generate-tiny": _take,
        "profile": _profile,
        "attention": _attention,
        "vae": _decoders,
        "vae-compiled": _decoders,
        "compiled": _compiled,
        "transfer": _transfer,
    }
    for name, section in sections.items():
        if name in results:
            lines += [f"## {name}", "", *section(results[name])]
        if name == "bench" and name in results and drawn:
            lines += [f"![Seconds of a block by stage]({BLOCK_CHART})", ""]
    lines += ["## Steps", ""]
    rows = [
        (name, step["status"], f"{step['seconds']:.0f} s", step["reason"] or "")
        for name, step in report["steps"].items()
    ]
    return [*lines, *table(("step", "status", "took", "why"), rows)]


def speeds(results: Mapping[str, Figures], shape: str) -> dict[str, float]:
    """Collect frames per second: those measured and, if the backbone has this shape, those published and counted."""
    measured: dict[str, float] = {}
    for arm in results.get("bench", {}).get("arms", ()):
        for what, frames in arm["frames_per_second"].items():
            measured[f"{arm['arm']}: {what}"] = frames
    if measured:
        arms = results["bench"]["arms"]
        frames = arms[0]["frames_per_second"]["transformer"] * arms[0]["roofline_seconds"] * arms[0]["over_roofline"]
        measured["limit: products and attention alone, measured here"] = frames / arms[0]["roofline_seconds"]
    for name in ("generate-native", "generate-memory", "generate-tiny"):
        if name in results:
            measured[f"{name}: end to end, from its record"] = results[name]["frames_per_second"]
    return {**COMPARABLE.get(shape, {}), **measured} if measured else {}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table, and an empty line."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in cells), ""]


def _machine(found: Figures) -> list[str]:
    tera = {"products": found["products_flop_per_s"] / 1e12}
    counted = sum(found["flop_per_block"].values()) / 1e12
    gpu = f"{found['gpu']}, {found['gpu_bytes'] / GIB:.0f} GiB, cuDNN {found['cudnn']}, " if "gpu" in found else ""
    return [
        f"{gpu}torch {found['torch']}, {found['cores']} CPU cores, {found['host_bytes'] / GIB:.0f} GiB of host memory. "
        f"A block's largest product alone runs at {tera['products']:.3g} TFLOP/s, copies at "
        f"{found['memory_bytes_per_s'] / 1e9:.3g} GB/s. A block is {counted:.3g} TFLOP of products and attention.",
        "",
    ]


def _bench(found: Figures) -> list[str]:
    conditions = found["conditions"]
    lines = [
        f"Medians of {conditions['blocks']} blocks after {conditions['warm_up_blocks']} of warm-up; VAE "
        f"{conditions['vae_dtype']}. "
        + "; ".join(f"*{what}* is {counts}" for what, counts in conditions["frames_per_second"].items())
        + ".",
        "",
    ]
    rows = [
        (
            arm["arm"],
            f"{arm['seconds_per_block']:.3f}",
            *(f"{frames:.1f}" for frames in arm["frames_per_second"].values()),
            f"{arm['roofline_seconds']:.3f}",
            f"{arm['over_roofline']:.2f}",
            f"{found['roofline_flop_per_s'][arm['arm']] / 1e12:.3g}",
        )
        for arm in found["arms"]
    ]
    head = (
        "arm",
        "seconds per block",
        *conditions["frames_per_second"],
        "roofline, s",
        "transformer / roofline",
        "roofline, TFLOP/s",
    )
    lines += table(head, rows)
    names = [name for name in found["arms"][0]["stages"] if any(arm["stages"][name] for arm in found["arms"])]
    stages = [(arm["arm"], *(f"{1000 * arm['stages'][name]:.1f}" for name in names)) for arm in found["arms"]]
    return [
        *lines,
        "Milliseconds per block by stage:",
        "",
        *table(("arm", *names), stages),
        *_peaks(found["peak_memory_bytes"]),
    ]


def _peaks(peaks: Mapping[str, int]) -> list[str]:
    return ["Peak memory: " + ", ".join(f"{name} {count / GIB:.1f} GiB" for name, count in peaks.items()) + ".", ""]


def _take(found: Figures) -> list[str]:
    run = found["run"]
    vae = f", VAE {run['vae_dtype']}" if run.get("vae_dtype") else ""
    lines = [
        f"{found['take_seconds']:g} s of video ({found['frames']} frames) in {found['made_in_s']:.1f} s: "
        f"**{found['frames_per_second']:.1f} frames per second** end to end, {run['dtype']}{vae}, "
        f"decoder {run['decoder']}; loaded in {found['load_seconds']:.1f} s; "
        f"{found['memory']['frames_retrieved']} past frames retrieved.",
        "",
    ]
    stages = sorted(found["stages_per_block_s"].items(), key=lambda item: -item[1])
    lines += ["Milliseconds per block by stage, over all blocks:", ""]
    lines += table([name for name, _ in stages], [[f"{1000 * taken:.1f}" for _, taken in stages]])
    peaks = {"host": found["host_peak_bytes"]}
    return [*lines, *_peaks(peaks | ({"GPU": found["gpu_peak_bytes"]} if "gpu_peak_bytes" in found else {}))]


def _profile(found: Figures) -> list[str]:
    lines: list[str] = []
    for arm, figures in found.items():
        block_s = figures["seconds_per_block"]
        kinds = {**figures["by_kind_s"], "gaps, no kernel running": figures["gaps_s"]}
        rows = [(kind, f"{1000 * taken:.1f}", f"{taken / block_s:.0%}") for kind, taken in kinds.items()]
        lines += [f"{arm}: {1000 * block_s:.1f} ms per block, {figures['launches']} launches.", ""]
        lines += table(("kind", "ms per block", "share"), rows)
        top = [
            (f"`{kernel['name']}`", kernel["calls"], f"{1000 * kernel['seconds']:.2f}")
            for kernel in figures["kernels"][:12]
        ]
        lines += table(("kernel", "calls", "ms per block"), top)
    return lines


def _attention(found: Figures) -> list[str]:
    rows = []
    for name, figures in {"as it is called": found["chosen"], **found["backends"]}.items():
        if "error" in figures:
            rows.append((name, "", "", figures["error"]))
        else:
            kernels = ", ".join(f"`{kernel}`" for kernel in figures["kernels"][:1])
            rows.append((name, f"{figures['ms']:.3g}", f"{figures['flop_per_s'] / 1e12:.3g}", kernels))
    return table(("backend", "ms", "TFLOP/s", "kernel"), rows)


def _decoders(found: Figures) -> list[str]:
    rows = []
    for name, figures in found.items():
        if "ms_per_block" not in figures:
            rows.append((name, "", "", "", figures.get("failed") or figures.get("skipped")))
            continue
        memory = f"{figures['gpu_added_bytes'] / GIB:.2f}" if "gpu_added_bytes" in figures else ""
        psnr = f"{figures['psnr_against_float32']:.1f}" if "psnr_against_float32" in figures else ""
        to_host = f"{figures['to_host_ms']:.1f} / {figures['to_host_contiguous_first_ms']:.1f}"
        rows.append((name, f"{figures['ms_per_block']:.1f}", memory, psnr, to_host))
    head = (
        "decoder",
        "ms per block",
        "GiB on top of weights",
        "PSNR against float32",
        "pixels to the host, ms: as is / made contiguous first",
    )
    return table(head, rows)


def _compiled(found: Figures) -> list[str]:
    return table(list(found), [[f"{value:.4g}" if isinstance(value, float) else value for value in found.values()]])


def _transfer(found: Figures) -> list[str]:
    rows = [
        (name, f"{value / 1e9:.3g} GB/s" if name.endswith("per_s") else f"{value:.4g}") for name, value in found.items()
    ]
    return table(("what", "figure"), rows)


def _draw(folder: Path, results: Mapping[str, Figures], shape: str) -> None:
    """Draw frames per second as bars, and a block's stages as stacked bars."""
    from longlive_rag.media.charts import BASELINE, add_legend, new_chart, save_chart, series_color

    found, others = speeds(results, shape), COMPARABLE.get(shape, {})
    figure, (axes,) = new_chart(0.28 * len(found) + 0.6, grid="x")
    colors = [series_color(BASELINE if name in others else 0) for name in found]
    axes.barh(list(found), list(found.values()), color=colors)
    axes.invert_yaxis()
    axes.set(xlabel="frames per second")
    save_chart(figure, folder / SPEED_CHART)

    arms = results["bench"]["arms"]
    figure, (axes,) = new_chart(0.5 * len(arms) + 1.2, grid="x")
    left = [0.0] * len(arms)
    stages = [stage for stage in arms[0]["stages"] if any(arm["stages"][stage] >= 0.001 for arm in arms)]
    for number, stage in enumerate(stages):
        width = [1000 * arm["stages"][stage] for arm in arms]
        hatch = "//" if number >= 5 else None
        axes.barh([arm["arm"] for arm in arms], width, left=left, label=stage, color=series_color(number), hatch=hatch)
        left = [start + more for start, more in zip(left, width, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds per block")
    add_legend(figure)
    save_chart(figure, folder / BLOCK_CHART)
