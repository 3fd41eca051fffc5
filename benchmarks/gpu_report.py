"""What `python -m benchmarks gpu` has found, as one Markdown page."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.gpu_kit import Result
from benchmarks.measure import markdown


def page(out: Path, names: Mapping[str, object]) -> str:
    """Write the sections of the parts that have a result, and a line for each that has none."""
    machine, sections = "", []
    for name in names:
        path, log = out / f"{name}.json", out / f"{name}.log"
        if path.exists():
            found = json.loads(path.read_text())
            machine = f"{found['device']}, torch {found['torch']}.\n\n"
            text = SECTIONS[name](found) + f"\n\n{found['seconds']:.0f} s."
        else:
            text = f"Failed: {last_line(log)} (`{log.name}`)" if log.exists() else "Not run."
        sections.append(f"## {name}\n\n{text}\n")
    return f"# A quarter of an hour on a GPU\n\n{machine}" + "\n".join(sections)


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def tests(found: Result) -> str:
    counts = f"{found['passed']} passed, {found['failed']} failed, {found['skipped']} skipped"
    return "\n".join([f"{counts}.", *(f"- failed: {name}" for name in found["failures"])])


def products(found: Result) -> str:
    rows = [
        [precision, f"{rates['matrix']:.3g}", f"{rates['convolution']:.3g}"]
        for precision, rates in found["tflops"].items()
    ]
    return markdown(["TFLOP/s", "matrix product", "3x3 convolution"], rows)


def steps(found: Result) -> str:
    """One table for each network: images per second, and the share of the products' rate."""
    cases, tables = found["cases"], []
    batches = sorted({case["batch"] for case in cases})
    for network in dict.fromkeys(case["network"] for case in cases):
        cells: dict[tuple[str, str], dict[int, Result]] = {}
        for case in cases:
            if case["network"] == network:
                work = cells.setdefault((case["what"], case["precision"]), {})
                work[case["batch"]] = case
        rows = [
            [*work, *(cell(by_batch.get(batch)) for batch in batches), memory(by_batch)]
            for work, by_batch in cells.items()
        ]
        header = [network, "precision", *(f"batch {batch}" for batch in batches), "most MiB"]
        tables.append(markdown(header, rows))
    note = "Images/s (share of the faster product's rate); a decode has its gradient."
    return "\n\n".join([*tables, note])


def cell(case: Result | None) -> str:
    if case is None:
        return ""
    if "failed" in case:
        return str(case["failed"])
    share = case["share_of_peak"]
    return f"{case['images_per_second']:.4g}" + (f" ({share:.0%})" if share else "")


def memory(by_batch: Mapping[int, Result]) -> str:
    used = [case["mebibytes"] for case in by_batch.values() if case.get("mebibytes")]
    return f"{max(used):,.0f}" if used else ""


def recovery(found: Result) -> str:
    rows = [
        [
            *(row["problem"], row["precision"], f"{row['psnr']:.2f}"),
            *(f"{row['evaluations']:.0f}", f"{row['seconds']:.1f}"),
            "yes" if row["close"] else "no",
        ]
        for row in found["searches"]
    ]
    header = ["problem", "precision", "PSNR, dB", "evaluations", "s", "0.05 dB"]
    note = (
        f"{found['images']} drawn faces through {found['prior']}. bf16 and fp16: coupling networks "
        "alone, finished in float32. 0.05 dB: the mean is at most that much below float32's."
    )
    if left_out := found.get("left_out"):  # older results lack it
        note += f" Left out, as the time was up: {', '.join(left_out)}."
    return f"{markdown(header, rows)}\n\n{note}"


def training(found: Result) -> str:
    bits = [f"{value:.3f} bits/dim on {name}" for name, value in found["bits_per_dim"].items()]
    points = found["curve"][:: max(1, len(found["curve"]) // 10)]
    return "\n\n".join(
        [
            f"{found['images_seen']:,} images of {found['data']}, in batches of "
            f"{found['batch_size']}, {found['images_per_second']:.4g} images/s. " + ", ".join(bits),
            markdown(
                ["images", "bits/dim of a batch"], [[f"{n:,}", f"{b:.3f}"] for n, b in points]
            ),
            f"Weights in {found['precision']}: `{found['join']}` joins their pieces, next to "
            "kit/prior.json.",
        ]
    )


def rows(found: Result) -> str:
    table = [
        [
            *(problem, row["images"], f"{row['psnr']:.2f}", f"{row['ssim']:.3f}"),
            *(f"{row['evaluations']:.0f}", f"{row['seconds']:.1f}"),
        ]
        for problem, row in found["problems"].items()
    ]
    header = ["problem", "images", "PSNR, dB", "SSIM", "evaluations", "s"]
    note = f"{found['set']}, after {found['images_seen']:,} training images; rows.csv has each."
    return f"{markdown(header, table)}\n\n{note}"


SECTIONS: dict[str, Callable[[Result], str]] = {
    section.__name__: section for section in (tests, products, steps, recovery, training, rows)
}
