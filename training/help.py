"""What train.py --help says: `python -m training.store_help` writes it to help.txt."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser

from cli.help import Page
from datamodules.faces import ProceduralFaces, ShardedFaces
from lightning_modules import Adversarial, MaximumLikelihood
from networks.glow import Glow
from results.trial import NamedMethod, Problem

INTRO = """
python train.py fit --config configs/EXPERIMENT.yaml [--config OVERLAY.yaml ...] [--KEY VALUE ...]

Trains a prior, and after every epoch recovers held-out images through it. The same command again
resumes. See docs/train.md.

  --config FILE       merged, key by key, into configs/defaults.yaml and the files before it; one
                      with `overlay: true` into all others. Options win over files
  --print_config      shows what the command resolves to, and does nothing
  --help [CLASS]      this page; or the arguments of any class that a config names, such as
                      --help networks.dcgan.Generator
"""
WORDS = {
    "ckpt_path": "a checkpoint of another run, to begin from with its optimiser and its clock.",
    "seed_everything": "of whatever draws from a global random state.",
    "model": "what is trained; --model.KEY is one of its arguments.",
    "data": "what it is trained on; --data.KEY is one of its arguments.",
    "trainer.accelerator": "auto, cpu or gpu.",
    "trainer.devices": "how many of each node, or auto.",
    "trainer.num_nodes": "of a cluster; see configs/cluster.yaml.",
    "trainer.strategy": "how devices work together; see configs/cluster.yaml.",
    "trainer.precision": "bf16-mixed: coupling networks in bfloat16 (Glow's default on CPUs that "
    "have it); 32-true: all in float32.",
    "trainer.accumulate_grad_batches": "micro-batches of a flow's optimiser step; bounds memory.",
    "trainer.max_time": "DD:HH:MM:SS after which training stops; the same command goes on.",
    "trainer.log_every_n_steps": "how often numbers are logged.",
    "trainer.enable_progress_bar": "show progress bars.",
    "trainer.profiler": "simple or advanced: where the time goes.",
}
TRAINER = [key for key in WORDS if key.startswith("trainer.")]
ALL = """
  All with their values: --print_config
  What they mean: lightning.ai/docs/pytorch/stable/common/trainer.html
"""


def page(parser: ArgumentParser, defaults: Mapping[str, Any]) -> str:
    page = Page(INTRO, parser, defaults)
    page.keys("The run", "run.", "ckpt_path", "seed_everything", words=WORDS)
    page.keys("The model", "model", words=WORDS)
    page.arguments("A flow, lightning_modules.MaximumLikelihood", MaximumLikelihood, "--model.")
    page.arguments("Its network, networks.glow.Glow say", Glow, "--model.network.")
    page.arguments("A GAN, lightning_modules.Adversarial", Adversarial, "--model.")
    page.keys("The data", "data", words=WORDS)
    page.arguments("Prepared faces, datamodules.faces.ShardedFaces", ShardedFaces, "--data.")
    page.arguments("Drawn faces, datamodules.faces.ProceduralFaces", ProceduralFaces, "--data.")
    page.keys("Recovery", "recovery.")
    page.arguments("A problem", Problem, "recovery.problems.NAME.")
    page.arguments("A method, if it is not its class alone", NamedMethod, "recovery.methods.NAME.")
    page.keys("What is kept and shown", "checkpoints.", "samples.", "quality.")
    page.keys("Of Lightning's Trainer, which has more than these", *TRAINER, words=WORDS)
    return page.text() + ALL
