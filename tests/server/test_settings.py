"""Settings come from four layers, say where from, and refuse what they do not know."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from senryu.server.layers import (
    Loaded,
    SettingsError,
    add_flags,
    documented,
    load,
    load_arguments,
)
from senryu.server.settings import ServerSettings


def load_server(
    file: Path | None = None,
    environment: dict[str, str] | None = None,
    flags: dict[str, Any] | None = None,
) -> Loaded[ServerSettings]:
    return load(
        ServerSettings,
        table="server",
        file=file,
        environment=environment or {},
        flags=flags or {},
    )


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No senryu.toml of the person who runs the tests may be found."""
    monkeypatch.chdir(tmp_path)


def toml(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "senryu.toml"
    file.write_text(text)
    return file


def test_without_any_source_every_setting_has_its_default() -> None:
    loaded = load_server()
    assert loaded.settings == ServerSettings()
    assert set(loaded.origins.values()) == {"default"}


def test_a_later_layer_wins_and_each_value_tells_its_origin(tmp_path: Path) -> None:
    toml(tmp_path, "[server]\nport = 1\nwindow = 2\nthreads = 3\n")
    loaded = load_server(
        environment={"SENRYU_WINDOW": "20", "SENRYU_THREADS": "30", "HOME": "/nowhere"},
        flags={"threads": "300", "model": None},
    )
    assert (loaded.settings.port, loaded.settings.window, loaded.settings.threads) == (1, 20, 300)
    assert {name: loaded.origins[name] for name in ("port", "window", "threads", "model")} == {
        "port": "senryu.toml",
        "window": "SENRYU_WINDOW",
        "threads": "--threads",
        "model": "default",
    }


def test_a_named_file_is_read_instead_of_the_one_in_the_folder(tmp_path: Path) -> None:
    toml(tmp_path, "[server]\nport = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("[server]\nport = 2\n[benches]\nanything = true\n")
    loaded = load_server(file=other)
    assert loaded.settings.port == 2
    assert loaded.origins["port"] == str(other)


@pytest.mark.parametrize(
    ("environment", "name", "value"),
    [
        ({"SENRYU_PORT": "0"}, "port", 0),
        ({"SENRYU_COMPILE": "no"}, "compile", False),
        ({"SENRYU_COMPILE": "True"}, "compile", True),
        ({"SENRYU_KV_MEMORY_GIB": "1.5"}, "kv_memory_gib", 1.5),
        ({"SENRYU_KV_MEMORY_GIB": "2"}, "kv_memory_gib", 2.0),
        ({"SENRYU_ALIASES": "a*, b"}, "aliases", ("a*", "b")),
        ({"SENRYU_API_KEY": "0123"}, "api_key", "0123"),
        ({"SENRYU_CACHE": "/somewhere"}, "model", "embedded"),
        ({"SENRYU_STRICT": "yes"}, "strict", True),
        ({"SENRYU_DIALECT": "hermes"}, "dialect", "hermes"),
        ({"SENRYU_CORS_ORIGINS": ""}, "cors_origins", ()),
        ({"SENRYU_CORS_ORIGINS": "*"}, "cors_origins", ("*",)),
        (
            {"SENRYU_CORS_ORIGINS": "http://localhost:3000, null,app://desk,file://"},
            "cors_origins",
            ("http://localhost:3000", "null", "app://desk", "file://"),
        ),
    ],
)
def test_text_of_the_environment_becomes_the_settings_type(
    environment: dict[str, str], name: str, value: object
) -> None:
    found = getattr(load_server(environment=environment).settings, name)
    assert found == value
    assert type(found) is type(value)


def test_toml_brings_types_of_its_own(tmp_path: Path) -> None:
    file = toml(tmp_path, '[server]\naliases = ["x", "y*"]\ncompile = true\nping_seconds = 2\n')
    settings = load_server(file).settings
    assert settings.aliases == ("x", "y*")
    assert settings.compile is True
    assert settings.ping_seconds == 2.0


@pytest.mark.parametrize(
    ("environment", "flags", "text"),
    [
        ({"SENRYU_PRT": "1"}, {}, "SENRYU_PRT: there is no setting prt; did you mean port?"),
        ({"SENRYU_XYZZY": "1"}, {}, "SENRYU_XYZZY: there is no setting xyzzy; the names are model"),
        ({"SENRYU_PORT": "http"}, {}, "port: 'http' (SENRYU_PORT) is not of type int"),
        ({"SENRYU_PORT": ""}, {}, "port: '' (SENRYU_PORT) is not of type int"),
        ({"SENRYU_COMPILE": "perhaps"}, {}, "compile: 'perhaps' (SENRYU_COMPILE) is not of type"),
        ({"SENRYU_PORT": "65536"}, {}, "port: 65536 is not a port"),
        ({"SENRYU_ENGINE": "llama"}, {}, "engine: 'llama' is not one of auto, vllm, scripted"),
        ({"SENRYU_DEVICE": "tpu"}, {}, "device: 'tpu' is not one of auto, gpu, cpu"),
        ({"SENRYU_DTYPE": "int4"}, {}, "dtype: 'int4' is not one of"),
        ({"SENRYU_API_KEY": " "}, {}, "api_key: an empty key protects nothing"),
        ({"SENRYU_SIGNING_KEY": ""}, {}, "signing_key: an empty key protects nothing"),
        ({"SENRYU_CORS_ORIGINS": "http://x/"}, {}, "cors_origins: 'http://x/' is not an origin"),
        ({"SENRYU_CORS_ORIGINS": "x:3000"}, {}, "cors_origins: 'x:3000' is not an origin"),
        (
            {"SENRYU_CORS_ORIGINS": "http://X.test"},
            {},
            "cors_origins: 'http://X.test' is not an origin",
        ),
        ({}, {"window": "0"}, "window: 0 must be greater than 0"),
        ({}, {"window": "-5"}, "window: -5 must be greater than 0"),
        ({}, {"kv_memory_gib": "many"}, "kv_memory_gib: 'many' (--kv-memory-gib) is not of type"),
        ({}, {"ping_seconds": "nan"}, "ping_seconds: nan is not a finite number"),
        ({}, {"body_seconds": "0"}, "body_seconds: 0.0 must be greater than 0"),
        ({}, {"body_limit_mb": "0"}, "body_limit_mb: 0.0 must be greater than 0"),
        ({}, {"body_limit_mb": "inf"}, "body_limit_mb: inf is not a finite number"),
        ({}, {"kv_memory_gib": "nan"}, "kv_memory_gib: nan is not a finite number"),
        ({}, {"kv_files_gib": "-1"}, "kv_files_gib: -1.0 must not be below 0"),
        ({}, {"kv_files_gib": "inf"}, "kv_files_gib: inf is not a finite number"),
        ({"SENRYU_KV_CPU_GIB": "-0.5"}, {}, "kv_cpu_gib: -0.5 must not be below 0"),
        ({"SENRYU_KV_CPU_GIB": "1e9"}, {}, "kv_cpu_gib: 1e+09 is more than a machine has"),
        ({"SENRYU_BODY_LIMIT_MB": "1e308"}, {}, "body_limit_mb: 1e+308 is more than a machine has"),
        ({"SENRYU_KV_MEMORY_GIB": "1e308"}, {}, "kv_memory_gib: 1e+308 is more than a machine"),
        ({"SENRYU_DISTIL_STEPS": "1"}, {}, "SENRYU_DISTIL_STEPS: there is no setting distil_steps"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_sentence_that_names_it(
    environment: dict[str, str], flags: dict[str, Any], text: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_server(environment=environment, flags=flags)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[server]\nprot = 1\n", "there is no setting prot; did you mean port?"),
        ("[server]\nport = true\n", "port: True (senryu.toml) is not of type int"),
        ("[server]\nport = 1.5\n", "port: 1.5 (senryu.toml) is not of type int"),
        ("[server]\nport = [1]\n", "port: [1] (senryu.toml) is not of type int"),
        ("[server]\nengine = 1\n", "engine: 1 is not one of auto, vllm, scripted"),
        (f"[server]\nping_seconds = 1{'0' * 400}\n", "is not of type float"),
        ("[server]\nmodel = false\n", "model: False (senryu.toml) is not of type str"),
        ("[server]\naliases = 3\n", "aliases: 3 (senryu.toml) is not of type tuple"),
        ("[server\n", "senryu.toml is not valid TOML: "),
        ("server = 1\n", "senryu.toml: server must be a table; write [server]"),
        ("port = 1\n", "senryu.toml: port stands outside a table; write it under [server]"),
        ("[sever]\nport = 1\n", "senryu.toml: there is no table [sever]; did you mean [server]?"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path: Path, content: str, text: str) -> None:
    toml(tmp_path, content)
    with pytest.raises(SettingsError) as caught:
        load_server()
    assert text in str(caught.value)


def test_a_named_file_that_is_missing_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml cannot be read: No such file"):
        load_server(file=tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"bytes\.toml is not valid TOML"):
        load_server(file=tmp_path / "bytes.toml")


def test_the_shown_settings_name_every_origin_and_hide_the_key() -> None:
    environment = {"SENRYU_API_KEY": "s3cret", "SENRYU_ALIASES": "a,b"}
    loaded = load_server(environment=environment | {"SENRYU_SIGNING_KEY": "s3cret too"})
    lines = loaded.lines()
    assert len(lines) == len(loaded.origins)
    assert "api_key = (set)  # SENRYU_API_KEY" in lines
    assert "signing_key = (set)  # SENRYU_SIGNING_KEY" in lines
    assert 'aliases = ["a", "b"]  # SENRYU_ALIASES' in lines
    assert "port = 8765  # default" in lines
    assert "# window is left out" in lines
    assert "lenient_sampling = false  # default" in lines
    assert not any("s3cret" in line for line in lines)


def test_the_passwords_of_addresses_are_not_shown() -> None:
    database = "postgresql://ann:p@ss/w0rd@db.example/senryu"
    loaded = load_server(environment={"SENRYU_DATABASE": database})
    assert (
        'database = "postgresql://ann:***@db.example/senryu"  # SENRYU_DATABASE' in loaded.lines()
    )
    loaded = load_server(environment={"SENRYU_OTLP": "http://127.0.0.1:4318"})
    assert 'otlp = "http://127.0.0.1:4318"  # SENRYU_OTLP' in loaded.lines()


def test_every_setting_documents_itself() -> None:
    texts = documented(ServerSettings)
    assert texts.keys() == load_server().origins.keys()
    assert all(text and "\n" not in text for text in texts.values())


def test_the_body_limit_counts_in_mebibytes() -> None:
    assert ServerSettings(body_limit_mb=32).body_limit_bytes == 32 * 1024 * 1024


def test_the_largest_body_limit_is_a_number_of_bytes() -> None:
    assert ServerSettings(body_limit_mb=2**20).body_limit_bytes == 2**40


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """Another room's, made up."""

    load: int = 1
    """How many at a time. Left out: one."""

    kind: Literal["closed", "open"] = "closed"
    """How requests arrive."""

    save: bool | None = None
    """Write a record."""


def test_each_room_reads_its_own_variables_and_lets_the_others_be() -> None:
    both = {"SENRYU_PORT": "1", "SENRYU_BENCHES_LOAD": "7"}
    assert load_server(environment=both).settings.port == 1
    loaded = load(BenchSettings, table="benches", environment=both, flags={})
    assert loaded.settings.load == 7
    assert loaded.origins["load"] == "SENRYU_BENCHES_LOAD"


def test_a_mistyped_variable_of_a_room_is_an_error_there() -> None:
    with pytest.raises(SettingsError, match=r"SENRYU_BENCHES_LAOD: .*did you mean load"):
        load(BenchSettings, table="benches", environment={"SENRYU_BENCHES_LAOD": "1"}, flags={})


def test_no_setting_of_the_server_looks_like_one_of_another_room() -> None:
    names = load_server().origins
    assert not [name for name in names if name.startswith(("distill_", "quant_", "benches_"))]


def test_a_room_makes_its_flags_from_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENRYU_BENCHES_LOAD", "3")
    flags = argparse.ArgumentParser()
    add_flags(flags, BenchSettings, ["load", "kind", "save"])
    shown = " ".join(flags.format_help().split())
    assert "--load N How many at a time. Left out: one. (default: 1)" in shown
    assert "--kind {closed,open} How requests arrive. (default: closed)" in shown
    arguments = flags.parse_args(["--kind", "open", "--no-save"])
    loaded = load_arguments(BenchSettings, table="benches", arguments=arguments)
    assert loaded.settings == BenchSettings(load=3, kind="open", save=False)
