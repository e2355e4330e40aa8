"""What is taken for a password, a token or a user in an address, and what is not."""

import pytest

from edgemm.errors import DataError
from edgemm.redaction import is_secret_key, redact, redact_addresses

SECRET = (
    "password", "PassWord", "passwd", "pwd", "pswd", "psw", "pass", "userpass", "cam_pass", "passwort", "kennwort", "senha",
    "contraseña", "contrase%C3%B1a", "mot_de_passe", "mdp", "clave", "parola", "şifre", "sifre", "hasło", "haslo", "heslo",
    "wachtwoord", "lösenord", "passord", "adgangskode", "salasana", "jelszó", "пароль", "密码", "パスワード", "비밀번호", "token",
    "access_token", "authToken", "X-Amz-Security-Token", "secret", "client_secret", "auth", "authorization", "bearer", "jwt",
    "key", "apikey", "apiKey", "api_key", "stream-key", "otp", "pin", "sig", "signature", "sid", "jsessionid", "PHPSESSID", "user",
    "username", "usr", "loginuse", "loginpas", "benutzername", "usuario",
)  # fmt: skip
HARMLESS = (
    "compass", "bypass", "surpass", "passage", "passenger", "passive", "passthrough", "pass_through", "lowpass", "high_pass",
    "first_pass", "authuser", "author", "authority", "auth_type", "authmethod", "tokenizer", "max_tokens", "secretary", "credit",
    "sacred", "monkey", "turkey", "keyframe", "sort_key", "publicKey", "users", "user_agent", "userAgent", "session_length",
    "sessions", "channel", "stream", "topswitch", "enclave", "spin", "opinion", "design", "width", "fps", "snapshot",
    "resolution", "classpath",
)  # fmt: skip


@pytest.mark.parametrize("key", SECRET)
def test_what_cameras_call_a_password_in_any_language_is_blotted_out(key):
    assert is_secret_key(key)
    assert redact(f"no http://camera/live?channel=1&{key}=hunter22&x=2") == f"no http://camera/live?channel=1&{key}=***&x=2"


@pytest.mark.parametrize("key", HARMLESS)
def test_other_words_are_left_alone(key):
    address = f"http://camera/live?channel=1&{key}=12"
    assert redact(address) == address


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("rtsp://a:b@camera/live", "rtsp://***@camera/live"),
        ("rtsp://a:b/c@camera/live", "rtsp://***@camera/live"),
        ("'rtsp://camera/user=me_password=a_b_channel=1' is gone", "'rtsp://camera/user=***_password=***_channel=1' is gone"),
        ("rtsp://camera/user=me&password=x&stream=0.sdp?a=1", "rtsp://camera/user=***&password=***&stream=0.sdp?a=1"),
        ("https://host:8080/@me/b", "https://host:8080/@me/b"),
        ("http://host:80?mail=a@b", "http://host:80?mail=a@b"),
        ("rtsp://[::1]:554/a@b", "rtsp://[::1]:554/a@b"),
        ("rtsp://camera/channel=1_stream=0", "rtsp://camera/channel=1_stream=0"),
        ("a folder /data/password=x is no address", "a folder /data/password=x is no address"),
        ("https:/a:b@host/m.onnx", "https:/***@host/m.onnx"),
        ("s3:/host/key=a_token=b", "s3:/host/key=***_token=***"),
        ("C:/data/a@b.csv", "C:/data/a@b.csv"),
        ("me:hunter22@camera/live is no file", "***@camera/live is no file"),
        ("write ssh://nvidia@orin:22", "write ssh://nvidia@orin:22"),
        ("ssh://nvidia:hunter22@orin", "ssh://***@orin"),
        ("git+ssh://nvidia:hunter22@orin", "git+ssh://***@orin"),
        ("Authorization: Bearer abc", "Authorization: ***"),
        ("X-Api-Key: abc", "X-Api-Key: ***"),
    ],
)
def test_an_address_keeps_all_but_its_secrets(words, left):
    assert redact(words) == left


def test_labels_that_are_called_like_headers_stay_in_errors():
    assert redact_addresses("labels: cookie: 3, apple: 2") == "labels: cookie: 3, apple: 2"


def test_no_error_tells_a_secret_in_an_address():
    error = DataError("'https://h/d.csv?token=hunter22' is no dataset.", why="no 'ftp://me:hunter22@h'.", fix="x")
    assert "hunter22" not in f"{error} {error.what} {error.why} {error.args}"
