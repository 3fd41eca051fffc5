"""python -m report: several runs, compared as a table and a figure."""

from pathlib import Path

import pytest
from rich.console import Console

from report.__main__ import main
from report.curves import comparison_figure
from report.terminal import comparison_table
from results.means import compared
from tests.made import two_runs


def test_the_comparison_as_a_table_and_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = two_runs().assign(config="c")
    console = Console(width=120, record=True)
    console.print(comparison_table(compared(rows)))
    text = console.export_text()
    assert "41.00 ± 1.00" in text and "23.00 ± 1.00" in text  # cs-10%: 40 and 22 plus 10 / 10
    assert "45.00 ± 1.00" in text and "27.00 ± 1.00" in text
    mixed = rows.copy()  # a set of the GAN's own faces is out of the flow's distribution
    mixed.loc[(rows["run"] == "one") & (rows["dataset"] == "faces-in"), "distribution"] = "out"
    console.print(comparison_table(compared(mixed)))
    assert "faces-in out/in" in console.export_text()
    left, right = comparison_figure(compared(rows)).axes
    assert left.get_title() == "in distribution: faces-in"
    assert right.get_title() == "out of distribution: faces-out"
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["glow, latent-search", "dcgan, csgm"]
    for run in ("one", "two"):
        folder = tmp_path / run
        folder.mkdir()
        rows[rows["run"] == run].to_csv(folder / "rows.csv", index=False)
    line = '{"hash": "c", "config": {"problem": {"seed": SEED}, "set": "ab"}}\n'
    for run, seed in (("one", "0"), ("two", "1")):
        (tmp_path / run / "configs.jsonl").write_text(line.replace("SEED", seed))
    with pytest.raises(SystemExit, match="error: these runs do not compare: under the names cs-"):
        main([str(tmp_path / "one"), str(tmp_path / "two")])
    (tmp_path / "two" / "configs.jsonl").write_text(line.replace("SEED", "0"))
    one = rows[rows["run"] == "one"]
    for rate, more in (("low", 0.0), ("high", 5.0)):  # folders of one last name
        folder = tmp_path / rate / "one"
        folder.mkdir(parents=True)
        one.assign(psnr=one["psnr"] + more).to_csv(folder / "rows.csv", index=False)
    capsys.readouterr()
    main([str(tmp_path / "low" / "one"), str(tmp_path / "high" / "one")])
    said = capsys.readouterr().out
    assert "low/one" in said.replace("\n", "") and "44.00" in said and "49.00" in said
    main([str(tmp_path / "one"), str(tmp_path / "two")])
    assert (tmp_path / "comparison.png").exists()
    main([str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(tmp_path / "own.png")])
    assert (tmp_path / "own.png").exists()
    capsys.readouterr()
    with pytest.raises(SystemExit, match="nowhere"):
        main([str(tmp_path / "one"), str(tmp_path / "nowhere")])
