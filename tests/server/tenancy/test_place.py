"""What must outlive the server lies where the settings say, else with the user's data."""

from pathlib import Path

import pytest

from senryu.server.settings import ServerSettings
from senryu.server.tenancy.place import data_folder, database_address, files_folder


def test_left_out_it_is_the_users_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENRYU_DATA", "/srv/senryu")
    assert data_folder(ServerSettings()) == Path("/srv/senryu")
    assert database_address(ServerSettings()) == "/srv/senryu/senryu.db"
    assert files_folder(ServerSettings()) == Path("/srv/senryu/files")


def test_the_settings_go_before_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SENRYU_DATA", "/srv/senryu")
    settings = ServerSettings(data=str(tmp_path))
    assert database_address(settings) == str(tmp_path / "senryu.db")


def test_a_database_of_its_own_leaves_the_files_in_the_data_folder(tmp_path: Path) -> None:
    settings = ServerSettings(data=str(tmp_path), database="postgresql://db.example/team")
    assert database_address(settings) == "postgresql://db.example/team"
    assert files_folder(settings) == tmp_path / "files"


def test_none_keeps_nothing() -> None:
    assert database_address(ServerSettings(database="none")) is None


def test_a_tilde_is_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/ann")
    assert data_folder(ServerSettings(data="~/senryu")) == Path("/srv/ann/senryu")
    assert database_address(ServerSettings(database="~/team.db")) == "/srv/ann/team.db"
