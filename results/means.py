"""Rows as a reader wants them: one line per image, means with counts and standard errors."""

from collections.abc import Sequence

import pandas as pd

from recovery.methods import REACHED
from results.rows import KEY

GROUP = ["problem", "m", "dataset", "distribution", "method"]
MEASUREMENT = ["problem", "m", "sigma", "seed", "dataset", "image"]  # of one y


def named(rows: pd.DataFrame) -> pd.DataFrame:
    """Move each row's variant into the name of its method: `deep-decoder (last)`."""
    variant = rows["variant"].where(rows["variant"] == "", " (" + rows["variant"] + ")")
    return rows.assign(method=rows["method"] + variant, variant="")


def per_image(rows: pd.DataFrame, by: Sequence[str] = GROUP) -> pd.DataFrame:
    """Average each group over seeds, to one line per image.

    Columns: `by`, the rest of KEY but the seed, psnr, psnr_hole, ssim, seconds; not_converged and
    diverged are true where they are for any seed.
    """
    keys = list(dict.fromkeys([*by, *KEY]))
    keys.remove("seed")
    failed = {
        "not_converged": ~rows["status"].isin(REACHED),
        "diverged": rows["status"] == "diverged",
    }
    scored = dict.fromkeys(("psnr", "psnr_hole", "ssim", "seconds"), float)  # None is NaN
    groups = named(rows).assign(**failed).astype(scored).groupby(keys, sort=False)
    scores = groups[list(scored)].mean()
    return scores.join(groups[list(failed)].any()).reset_index()


def means(rows: pd.DataFrame) -> pd.DataFrame:
    """Average over images per problem, set and method: PSNR and its standard error, SSIM, counts.

    Columns: GROUP, psnr, sem, psnr_hole, ssim, images, not_converged, diverged, seconds.
    Averages over whatever else differs: filter to one `images_seen` first.
    """
    return image_means(per_image(rows), GROUP)


def image_means(images: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Average what `per_image` returns, as `means` does, per group `by`.

    More columns: psnr_hole_sem, ssim_sem, tried (images with no PSNR among them).
    """
    name = images["image"]  # to count each image once, however many lines it has
    images = images.assign(
        scored=name.where(images["psnr"].notna()),
        slow=name.where(images["not_converged"]),
        failed=name.where(images["diverged"]),
    )
    table = images.groupby(list(by), sort=False, dropna=False).agg(
        psnr=("psnr", "mean"),
        sem=("psnr", "sem"),
        psnr_hole=("psnr_hole", "mean"),
        psnr_hole_sem=("psnr_hole", "sem"),
        ssim=("ssim", "mean"),
        ssim_sem=("ssim", "sem"),
        images=("scored", "nunique"),
        tried=("image", "nunique"),
        not_converged=("slow", "nunique"),
        diverged=("failed", "nunique"),
        seconds=("seconds", "mean"),
    )
    return table.reset_index()


def scalars(rows: pd.DataFrame, prefix: str) -> dict[str, float]:
    """Compute the charts' values during training, from the rows of one recovery.

    `<prefix>/<problem>/<dataset>/<method>/psnr` (and ssim, psnr_hole), and the gap between the
    distributions, `<prefix>/<problem>/gap/<method>/psnr`.
    """
    logged: dict[str, float] = {}
    for row in means(rows).itertuples():
        name = f"{prefix}/{row.problem}/{row.dataset}/{row.method}"
        logged[f"{name}/psnr"] = row.psnr
        logged[f"{name}/ssim"] = row.ssim
        if not pd.isna(row.psnr_hole):
            logged[f"{name}/psnr_hole"] = row.psnr_hole
    sides = named(rows).pivot_table(
        index=["problem", "method"], columns="distribution", values="psnr"
    )
    if {"in", "out"} <= set(sides.columns):
        for (problem, method), gap in (sides["in"] - sides["out"]).dropna().items():
            logged[f"{prefix}/{problem}/gap/{method}/psnr"] = gap
    return logged


def comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows of images that every recovery of their problem and set includes.

    A recovery at the end takes in more images than those during training: their means do not
    belong on one curve. Leaves out an interrupted recovery, which has fewer images than most.
    """
    by = ["problem", "dataset", "method"]
    counts = rows.groupby([*by, "images_seen"], as_index=False)["image"].nunique()
    usual = counts.groupby(by)["image"].transform(lambda c: c.quantile(0.5, interpolation="lower"))
    rows = rows.merge(counts.loc[counts["image"] >= usual, [*by, "images_seen"]])
    times = rows.groupby(by)["images_seen"].transform("nunique")
    seen = rows.groupby([*by, "image"])["images_seen"]
    return rows[seen.transform("nunique") == times]


def latest(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows of each run's last recovery, and those that are the same at any time.

    `rows` as `read_rows` returns them: without those of replaced configs.
    """
    last = rows["images_seen"] == rows.groupby("run")["images_seen"].transform("max")
    return rows[last | rows["prior"].eq("")]


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep each run's last rows of the measurements that all priors and methods recovered.

    A measurement is known by the names of problem, set and image, and by what the columns
    `operator` and `prepared` tell (`results.rows.measured`); rows without them pass for those of
    the same names. Adds the column `recovery`: prior and method, and the run too where several
    share these.

    Raises:
        ValueError: there is no such measurement.
    """
    rows = named(latest(rows))
    told = ["operator", "prepared"]
    rows = rows.reindex(columns=[*dict.fromkeys([*rows.columns, *told])])
    for name in told:
        known = rows[name].astype(object).where(rows[name].notna(), None)
        first = known.groupby([rows[key] for key in MEASUREMENT]).transform("first")
        rows[name] = [one or other or "" for one, other in zip(known, first, strict=True)]
    free = rows["prior"].eq("")  # of any prior: the same in every run
    again = rows.duplicated([*MEASUREMENT, "method", "config"], keep="last")
    rows = rows[~(free & again)].copy()
    free = rows["prior"].eq("")
    rows["recovery"] = rows["method"].where(free, rows["prior"] + ", " + rows["method"])
    if (rows[~free].groupby("recovery")["run"].nunique() > 1).any():
        of_run = rows["run"] + ": " + rows["recovery"]
        rows["recovery"] = rows["recovery"].where(free, of_run)
    every = rows["recovery"].nunique()
    by_name = rows.groupby(MEASUREMENT)["recovery"].transform("nunique") == every
    same = rows.groupby([*MEASUREMENT, *told])["recovery"].transform("nunique") == every
    if same.any():
        return rows[same]
    if by_name.any():
        problem, dataset = rows.loc[by_name, ["problem", "dataset"]].iloc[0]
        raise ValueError(
            f"these runs do not compare: under the names {problem} and {dataset} they have another "
            "operator or another prepared set"
        )
    raise ValueError("these runs have no problem, image and noise in common")
