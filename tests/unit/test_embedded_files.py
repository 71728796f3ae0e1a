"""Where the embedded server keeps things, decided without a server."""

import os
import pwd
import stat
from pathlib import Path

import pytest

from marginguard.domain.errors import ConfigError
from marginguard.storage import embedded_files
from marginguard.storage.embedded_files import (
    MAX_SOCKET_PATH_BYTES,
    SOCKET_NAME,
    Layout,
    OsUser,
    first_closed,
    make_private_dir,
    server_user,
)

MYSELF = OsUser(name="me", uid=os.geteuid(), gid=os.getegid())


def layout_in(state_dir: Path) -> Layout:
    return Layout(state_dir=state_dir, major=18)


@pytest.mark.parametrize(("over", "inside"), [(0, True), (1, False)])
def test_the_socket_lies_elsewhere_as_soon_as_its_path_is_a_byte_too_long(
    over: int, inside: bool
) -> None:
    fixed = len(os.fsencode(f"/pg18/socket/{SOCKET_NAME}"))
    state_dir = Path("/" + "x" * (MAX_SOCKET_PATH_BYTES - fixed - 1 + over))
    layout = layout_in(state_dir)
    path = layout.socket_dir / SOCKET_NAME
    assert path.is_relative_to(state_dir) is inside
    assert len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES


def test_a_comma_which_separates_directories_never_gets_into_the_socket_path() -> None:
    assert "," not in str(layout_in(Path("/a,b")).socket_dir)


def test_two_state_directories_never_share_a_socket_directory() -> None:
    long = "x" * MAX_SOCKET_PATH_BYTES
    first, second = layout_in(Path(f"/{long}/1")), layout_in(Path(f"/{long}/2"))
    assert first.socket_dir != second.socket_dir


def test_a_directory_that_somebody_else_made_is_refused_as_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    monkeypatch.setattr(embedded_files.os, "geteuid", lambda: MYSELF.uid + 1)
    someone = OsUser(name="someone", uid=MYSELF.uid + 1, gid=MYSELF.gid)
    with pytest.raises(ConfigError, match="someone with mode 0700"):
        make_private_dir(theirs, someone)


def test_a_directory_open_to_others_is_refused_as_private(tmp_path: Path) -> None:
    opened = tmp_path / "open"
    opened.mkdir()
    opened.chmod(0o755)
    with pytest.raises(ConfigError, match="mode 0700"):
        make_private_dir(opened, MYSELF)
    assert stat.S_IMODE(opened.stat().st_mode) == 0o755


def test_a_link_is_refused_as_a_private_directory(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        make_private_dir(link, MYSELF)


def test_the_directory_that_stops_another_user_is_named(state_dir: Path) -> None:
    outer = state_dir / "outer"
    inner = outer / "inner"
    inner.mkdir(parents=True)
    inner.chmod(0o711)
    stranger = OsUser(name="stranger", uid=MYSELF.uid + 1, gid=outer.stat().st_gid + 1)
    fellow = OsUser(name="fellow", uid=MYSELF.uid + 1, gid=outer.stat().st_gid)
    outer.chmod(0o711)
    assert first_closed(inner / "not made yet", stranger) is None
    outer.chmod(0o710)
    assert first_closed(inner, stranger) == outer
    assert first_closed(inner, fellow) is None
    outer.chmod(0o701)
    assert first_closed(inner, stranger) is None
    assert first_closed(inner, fellow) == outer
    assert first_closed(inner, MYSELF) is None


def test_a_user_id_without_a_passwd_entry_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    nobody_has = next(uid for uid in range(20_000, 60_000) if uid not in taken)
    monkeypatch.setattr(embedded_files.os, "geteuid", lambda: nobody_has)
    with pytest.raises(ConfigError, match=rf"user id {nobody_has}.*passwd.*url"):
        server_user(layout_in(tmp_path))


def test_data_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_in(tmp_path)
    layout.cluster.mkdir()
    monkeypatch.setattr(embedded_files.os, "geteuid", lambda: MYSELF.uid + 1)
    with pytest.raises(ConfigError, match=rf"belongs to user id {MYSELF.uid}.*as root"):
        server_user(layout)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_root_becomes_the_owner_of_the_data_before_anybody_else(tmp_path: Path) -> None:
    layout = layout_in(tmp_path)
    assert server_user(layout).name in embedded_files.UNPRIVILEGED_USERS
    entry = next(entry for entry in pwd.getpwall() if entry.pw_uid not in {0, MYSELF.uid})
    other = next(e for e in pwd.getpwall() if e.pw_uid not in {0, entry.pw_uid})
    os.chown(tmp_path, other.pw_uid, other.pw_gid)
    assert server_user(layout).uid == other.pw_uid
    layout.cluster.mkdir()
    os.chown(layout.cluster, entry.pw_uid, entry.pw_gid)
    assert server_user(layout).uid == entry.pw_uid
