"""What evaluate.py --help says."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser

from cli.help import Page
from results.trial import NamedMethod, Problem

INTRO = """
python evaluate.py --config configs/evaluate/EXPERIMENT.yaml [--config configs/evaluate/small.yaml]
                   [--KEY VALUE ...]

Recovers sets x problems x methods x seeds, makes the studies that the experiment names, and writes
one report page. The same command again computes only what is missing. See docs/evaluation.md.

  --config FILE       merged, key by key, into configs/evaluate/defaults.yaml and the files before
                      it; one with `overlay: true` into all others. Options win over files
  --print_config      shows what the command resolves to, and does nothing
  --help [CLASS]      this page; or the arguments of any class that a config names, such as
                      --help recovery.latent_search.LatentSearch
"""


def page(parser: ArgumentParser, defaults: Mapping[str, Any]) -> str:
    page = Page(INTRO, parser, defaults)
    page.keys("The experiment", "name", "title", "image_size", "priors", "sets", "studies")
    page.keys("What is recovered", "trials.")
    page.keys("Definitions", "problems", "methods")
    page.arguments("A problem", Problem, "problems.NAME.")
    page.arguments("A method, if it is not its class alone", NamedMethod, "methods.NAME.")
    page.keys("Where things are", "data", "attributes", "name_column", "root")
    page.keys("The machine", "device", "processes", "batch_size")
    page.keys("The report", "published", "pictures", "wandb", "project")
    return page.text()
