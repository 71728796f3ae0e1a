"""The templates that notices are written with: ours, and the owner's in front of them."""

import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jinja2
import structlog

from marginguard.domain.errors import ConfigError
from marginguard.domain.notice import NoticeKind
from marginguard.notify import wording

PARTS: Final = ("subject", "text", "html", "short")
"""What is written from a template each: `text.j2`, or for one kind `action_done.text.j2`."""

_PACKAGED: Final = Path(__file__).parent / "templates"
_SUFFIX: Final = ".j2"


class Templates:
    """Fills in templates; the files of `directory`, where there is one, replace ours.

    The files are read once. A template of the owner's that fails is logged, and ours takes its
    place: a notice is never lost for it.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._ours = _environment(_PACKAGED)
        self._all = self._ours if directory is None else _environment(directory, _PACKAGED)

    def fill(self, part: str, kind: NoticeKind, values: Mapping[str, Any]) -> str:
        """Return one of `PARTS` for a notice of this kind."""
        names = (f"{kind.value}.{part}{_SUFFIX}", f"{part}{_SUFFIX}")
        if self._directory is not None:
            try:
                return self._all.select_template(names).render(values).strip()
            except Exception as error:  # noqa: BLE001 - an expression may raise anything
                structlog.get_logger().warning(
                    "notify.template",
                    error=_problem(error, self._directory, names[-1]),
                    advice="correct the template; marginguard's own was used instead",
                )
        return self._ours.select_template(names).render(values).strip()

    def problems(self, samples: Mapping[NoticeKind, tuple[Mapping[str, Any], ...]]) -> list[str]:
        """Return a line for each fault of the owner's templates, filled in with `samples`."""
        if self._directory is None:
            return []
        if not self._directory.is_dir():
            return [f"{self._directory}: there is no such directory of templates"]
        return list(self._find_problems(self._directory, samples))

    def _find_problems(
        self, directory: Path, samples: Mapping[NoticeKind, tuple[Mapping[str, Any], ...]]
    ) -> Iterator[str]:
        for path in sorted(directory.glob(f"*{_SUFFIX}")):
            if path.name.startswith("_"):
                continue  # included by the others, and tried with them
            kinds = _kinds_of(path.name)
            if not kinds:
                yield (
                    f"{path}: no notice is written with it; a template's name is one of"
                    f" {', '.join(f'{part}{_SUFFIX}' for part in PARTS)}, after the kind and a"
                    f" full stop where it is for one kind alone ({', '.join(NoticeKind)})"
                )
                continue
            try:
                template = self._all.get_template(path.name)
                for kind in kinds:
                    for sample in samples[kind]:
                        template.render(sample)
            except Exception as error:  # noqa: BLE001 - an expression may raise anything
                yield _problem(error, directory, path.name)


def check_template_files(
    directory: Path | None, samples: Mapping[NoticeKind, tuple[Mapping[str, Any], ...]]
) -> None:
    """Raise `ConfigError`, with file and line, for each template that fails on a sample."""
    if problems := Templates(directory).problems(samples):
        raise ConfigError(*problems)


def _environment(*directories: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(directories),
        undefined=jinja2.StrictUndefined,
        autoescape=_is_html,  # noqa: S701 - the mail's HTML is escaped; the rest is plain text
        auto_reload=False,
    )
    environment.filters |= {
        "sats": wording.sats,
        "usd": wording.usd,
        "percent": wording.percent,
        "margin_level": wording.margin_level,
    }
    return environment


def _is_html(name: str | None) -> bool:
    return name is not None and name.endswith(f"html{_SUFFIX}")


def _kinds_of(name: str) -> tuple[NoticeKind, ...]:
    """Return the kinds of notice that a template of this name is for."""
    kind, _, part = name.removesuffix(_SUFFIX).rpartition(".")
    if part not in PARTS:
        return ()
    return tuple(NoticeKind) if not kind else tuple(k for k in NoticeKind if k.value == kind)


def _problem(error: Exception, directory: Path, name: str) -> str:
    """Return what is wrong in words, with the file and the line where they can be told."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"{error.filename or directory / name}, line {error.lineno}: {error.message}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(directory)
    ]
    where = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else directory / name
    return f"{where}: {error}"
