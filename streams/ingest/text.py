"""Free text without markup, control characters, e-mail addresses and phone numbers."""

from __future__ import annotations

import html
import re
import unicodedata

EMAIL = "[email]"
PHONE = "[phone]"

_UNESCAPES = 2  # shop software often escapes twice

# Inline tags vanish, so that bob<b>@</b>example.com is seen as the address it is; the others part words.
_INLINE = re.compile(r"</?(?:a|abbr|b|big|em|font|i|mark|s|small|span|strong|sub|sup|u|wbr)(?:\s[^<>]*)?/?>", re.I)
_TAG = re.compile(r"<(?:!--.*?--|[/!?]?[a-zA-Z][^<>]*)>", re.S)
_SPACE = re.compile(r"\s+")
_LOCAL = r"[\w.+%'!#$&*/=?^{|}~-]"
_EMAIL = re.compile(
    rf"(?<!{_LOCAL}){_LOCAL}++ ?(?:@|\uff20|\(at\)|\[at\]) ?\w[\w-]*+(?: ?(?:\.|\(dot\)|\[dot\]) ?\w[\w-]*+)+", re.I
)
_PHONE = re.compile(r"(?<!\w)(?:\+|\(\+?)?\d(?:[ ().\-/\u2010-\u2015]{0,3}\d){6,19}(?!\w)")
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_DATE = re.compile(rf"(?:19|20)\d\d-[01]\d-[0-3]\d|{_DAY}[./-]{_DAY}[./-](?:19|20)\d\d")


def clean(text: str) -> str:
    """Text in Unicode NFC with markup and control characters out, white space collapsed, people's contacts masked."""
    if not text:
        return ""
    for _ in range(_UNESCAPES):
        if "&" in text:
            text = html.unescape(text)
    if "<" in text:
        text = _TAG.sub(" ", _INLINE.sub("", text))
    if not text.isprintable():
        text = "".join([_plain(c) for c in text])
    return mask(_SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip())


def mask(text: str) -> str:
    """E-mail addresses and phone numbers (7 to 20 digits) replaced; rather a number too many than a person too few."""
    text = _EMAIL.sub(EMAIL, text)
    return _PHONE.sub(_number, text)


def personal(text: str) -> bool:
    """Whether a name or address that must stay as it is holds an e-mail address."""
    return _EMAIL.search(text) is not None


def _plain(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Cc", "Zl", "Zp", "Zs"):
        return " " if character.isspace() else ""
    return "" if category in ("Cf", "Cs") else character


def _number(found: re.Match[str]) -> str:
    return found[0] if _DATE.fullmatch(found[0]) else PHONE
