"""Hook of mkdocs: writes the tables of all settings, as the sections of the config declare them."""

import dataclasses
import importlib
import re

SETTINGS_PAGE = "reference/settings.md"
MARKER = "<!-- settings -->"

WORLDS = {
    "gridworld-pinpad": "internal_rl.envs.gridworld.GridWorldConfig",
    "ant-pinpad": "internal_rl.envs.ant.AntWorldConfig",
}
"""Class of the settings of each world of the package, which stand in the section `environment`."""


def on_page_markdown(markdown, page, **_):
    """Puts the tables in the place of the marker."""
    if page.file.src_uri != SETTINGS_PAGE:
        return markdown
    return markdown.replace(MARKER, settings_text())


def settings_text():
    """One table for each section of a config and each world, as Markdown."""
    from internal_rl.stages.catalogue import section_types

    parts = []
    for name, path in WORLDS.items():
        module, _, class_name = path.rpartition(".")
        try:
            config = getattr(importlib.import_module(module), class_name)
        except ImportError:  # the ant needs MuJoCo
            continue
        parts.append(_section_text("environment", config, f", `name` {name}"))
    parts += [_section_text(name, section) for name, section in section_types().items()]
    return "\n\n".join(parts)


def _section_text(name, section, remark=""):
    lines = [
        f"## `{name}`{remark}",
        "",
        f"`{section.__module__}.{section.__qualname__}`",
        "",
        "| field | default | allowed | |",
        "|---|---|---|---|",
    ]
    meanings = _meanings(section)
    for field in dataclasses.fields(section):
        default, rule = _shown(field.default), field.metadata.get("rule")
        allowed = rule.allowed if rule else ""
        meaning = meanings.get(field.name, "")
        lines.append(f"| `{field.name}` | {default} | {allowed} | {meaning} |")
    return "\n".join(lines)


def _shown(default):
    return "`''`" if default == "" else f"`{default}`"


def _meanings(section):
    """What the docstrings of a class and of those that it inherits from say about the fields."""
    found = {}
    for base in reversed(section.__mro__):
        _, _, block = (base.__doc__ or "").partition("Attributes:\n")
        # A field begins at the block's own depth; what is further in goes on with it.
        depth = re.match(r" *", block).group()
        for entry in re.split(rf"\n{depth}(?=\w+: )", block.removeprefix(depth)):
            name, colon, text = entry.partition(":")
            if colon:
                found[name] = " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")
    return found
