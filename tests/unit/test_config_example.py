"""The example file has every key, and works."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from marginguard.config import load_config
from marginguard.config.guards import GuardSettings
from marginguard.config.models import File
from marginguard.config.table import Table
from tests.unit.config_files import load

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.toml"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def tables(model: type[BaseModel], name: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield every table below `model` with the header it has in the file."""
    for key, field in model.model_fields.items():
        inner = GuardSettings if (model, key) == (File, "guards") else inner_table(field.annotation)
        if inner is not None:
            yield f"{name}{key}", inner
            yield from tables(inner, f"{name}{key}.")


def inner_table(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(inner_table, get_args(annotation))), None)


def example_tables() -> dict[str, list[str]]:
    """Return the lines of the example by table header, keys behind a # included."""
    found: dict[str, list[str]] = {}
    header = ""
    for line in EXAMPLE.read_text().splitlines():
        if match := re.fullmatch(r'(?:# )?\[+([a-z_.]+)(\."[-0-9a-f]+"(\.[a-z]+)?)?\]+', line):
            header = match[1] + (match[3] or "")
            header = "plans" if header.startswith("plans.") else header  # their names are free
        found.setdefault(header, []).append(line)
    return found


def leaves(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {
        key: field
        for key, field in model.model_fields.items()
        if inner_table(field.annotation) is None
    }


@pytest.mark.parametrize(("header", "model"), list(tables(File)))
def test_the_example_has_every_key_of(header: str, model: type[Table]) -> None:
    found = example_tables()
    lines = found.get(header, [])
    if header in {"guards.escalation", "guards.individual_configs"} or header.count(".") > 1:
        lines = lines + found["guards"]  # which has all the keys that can be given again below it
    for key in leaves(model):
        assert any(re.match(rf"(# )?{key} = ", line) for line in lines), f"{header}.{key}"


def test_the_example_has_no_key_that_is_unknown(path: Path) -> None:
    models = dict(tables(File))
    for header, lines in example_tables().items():
        for line in lines:
            if header and (match := re.match(r"(?:# )?([a-z_]+) = ", line)):
                assert match[1] in models[header].model_fields, line


@pytest.mark.parametrize("header", ["daemon", "exchange", "actions", "guards.budget", "guards"])
def test_the_example_shows_the_defaults(header: str) -> None:
    written = tomllib.loads(EXAMPLE.read_text())
    for part in header.split("."):
        written = written[part][0] if isinstance(written[part], list) else written[part]
    model = dict(tables(File))[header]
    fields = leaves(model)
    own = {key: written[key] for key in fields if key in written and key != "state_dir"}
    required = {key: own[key] for key in own if fields[key].is_required()}
    if "dry_run" in own:
        own["dry_run"] = False  # its comment says that the default differs
    assert model(**own).model_dump() == model(**required).model_dump()


def test_the_example_can_be_run(tmp_path: Path) -> None:
    for name in ("lnm-key", "lnm-secret", "lnm-passphrase"):
        (tmp_path / name).write_text("some-secret\n")
    config = load_config(EXAMPLE, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert config.refused_guards == ()
    (guard,) = config.guards
    assert guard.dry_run, "whoever starts from the example must not act by accident"


def test_every_line_of_the_example_that_is_switched_off_can_be_switched_on(path: Path) -> None:
    """Each commented table as a whole: whoever takes the # away has something that works."""
    text = EXAMPLE.read_text()
    for start, end in [("# Who owns accounts", "# An account on"), ("# Further rungs", r"\Z")]:
        part = re.search(f"(?s){start}.*?{end}", text)
        assert part is not None
        on = re.sub(r"(?m)^# (?=\[|[a-z_]+ = )", "", part[0])
        text = text.replace(part[0], on)
    for name in ("lnm-key", "lnm-secret", "lnm-passphrase"):
        text = text.replace(f"credential:{name}", "env:LNM")
    text = text.replace("credential:ana-webhook-url", "https://example.com/hook")
    config = load(path, text)
    assert [user.id for user in config.users] == ["ana"]
    assert config.plans["family"].priority == 4
    assert config.refused_guards == ()
    (guard,) = config.guards
    assert len(guard.escalation) == len(guard.individual_configs) == 1


@pytest.mark.parametrize(("header", "model"), list(tables(File)))
def test_every_key_says_what_is_allowed_in(header: str, model: type[Table]) -> None:
    for key, field in model.model_fields.items():
        assert field.description, f"{header}.{key}"
