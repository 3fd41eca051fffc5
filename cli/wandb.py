"""What both programs ask of Weights & Biases before they begin."""

FORBIDDEN = "\\#?%:"  # in a project's name, by W&B's own rule


def split_project(key: str, project: str) -> tuple[str | None, str]:
    """(entity or None, name) of a project given as `name` or `entity/name`.

    Raises ValueError, naming the config's key, for a name that W&B refuses.
    """
    entity, slash, name = project.rpartition("/")
    wrong = [sign for sign in FORBIDDEN if sign in project]
    if wrong or not name or "/" in entity or (slash and not entity) or len(name) > 128:
        raise ValueError(
            f"{key} {project!r}: expected NAME or ENTITY/NAME, without any of {FORBIDDEN}"
        )
    return entity or None, name
