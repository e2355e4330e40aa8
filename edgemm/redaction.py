"""Passwords and tokens in words: what looks like one, and the words without it. On the lowest floor: no error may tell one."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, quote_plus, unquote

BLOT = "***"
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/{1,2}(?P<rest>[^\s'\"<>]+)")  # a path leaves one slash of two
IN_URL = re.compile(
    r"(?!ssh:/{1,2}[^:@/\s]*@)(?P<scheme>(?<![A-Za-z])[A-Za-z][A-Za-z0-9+.-]+:/{1,2})(?:[^/?#\s'\"]*|[^/?#\s'\"@:\[]*:(?!\d*(?:[/?#]|$))[^\s'\"]*)@"
)
"""User and password before the host; a password may hold what should have been quoted, a slash or a question mark. ssh's user is none."""
BARE = re.compile(r"(?<![\w/])[^\s/:@'\"]{1,64}:[^\s/@'\"]{1,256}(?=@[\w.-]+)")
"""The same where the scheme was left out."""
IN_QUERY = re.compile(r"(?<=[?&;#])(?P<key>[^=&;#?\s'\"<>]+)=(?P<value>[^&;#\s'\"<>]*)")
IN_PATH = re.compile(r"(?<=[/_&;,])(?P<key>[^=/_&;,?#\s]+)=(?P<value>[^/?#]*?)(?=[_&;,][^=_&;,/?#]+=|[/?#]|$)")
"""As some cameras want it: ``/user=admin_password=x_channel=1``; an underscore stands between pairs, and may stand in a password."""
IN_HEADER = re.compile(
    r"(?P<key>(?<![?&;])\b(?:(?:proxy-)?authorization['\"]?\s*[:=]|(?:set-)?cookie['\"]?\s*[:=]"
    r"|(?:[a-z]{1,20}-){0,4}(?:api-?key|auth|token|secret)['\"]?:)\s*['\"]?)[^\r\n'\"]+",
    re.IGNORECASE,
)
FILLED_LATER = re.compile(r"\{\w+\}")
"""A value that ``url_env`` puts there."""

LOCAL_WORDS = (
    "kennwort|losungswort|geheim|schlüssel|schluessel|senha|contraseña|motdepasse|parola|şifre|hasło|heslo|geslo|wachtwoord|lösenord"
    "|passord|adgangskode|kodeord|salasana|jelszó|lozinka|slaptažod|парол|κωδικ|密码|密碼|口令|パスワード|暗証|비밀번호|암호|סיסמ"
    "|كلمةالمرور|รหัสผ่าน|matkhau|katasandi|benutzer|usuario|utilisateur|utente|gebruiker|användar|brugernavn|brukernavn|käyttäj"
    "|użytkownik|uživatel|kullanıcı|felhasznál|пользовател|логин|用户|用戶|ユーザー|사용자"
)
"""Password, then user, as menus of cameras call them."""

NO_MARKS = str.maketrans("łıøđ", "liod")  # letters whose sign cannot be taken off


def _folded(word: str) -> str:
    """Without signs over letters, case, and what stands between words."""
    plain = unicodedata.normalize("NFKD", word.translate(NO_MARKS))
    return re.sub(r"[\W_]", "", "".join(letter for letter in plain if not unicodedata.combining(letter)).casefold())


USER_KEY = re.compile(r"usr|user(?!s?agent|s$)|login(?!pas)")
"""A user's name: it belongs to a password, and is none itself."""
SECRET_KEY = re.compile(
    r"pass?w|pass(?:phrase|code|key)|pass$|^pas$|(?:login|user)pas$|pwd|ps+w(?:d|rd)?$|pw$|pword|^mdp|^mima$|parol$|(?<!en)clave$|^chave$"
    r"|token(?!i[sz])|secret(?!ar)|auth(?!or(?!i[sz])|user|ority)|bearer|(?<!sa)cred(?!it|ib|o)|jwt"
    r"|^key$|(?:api|access|stream|private|secret|auth|client|device|hook|crypto|cryption)key$"
    r"|otp$|^pin(?:code)?$|ticket$|^sig$|signature|session(?:id|key)?$|sessid$|^sid$|hmac|^usr|^user(?!s?agent|s$)|login|"
    + "|".join(re.escape(_folded(word)) for word in LOCAL_WORDS.split("|"))
)
"""What cameras and services call a password, a token or a user, folded."""
HARMLESS_KEY = re.compile(
    r"(?:com|encom|by|sur|tres|under|over|high|low|band|all|multi|single|first|one|two)pass$|(?:max|num|min)\w*tokens?$"
    r"|auth(?:entication)?(?:type|mode|method|scheme)$"
)
LAST_KEY = re.compile(r"(?<![a-z])key$")  # stream_key, streamKey; not monkey
HARMLESS_LAST_KEY = re.compile(r"(?:sort|order|group|primary|foreign|partition|public|hot)[^a-z]*key$")

_known: set[str] = set()


@dataclass(frozen=True)
class Secret:
    """Where a secret's value stands in a text, and what it is called there."""

    start: int
    end: int
    key: str


def remember(value: str) -> None:
    """Have ``redact`` blot out ``value`` wherever it occurs; very short ones would blot out ordinary words and are left."""
    if len(value) >= 3:
        forms = (value, quote(value), quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1], repr(value)[1:-1])
        _known.update(forms)


def redact(text: str) -> str:
    """``text`` without user, password and token in its addresses and headers, and without any secret that was read."""
    return IN_HEADER.sub(rf"\g<key>{BLOT}", redact_addresses(text))


def redact_addresses(text: str) -> str:
    """The same but for headers, whose names may be ordinary words elsewhere."""
    if "=" in text or "@" in text:
        text = BARE.sub(BLOT, IN_URL.sub(rf"\g<scheme>{BLOT}@", text))
        for secret in sorted(secrets_in(text), key=lambda secret: secret.start, reverse=True):
            text = text[: secret.start] + BLOT + text[secret.end :]
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, BLOT)
    return text


def secrets_in(text: str) -> Iterator[Secret]:
    """The secrets in the queries and paths of addresses, each once."""
    queries = [found for found in IN_QUERY.finditer(text) if is_secret_key(found["key"])]
    yield from (Secret(*found.span("value"), unquote(found["key"])) for found in queries)
    covered = {position for found in queries for position in range(*found.span("value"))}
    for address in ADDRESS.finditer(text):
        begin = address.start("rest")
        path = re.split(r"[?#]", text[begin : address.end()])[0]
        for found in IN_PATH.finditer(path):
            if is_secret_key(found["key"]) and begin + found.start("value") not in covered:
                yield Secret(begin + found.start("value"), begin + found.end("value"), unquote(found["key"]))


@functools.lru_cache(maxsize=256)
def is_secret_key(key: str) -> bool:
    """Whether what stands under this name is a password, a token, or the user they belong to."""
    key = unquote(unquote(key))
    folded = _folded(key)
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower()
    if HARMLESS_KEY.search(folded):
        return False
    last = LAST_KEY.search(words) is not None and not HARMLESS_LAST_KEY.search(words)
    return last or SECRET_KEY.search(folded) is not None


def is_user_key(key: str) -> bool:
    """Whether it is a user's name."""
    return USER_KEY.match(_folded(unquote(key))) is not None
