"""Write the generated pages of the documentation: API, command line, HTTP API and code map.

Each ``make docs`` writes them again. The code map is committed, so that it can be read and compared
without a build; the others are not.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = ("ecg_lib", "flows", "bentos")
COLUMNS: Final = ("flows", "ecg_lib", "bentos")
"""The order in which the map draws them: both outer ones import the middle."""
ROOT: Final = Path(__file__).parents[2]


def list_modules(root: Path) -> dict[str, Path]:
    """List the modules of the packages, by their dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def first_sentence(path: Path) -> str:
    """Read the first line of the docstring of a module."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n")[0]


def page_of(name: str) -> str:
    """Name the page of a module, from the folder of all of them."""
    package, _, rest = name.partition(".")
    return f"{package}/{rest}.md"


def write_api(modules: dict[str, Path], to: Path) -> None:
    """Write a page for each module, which mkdocstrings fills, and one index of all."""
    shutil.rmtree(to, ignore_errors=True)
    described = {name: path for name, path in modules.items() if path.name != "__init__.py"}
    for name in described:
        page = to / page_of(name)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"# {name}\n\n::: {name}\n", encoding="utf-8")
    out = ["# Python modules\n"]
    folder = ""
    for name in sorted(described, key=lambda name: name.rpartition(".")[::2]):
        parent, _, short = name.rpartition(".")
        if parent != folder:
            folder = parent
            out += [f"\n## {folder}\n", "| Module | Purpose |", "| --- | --- |"]
        out.append(f"| [{short}]({page_of(name)}) | {cell(first_sentence(described[name]))} |")
    (to / "index.md").write_text("\n".join(out) + "\n", encoding="utf-8")


def write_cli(to: Path) -> None:
    """Write the command line by typer's own generator."""
    command = [sys.executable, "-m", "typer", "flows.local.cli", "utils", "docs", "--name", "ecg"]
    done = subprocess.run(
        [*command, "--title", "Command line"], capture_output=True, text=True, check=True
    )
    to.write_text(done.stdout, encoding="utf-8")


def write_settings(to: Path) -> None:
    """Write the environment variables from the settings class."""
    from ecg_lib.operations.settings import Settings

    out = [
        "# Settings\n",
        "Environment variables; they are read once, when a process starts.\n",
        "| Variable | Meaning | Default |",
        "| --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        default = "none" if field.default is None else f"`{field.default}`"
        # The default of a path is absolute, and so would name this machine.
        if isinstance(field.default, Path) or field.default_factory is not None:
            default = "see the class"
        out.append(f"| `ECG_{name.upper()}` | {cell(field.description or '')} | {default} |")
    to.write_text("\n".join(out) + "\n", encoding="utf-8")


def name_schema(schema: dict[str, Any]) -> str:
    """Describe the values that a schema allows, with links to models."""
    if "$ref" in schema:
        model = schema["$ref"].rpartition("/")[2]
        return f"[{model}](#{model.lower()})"
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{json.dumps(value, ensure_ascii=False)}`" for value in values)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(name_schema(part) for part in schema[key])
    kind = schema.get("type", "any")
    if kind == "array":
        kind = f"array of {name_schema(schema.get('items', {}))}"
    limits = {
        "minimum": "≥",
        "maximum": "≤",
        "exclusiveMinimum": ">",
        "exclusiveMaximum": "<",
        "minLength": "length ≥",
        "maxLength": "length ≤",
        "minItems": "items ≥",
        "maxItems": "items ≤",
        "format": "format",
        "default": "default",
    }
    said = [f"{word} {schema[key]}" for key, word in limits.items() if schema.get(key) is not None]
    return kind + (f" ({', '.join(said)})" if said else "")


def cell(text: str) -> str:
    """Make a text fit a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def write_http(to: Path, to_json: Path) -> None:
    """Write the OpenAPI description as Markdown, and as JSON beside it."""
    from bentos.routes.app import make_app

    described = make_app().openapi()
    to_json.write_text(json.dumps(described, indent=1, ensure_ascii=False), encoding="utf-8")
    out = [
        f"# HTTP API\n\n{described['info']['description']}\n",
        f"The same for machines: [openapi.json]({to_json.name}).\n",
    ]
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            out.append(f"## {method.upper()} {path.replace('{', '&#123;')}\n")
            out.append(f"{route.get('summary', '')}\n\n{route.get('description', '')}\n")
            if route.get("parameters"):
                out.append("| Parameter | In | Type | What |\n| --- | --- | --- | --- |")
                out += [
                    f"| `{p['name']}`{' (required)' if p.get('required') else ''} | {p['in']} "
                    f"| {cell(name_schema(p.get('schema', {})))} "
                    f"| {cell(p.get('description', ''))} |"
                    for p in route["parameters"]
                ]
                out.append("")
            for media, body in route.get("requestBody", {}).get("content", {}).items():
                out.append(f"Body `{media}`: {name_schema(body.get('schema', {}))}\n")
            out.append("| Status | What | Body |\n| --- | --- | --- |")
            for status, answer in route["responses"].items():
                bodies = [
                    f"`{media}`: {name_schema(b.get('schema', {}))}"
                    for media, b in answer.get("content", {}).items()
                ]
                out.append(
                    f"| {status} | {cell(answer['description'])} | {cell('; '.join(bodies))} |"
                )
            out.append("")
    out.append("## Models\n")
    for name, model in sorted(described["components"]["schemas"].items()):
        out.append(f"### {name}\n\n{model.get('description', '')}\n")
        if "enum" in model:
            out.append(name_schema(model) + "\n")
        if model.get("properties"):
            out.append("| Field | Type | What |\n| --- | --- | --- |")
            needed = model.get("required", [])
            out += [
                f"| `{field}`{' (required)' if field in needed else ''} | {cell(name_schema(s))} "
                f"| {cell(s.get('description', ''))} |"
                for field, s in model["properties"].items()
            ]
            out.append("")
    to.write_text("\n".join(out), encoding="utf-8")


def list_imports(path: Path, modules: dict[str, Path]) -> set[str]:
    """List which of our modules a module imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{name.name}" for name in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found & set(modules)


def folder_of(name: str, modules: dict[str, Path]) -> str:
    """Name the folder in which a module stands; entry points of bentos stand for themselves."""
    parts = name.split(".")
    if modules[name].name != "__init__.py":
        parts = parts[:-1]
    return ".".join(parts[:2])


def find_links(modules: dict[str, Path]) -> dict[str, Counter[str]]:
    """Count for each folder the imports from each other folder."""
    links: dict[str, Counter[str]] = {}
    for name, path in modules.items():
        folder = folder_of(name, modules)
        counted = links.setdefault(folder, Counter())
        for used in list_imports(path, modules):
            other = folder_of(used, modules)
            if other != folder and modules[used].name != "__init__.py":
                counted[other] += 1
    return links


def draw_map(folders: list[str], links: dict[str, Counter[str]]) -> str:
    """Draw the folders of each package as a column, with arrows between the packages."""
    columns = {package: [f for f in folders if f.split(".")[0] == package] for package in COLUMNS}
    height = 60 + 44 * max(len(column) for column in columns.values())
    out = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 {height}" role="img" '
            'font-family="sans-serif" font-size="13"><title>Folders of the packages and the '
            "imports between packages</title>"
        ),
        (
            '<defs><marker id="a" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
            '<path d="M0 0L8 4L0 8z" fill="#64748b"/></marker></defs>'
        ),
    ]
    at = {
        folder: (40 + 330 * x, 40 + 44 * y)
        for x, column in enumerate(columns.values())
        for y, folder in enumerate(column)
    }
    for folder, counted in links.items():
        for other, count in sorted(counted.items()):
            (x, y), (to_x, to_y) = at[folder], at[other]
            if x == to_x:
                continue
            begin, end = (x + 220, to_x) if to_x > x else (x, to_x + 220)
            out.append(
                f'<path d="M{begin} {y + 16}L{end} {to_y + 16}" stroke="#94a3b8" '
                f'stroke-width="{min(1 + count / 8, 4):.1f}" marker-end="url(#a)"/>'
            )
    for folder, (x, y) in at.items():
        out.append(
            f'<rect x="{x}" y="{y}" width="220" height="32" rx="6" fill="#eef4ff" '
            f'stroke="#3b82f6"/><text x="{x + 110}" y="{y + 21}" text-anchor="middle" '
            f'fill="#0f172a">{folder}</text>'
        )
    return "\n".join([*out, "</svg>"]) + "\n"


def write_map(modules: dict[str, Path], to: Path) -> None:
    """Write the folders, what they hold and what they import, as a drawing and a table."""
    links = find_links(modules)
    folders = sorted(links, key=lambda folder: (COLUMNS.index(folder.split(".")[0]), folder))
    to.with_suffix(".svg").write_text(draw_map(folders, links), encoding="utf-8")
    out = [
        "# Map of the code\n",
        (
            "Drawn from the imports by `make docs`; a test fails when it is out of date. `flows` "
            "and `bentos` use `ecg_lib` and never each other. "
            "[What each module is for](../reference/api/index.md).\n"
        ),
        "![The folders of flows, ecg_lib and bentos; the arrows are imports](code-map.svg)\n",
        "| Folder | Modules | Imports from (number of imports) |",
        "| --- | ---: | --- |",
    ]
    for folder in folders:
        inside = [
            name
            for name, path in modules.items()
            if folder_of(name, modules) == folder and path.name != "__init__.py"
        ]
        used = ", ".join(f"{other} ({count})" for other, count in sorted(links[folder].items()))
        out.append(f"| `{folder}` | {len(inside)} | {used or 'nothing of ours'} |")
    to.write_text("\n".join(out) + "\n", encoding="utf-8")


def main() -> None:
    """Write all generated pages."""
    docs = ROOT / "docs"
    modules = list_modules(ROOT)
    write_api(modules, docs / "reference" / "api")
    write_cli(docs / "reference" / "cli.md")
    write_http(docs / "reference" / "http-api.md", docs / "reference" / "openapi.json")
    write_settings(docs / "reference" / "settings.md")
    write_map(modules, docs / "explanation" / "code-map.md")


if __name__ == "__main__":
    main()
