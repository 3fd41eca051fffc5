"""The model card of an exported prior, in Markdown."""

from typing import Any

import yaml

INTENDED = """\
Research on inverse problems: recovering images from few or noisy measurements, and comparing how
well priors do so in and out of the distribution they were trained on."""

LIMITS = {
    "flow": """\
An invertible prior has a latent for every image, but what the measurements leave open it fills in
from its training set, and shares that set's bias: with few measurements, faces unlike it come back
as faces like it. More measurements bring them back.""",
    "gan": """\
A GAN represents only images like those of its training set, and shares that set's bias: faces
unlike it come back as faces like it, however many measurements there are.""",
    "latent-convolutional": """\
A latent convolutional model represents images like those of its training set better than others,
and shares that set's bias. Unlike an invertible prior it cannot represent every image.""",
}

LATENT_VARIABLE = {"gan": "a GAN", "latent-convolutional": "a latent convolutional model"}

KINDS = {  # of prior, and of its latent
    "flow": ("An invertible prior", "standard normal"),
    "gan": ("A GAN prior", "standard normal"),
    "latent-convolutional": (
        "A latent convolutional model",
        "the weights of a latent network; they have no distribution",
    ),
}

NOT_FOR = """\
A recovered detail is not evidence. Not for identifying people, nor for any decision about them."""


def model_card(
    name: str,
    record: dict[str, Any],
    config: dict[str, Any],
    data: str,
    licence: str,
    hardware: str,
) -> str:
    """Write the card of an export called `name`: what prior.json says and what its maker states."""
    kind, distribution = KINDS[record["kind"]]
    project = record["project"].split()[0]
    channels, height, width = record["image_shape"]
    begun = f", begun from the weights of {record['begun_from']}" if record["begun_from"] else ""
    facts = {
        "network": f"`{record['class_path']}`, {record['parameters']:,} parameters",
        "images": f"{channels} x {height} x {width}, values from 0 to 1",
        "latent": f"{record['latent_dim']:,} values, {distribution}",
        "training data": data,
        "licence": licence,
        "images seen in training": f"{record['images_seen']:,}{begun}",
        "bits per dimension": bits_per_dimension(record),
        "hardware": hardware,
        "weights": f"{record['precision']}, fingerprint `{record['fingerprint']}`",
        "sha256 of the weights": f"`{record['sha256']}`",
        "made with": f"{record['project']}, torch {record['torch']}",
    }
    has_root = "root" in config["data"]["init_args"]
    where = " and the folder of its data as `--data.root`" if has_root else ""
    where += " and the prior it began from as `--run.begin_from`" if begun else ""
    table = "\n".join(f"| {what} | {cell(value)} |" for what, value in facts.items())
    return f"""# {name}

{kind} on images, for recovery from measurements, trained with {project}.

| | |
|---|---|
{table}

## Use

In the repository of {project}:

```python
from priors import load_prior

prior = load_prior("{name}")  # this folder
```

## Intended use and limits

{INTENDED}

{LIMITS[record["kind"]]}

{NOT_FOR}

## Architecture

```yaml
{as_yaml({"class_path": record["class_path"], "init_args": record["init_args"]})}```

## Training

    python train.py fit --config config.yaml

with this config.yaml{where}:

```yaml
{as_yaml(training_config(config))}```
"""


def bits_per_dimension(record: dict[str, Any]) -> str:
    """State bits per dimension by held-out set, or why there are none."""
    if record["kind"] in LATENT_VARIABLE:
        return f"none: {LATENT_VARIABLE[record['kind']]} has no likelihood"
    if not record["bits_per_dim"]:
        return "not measured at this checkpoint"
    sets = ", ".join(f"{bits:.3f} on {name}" for name, bits in record["bits_per_dim"].items())
    return f"{sets} (images of {2 ** record['bits']} levels)"


def training_config(config: dict[str, Any]) -> dict[str, Any]:
    """Pick what makes the prior what it is from a run's config; no path on its maker's machine."""
    trainer = ("devices", "num_nodes", "precision", "accumulate_grad_batches")
    data = config["data"]
    arguments = {key: value for key, value in data["init_args"].items() if key != "root"}
    return {
        "run": {"name": config["run"]["name"]},
        "trainer": {key: config["trainer"][key] for key in trainer if key in config["trainer"]},
        "model": config["model"],
        "data": {"class_path": data["class_path"], "init_args": arguments},
    }


def as_yaml(tree: dict[str, Any]) -> str:
    return yaml.safe_dump(tree, sort_keys=False)


def cell(text: str) -> str:
    """Keep text within its cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
