"""vault.env: every row, every parser, NAME and NAME_FILE."""

import os
import stat
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault import env
from vault.env_values import SiemUrl

# For each setting a text that is right, its value, and texts that are wrong.
CASES: dict[str, tuple[str, object, list[str]]] = {
    "KEYSTEAD_DATA_DIR": ("/srv/keystead", Path("/srv/keystead"), ["~nobody-known/x", "/a\0b"]),
    "KEYSTEAD_DATABASE_URL": (
        "postgres://ada:p%40ss@db.test:5433/keys?sslmode=verify-full",
        env.DatabaseUrl("db.test", 5433, "keys", "ada", "p@ss", {"sslmode": "verify-full"}),
        [
            "mysql://db/keys", "postgres://db/", "postgres://db/a/b", "postgres:///keys",
            "postgres://db:x/keys", "postgres://db/keys?sslmoed=require", "db/keys",
        ],
    ),
    "KEYSTEAD_REDIS_URL": (
        "rediss://:secret@redis.test:6380/2", "rediss://:secret@redis.test:6380/2",
        ["http://redis", "redis://", "redis://h:x/0", "redis://h/zero"],
    ),
    "KEYSTEAD_ROOT_KEY_FILE": ("/run/secrets/root.key", Path("/run/secrets/root.key"), []),
    "KEYSTEAD_SECRET_KEY": ("abcdefghij" * 5, "abcdefghij" * 5, ["short", "a" * 60]),
    "KEYSTEAD_BIND": ("0.0.0.0", "0.0.0.0", ["localhost", "256.1.1.1", "127.0.0.1:80"]),
    "KEYSTEAD_WEB_PORT": ("9000", 9000, ["0", "65536", "-1", "80a", "8_0", "٣"]),
    "KEYSTEAD_WEB_WORKERS": ("4", 4, ["0", "65", "many"]),
    "KEYSTEAD_PUBLIC_URL": (
        "https://keys.bank.test/", "https://keys.bank.test",
        ["keys.bank.test", "ftp://keys", "https://", "https://a/b", "https://u@a", "https://a?b=c", "https://a:x"],
    ),
    "KEYSTEAD_ALLOWED_HOSTS": (
        "keys.test, .bank.test,[::1]", ["keys.test", ".bank.test", "[::1]"],
        ["*", "https://keys", "keys:80", "a b", "-.-..x"],
    ),
    "KEYSTEAD_TRUSTED_PROXIES": (
        "10.0.0.0/24, ::1", [ip_network("10.0.0.0/24"), ip_network("::1")], ["proxy", "10.0.0.0/33"],
    ),
    "KEYSTEAD_API_RATE": ("5000", 5000, ["0", "59", "1000001", "many"]),
    "KEYSTEAD_WEB_TLS_CERT": ("/tls/web.pem", Path("/tls/web.pem"), []),
    "KEYSTEAD_WEB_TLS_KEY": ("/tls/web-key.pem", Path("/tls/web-key.pem"), []),
    "KEYSTEAD_ADMIN_EMAIL": ("ada@bank.test", "ada@bank.test", ["ada", "ada@", "@bank", "a b@c"]),
    "KEYSTEAD_ADMIN_PASSWORD": ("correct horse battery", "correct horse battery", ["short"]),
    "KEYSTEAD_MAIL_URL": (
        "smtp+starttls://ada:p%2Fw@mail.test", env.MailUrl("smtp+starttls", "mail.test", 587, "ada", "p/w"),
        ["http://mail", "smtp://", "smtp://h/x", "smtp://h?tls=1", "smtp://h:x"],
    ),
    "KEYSTEAD_MAIL_FROM": ("keys@bank.test", "keys@bank.test", ["keys"]),
    "KEYSTEAD_XKS_PORT": ("8444", 8444, ["x"]),
    "KEYSTEAD_XKS_WORKERS": ("2", 2, ["0"]),
    "KEYSTEAD_XKS_TLS": ("off", False, ["maybe"]),
    "KEYSTEAD_XKS_TLS_CERT": ("/tls/x.pem", Path("/tls/x.pem"), []),
    "KEYSTEAD_XKS_TLS_KEY": ("/tls/k.pem", Path("/tls/k.pem"), []),
    "KEYSTEAD_XKS_PUBLIC_ENDPOINT": (
        "https://XKS.bank.test", "https://xks.bank.test",
        ["http://xks.bank.test", "https://xks.bank.test:443", "https://xks.bank.test/", "https://",
         f"https://{'a' * 121}"],
    ),
    "KEYSTEAD_XKS_ENDPOINT_NETWORKS": ("10.1.0.0/16", [ip_network("10.1.0.0/16")], ["somewhere", "10.0.0.0/33"]),
    "KEYSTEAD_XKS_CREDENTIAL_SILENCE": ("90", 90, ["0", "nan", "x", "604801"]),
    "KEYSTEAD_XKS_MAX_STALENESS": ("2.5", 2.5, ["0", "nan", "inf", "x", "86401"]),
    "KEYSTEAD_XKS_BUDGET_MS": ("80", 80, ["9", "241", "soon"]),
    "KEYSTEAD_XKS_DRAIN": ("90", 90, ["0", "601", "soon"]),
    "KEYSTEAD_HSM_MODULE_DIRS": ("/a/b:/c", [Path("/a/b"), Path("/c")], ["relative", "/a:b"]),
    "KEYSTEAD_HSM_VARIABLES": ("A_B, C", ["A_B", "C"], ["A-B", "1A"]),
    "KEYSTEAD_XKS_FRONTS": (
        "192.0.2.7, 10.1.0.0/16",
        [ip_network("192.0.2.7/32"), ip_network("10.1.0.0/16")],
        ["somewhere", "10.0.0.0/33"],
    ),
    "KEYSTEAD_XKS_JOURNAL_DAYS": ("400", 400, ["0", "36501", "ever"]),
    "KEYSTEAD_XKS_REQUEST_DAYS": ("7", 7, ["0", "3651", "ever"]),
    "KEYSTEAD_SIEM_URL": (
        "syslog+tls://siem.bank.test:6515",
        SiemUrl("siem.bank.test", 6515),
        ["syslog://siem.bank.test", "syslog+tls://", "syslog+tls://h:x", "syslog+tls://h/p", "file://relative",
         "file:///folder/", "https://siem.bank.test", "syslog+tls://u:p@h"],
    ),
    "KEYSTEAD_SIEM_CA": ("/etc/k/siem-ca.pem", Path("/etc/k/siem-ca.pem"), []),
    "KEYSTEAD_SIEM_CERT": ("/etc/k/siem.pem", Path("/etc/k/siem.pem"), []),
    "KEYSTEAD_SIEM_KEY": ("/etc/k/siem-key.pem", Path("/etc/k/siem-key.pem"), []),
    "KEYSTEAD_XKS_JOURNAL_SYNC": ("group", "group", ["fsync", "off"]),
    "KEYSTEAD_XKS_SOCKET": ("/run/k/x.sock", Path("/run/k/x.sock"), []),
    "KEYSTEAD_METRICS_ADDRESS": ("10.0.0.5", "10.0.0.5", ["metrics.bank.test"]),
    "KEYSTEAD_METRICS_PORT": ("0", 0, ["65536", "off"]),
    "KEYSTEAD_SIMULATOR": ("yes", True, ["perhaps"]),
    "KEYSTEAD_SIMULATOR_PORT": ("4567", 4567, ["x"]),
    "KEYSTEAD_SIMULATOR_XKS_TIMEOUT_MS": ("500", 500, ["9", "soon"]),
    "KEYSTEAD_WORKER_CONCURRENCY": ("8", 8, ["0"]),
    "KEYSTEAD_NODE_NAME": ("node-a", "node-a", ["a b", "a/b"]),
    "KEYSTEAD_LOG_FORMAT": ("JSON", "json", ["xml"]),
    "KEYSTEAD_LOG_LEVEL": ("debug", "debug", ["loud"]),
}  # fmt: skip


def test_every_setting_has_a_case():
    assert set(CASES) == set(env.SETTINGS)


@pytest.mark.parametrize("name", CASES)
def test_a_right_value_is_understood(name):
    text, value, _ = CASES[name]
    assert env.get(name, {name: text}) == value
    assert env.is_set(name, {name: text})


@pytest.mark.parametrize(
    ("name", "wrong"), [(name, text) for name, case in CASES.items() for text in case[2]]
)
def test_a_wrong_value_names_setting_cause_and_cure(name, wrong):
    with pytest.raises(env.SettingError) as caught:
        env.get(name, {name: wrong})
    error = caught.value
    assert error.name == name
    assert error.kind == "value"
    assert error.cause
    assert error.cure == env.SETTINGS[name].cure
    assert [e.name for e in env.errors({name: wrong})].count(name) == 1
    # Where Django's settings are loaded, it must not end with a traceback.
    assert env.get_or_default(name, {name: wrong}) == env.get(name, {})


@pytest.mark.parametrize("name", [name for name, row in env.SETTINGS.items() if row.secret])
def test_a_wrong_secret_is_not_repeated(name):
    with pytest.raises(env.SettingError) as caught:
        env.get(name, {name: "s3cr3t:x"})
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_name_file(name, tmp_path):
    text, value, _ = CASES[name]
    file = tmp_path / "value"
    file.write_text(f"{text}\n")
    expected = file if env.SETTINGS[name].names_file else value
    assert env.get(name, {f"{name}_FILE": str(file)}) == expected
    assert env.is_set(name, {f"{name}_FILE": str(file)})


@pytest.mark.parametrize("name", [name for name, row in env.SETTINGS.items() if not row.names_file])
def test_a_missing_file_is_loud(name, tmp_path):
    with pytest.raises(env.SettingError) as caught:
        env.get(name, {f"{name}_FILE": str(tmp_path / "absent")})
    assert caught.value.kind == "file"
    assert "No such file" in caught.value.cause


def test_files_that_cannot_be_a_value(tmp_path):
    for content, cause in (
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xff\xfe", "UTF-8"),
        (b"x" * 70000, "65536"),
    ):
        file = tmp_path / "value"
        file.write_bytes(content)
        with pytest.raises(env.SettingError, match=cause) as caught:
            env.get("KEYSTEAD_SECRET_KEY", {"KEYSTEAD_SECRET_KEY_FILE": str(file)})
        assert caught.value.kind == "file"


def test_given_twice(tmp_path):
    environ = {"KEYSTEAD_WEB_PORT": "8000", "KEYSTEAD_WEB_PORT_FILE": str(tmp_path)}
    with pytest.raises(env.SettingError, match="given twice"):
        env.get("KEYSTEAD_WEB_PORT", environ)


def test_an_empty_variable_is_not_set():
    assert env.get("KEYSTEAD_WEB_PORT", {"KEYSTEAD_WEB_PORT": " "}) == 8000
    assert not env.is_set("KEYSTEAD_DATABASE_URL", {"KEYSTEAD_DATABASE_URL": ""})


def test_an_unknown_name_is_reported():
    found = env.errors({"KEYSTEAD_WEBPORT": "1", "KEYSTEAD_WEB_PORT_FILE_FILE": "x", "OTHER": "2"})
    assert [(error.name, error.kind) for error in found] == [
        ("KEYSTEAD_WEBPORT", "unknown"),
        ("KEYSTEAD_WEB_PORT_FILE_FILE", "unknown"),
    ]
    with pytest.raises(KeyError):
        env.get("KEYSTEAD_NO_SUCH")


def test_nothing_set_is_fine():
    assert env.errors({}) == []
    assert {name: env.get(name, {}) for name in env.SETTINGS}["KEYSTEAD_WEB_PORT"] == 8000


def test_defaults_that_follow_from_others(tmp_path):
    folder = {"KEYSTEAD_DATA_DIR": str(tmp_path)}
    assert env.get("KEYSTEAD_ROOT_KEY_FILE", folder) == tmp_path / "root.key"
    assert env.get("KEYSTEAD_XKS_SOCKET", folder) == tmp_path / "run" / "xks.sock"
    server = {"KEYSTEAD_DATABASE_URL": "postgres://a/b"}
    assert (env.get("KEYSTEAD_SIMULATOR", {}), env.get("KEYSTEAD_SIMULATOR", server)) == (True, False)
    sync = "KEYSTEAD_XKS_JOURNAL_SYNC"
    assert (env.get(sync, {}), env.get(sync, server)) == ("write", "group")
    assert (env.get("KEYSTEAD_LOG_FORMAT", {}), env.get("KEYSTEAD_LOG_FORMAT", server)) == ("console", "json")
    assert env.get("KEYSTEAD_PUBLIC_URL", {"KEYSTEAD_WEB_PORT": "81"}) == "http://localhost:81"
    assert env.get("KEYSTEAD_PUBLIC_URL", {"KEYSTEAD_WEB_TLS_CERT": "/c"}) == "https://localhost:8000"
    hosts = env.get("KEYSTEAD_ALLOWED_HOSTS", {"KEYSTEAD_PUBLIC_URL": "https://keys.test:444"})
    assert hosts == ["localhost", "127.0.0.1", "[::1]", "keys.test"]
    assert "[2001:db8::1]" in env.get(
        "KEYSTEAD_ALLOWED_HOSTS", {"KEYSTEAD_PUBLIC_URL": "http://[2001:db8::1]"}
    )


def test_a_database_by_unix_socket():
    url = env.get("KEYSTEAD_DATABASE_URL", {"KEYSTEAD_DATABASE_URL": "postgres:///keys?host=/run/postgresql"})
    assert (url.host, url.name, url.options) == ("/run/postgresql", "keys", {})


def test_parsed_urls_do_not_show_their_password():
    database = env.get("KEYSTEAD_DATABASE_URL", {"KEYSTEAD_DATABASE_URL": "postgres://ada:hidden@db/keys"})
    mail = env.get("KEYSTEAD_MAIL_URL", {"KEYSTEAD_MAIL_URL": "smtps://ada:hidden@mail"})
    assert "hidden" not in f"{database!r}{database}{mail!r}{mail}"
    assert (database.password, mail.password) == ("hidden", "hidden")


@given(st.sampled_from(sorted(env.SETTINGS)), st.text(max_size=80))
def test_any_text_is_a_value_or_a_setting_error(name, text):
    try:
        env.get(name, {name: text})
    except env.SettingError as error:
        assert error.cause, error.cure  # noqa: PT017
    else:
        assert env.errors({name: text}) == []


def test_secret_key_is_made_once_and_private(tmp_path):
    environ = {"KEYSTEAD_DATA_DIR": str(tmp_path / "new")}
    first = env.secret_key(environ)
    assert env.secret_key(environ) == first
    file = tmp_path / "new" / "secret.key"
    assert file.read_text() == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_secret_key_given():
    assert env.secret_key({"KEYSTEAD_SECRET_KEY": "abcdefghij" * 5}) == "abcdefghij" * 5


def test_secret_key_never_fails_the_import(tmp_path):
    (tmp_path / "file").write_text("")
    environ = {"KEYSTEAD_DATA_DIR": str(tmp_path / "file" / "below")}
    assert len(env.secret_key(environ)) >= 50
    assert env.secret_key(environ) != env.secret_key(environ)
    # With a database server nothing is made in the data folder.
    environ = {"KEYSTEAD_DATA_DIR": str(tmp_path / "other"), "KEYSTEAD_DATABASE_URL": "postgres://a/b"}
    assert env.secret_key(environ)
    assert not (tmp_path / "other").exists()


def test_private_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "key"
    assert env.create_private_file(path, b"first")
    assert not env.create_private_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["key"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_env_needs_no_django():
    code = "import sys, vault.env, vault.probe, vault.child; print(any(m.startswith('django') for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
