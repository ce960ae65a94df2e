"""Translated messages: the gettext catalogues inside Debian packages, as plain text by language."""

import gettext
import re
import zlib

from common import debian

PACKAGES = [
    "gnucash-common", "gnupg-l10n", "coreutils",
    "wesnoth-1.16-did", "wesnoth-1.16-dw", "wesnoth-1.16-tsg", "wesnoth-1.16-ei", "wesnoth-1.16-sotbe",
]  # fmt: skip
UNSEEN_PACKAGE = "apt"
LANGUAGES = {
    "ar": "Arabic", "bg": "Bulgarian", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish", "et": "Estonian", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi",
    "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean",
    "lt": "Lithuanian", "nb": "Norwegian", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian",
    "ru": "Russian", "sv": "Swedish", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
SAME = {"pt_BR": "pt", "nb_NO": "nb", "zh_CN": "zh", "zh_TW": "zh"}

Message = tuple[str, str, str]  # language, text, the English message it translates


def clean(text: str) -> str:
    """A message without what is for the machine: placeholders, tags, entities, marks of shortcuts."""
    text = re.sub(r"%[-+#0-9.$]*[a-zA-Z]+|<[^>]*>|&\w+;|\$\w+|https?:\S+|\\.", " ", text)
    return re.sub(r"\s+", " ", re.sub(r"[_~*|]", "", text)).strip()


def messages(package: str) -> list[Message]:
    """Every message of a package that has at least 15 characters of text, in each language that translates it."""
    found: set[Message] = set()
    for path in sorted(debian(package).rglob("LC_MESSAGES/*.mo")):
        language = SAME.get(path.parts[-3], path.parts[-3])
        if language not in LANGUAGES:
            continue
        with path.open("rb") as file:
            catalogue = gettext.GNUTranslations(file)._catalog  # the one way to the pairs themselves
        for key, translated in catalogue.items():
            english = key[0] if isinstance(key, tuple) else key
            english = english.rsplit("\x04", 1)[-1]  # what stands before is the context, not the message
            for code, text in ((language, translated), ("en", english)):
                text = clean(text)
                if len(text) >= 15 and (code == "en" or text != clean(english)):
                    found.add((code, text, english))
    return sorted(found)


def held_out(message: Message) -> bool:
    """Whether a message is held out: by its English text, so that no translation of it is learned from either."""
    return zlib.crc32(message[2].encode()) % 20 == 0
