"""Penn Treebank tokenisation of one line of English text.

The conventions are those of the treebank (Marcus et al., Computational Linguistics 1993): contractions are split
(``do n't``, ``john 's``, ``can not``), brackets get names (``-lrb-``), quotes are directed. What counts as a number,
an abbreviation, an address or a smiley was found by giving millions of made-up words to the published tokeniser (see
``tokenizer.py``); tests/evaluation/metrics/test_metrics_tokenizer.py compares the two where Java is installed. They
differ only in rare cases: signs written together without a blank (``Mr.-é``), phone numbers with blanks, scripts that
are newer than that program, and where it reads past the end of a line ("No." before a line "5 men").

A token is the longest match of the rules; of two equally long matches, that of the earlier rule is taken.
"""

import re
import unicodedata
from collections.abc import Callable

# Symbols beyond ASCII that are tokens of their own. What is neither one of them nor part of words ends a word and
# vanishes: emoji, for instance.
_SYMBOLS = (
    "\xa1\xa5-\xa9\xac\xae-\xb4\xb6-\xb9\xbf\xd7\xf7\u037e\u0387\u0589\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u060c\u061b"
    "\u061e\u061f\u066a\u066d\u06d4\u0700-\u070d\u0964\u0965\u0e3f\u0e4f\u2016\u2017\u201a\u201e-\u2023\u2030-\u2038"
    "\u203b\u203e-\u2042\u2044\u2070\u2074-\u207e\u2080-\u208e\u20a4\u2100\u2101\u2103-\u2106\u2108\u2109\u2114"
    "\u2116-\u2118\u211e-\u2123\u2125\u2127\u2129\u212e\u213a\u213b\u2140-\u2144\u214a-\u214d\u214f\u2155-\u215e"
    "\u2190-\u24b5\u24d0-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
    "\uffe0\uffe1\uffe5\uffe6"
)
_IN_WORDS = ("L", "Mn", "Mc", "Nd")
_SPELLED = {
    "\xad": "",  # a place where a word may be broken
    "\xa2": " cents ",
    "\xa3": " # ",
    **dict.fromkeys("\x80\xa4\u20a0\u20ac", " $ "),
    **dict.fromkeys("\x96\x97\u2013\u2014\u2015", " -- "),
    **dict.fromkeys("\x93\x94\xab\xbb\u201c\u201d", '"'),
    **dict.fromkeys("\x91\u2018\u201b\u2039", "`"),
    **dict.fromkeys("\x92\u2019\u203a", "\u2019"),
    "\u2026": " ... ",
}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_FRACTIONS = dict(zip("\xbc\xbd\xbe\u2153\u2154", ("1/4", "1/2", "3/4", "1/3", "2/3"), strict=True))
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'", "&mdash;": "--", "&nbsp;": ""}

_NO_WORD = rf"\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f\u2019{_SYMBOLS}{''.join(_FRACTIONS)}"
_A = rf"[^{_NO_WORD}]"  # a letter or a digit
_L = rf"[^0-9{_NO_WORD}]"
_APOSTROPHE = "['\u2019]"
# Behind the three long ones there has to be something; that is why the end of the input matters.
_CONTRACTED = (
    rf"(?:{_APOSTROPHE}(?i:s|d|m)(?:[^A-Za-z]|\Z)|\u2019(?i:ll|ve|re)(?:[^A-Za-z]|\Z)|'(?i:ll|ve|re)[^A-Za-z])"
)
_ABBREVIATIONS = (
    "adj|adm|adv|al|ala|alex|apr|ariz|assn|assoc|asst|atty|attys|aug|ave|bancorp|bhd|bldg|blvd|brig|bros|calif|capt|"
    "cf|cie|cmdr|co|col|colo|comdr|conn|corp|cos|cpl|ct|dak|dec|dept|det|dr|drs|elec|ens|esq|est|etc|ext|feb|fla|fri|"
    "ft|ga|gen|gov|govs|hon|inc|ind|insp|intl|invt|jan|jos|jr|jul|jun|kan|kans|ky|lieut|lt|ltd|maj|mar|md|messrs|"
    "mich|minn|mlle|mme|mo|mon|mont|mr|mrs|ms|msgr|mt|natl|neb|nev|nov|oct|okla|penn|pfc|ph|plc|pres|prof|profs|pvt|"
    "rd|rep|reps|rev|rt|sen|sens|sep|sept|seq|sfc|sgt|spc|sq|sr|st|ste|supt|supts|sys|tel|tenn|thu|thurs|treas|tue|"
    "tues|univ|va|vs|vt|wed|wis|wisc|wm|wyo"
)
_LOWER_OR_TITLE = "mfg|mtg|pptes?|pptys?|ptes?|ptys?"
_CAPITALISED = "ark|az|del|ill|la|mass|miss|ore|pa|tex|wash"
_BEFORE_NUMBERS = "art|ca|figs?|nos?|op|pp|prop"
# Behind "C." and one of these a sentence begins, and the period belongs to the one before.
_SENTENCE_STARTS = (
    "A|About|According|Additionally|After|An|As|At|But|Cannot|Earlier|Gotta|He|Here|However|If|In|It|Last|Many|More|"
    "Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|When|While|Yet|"
    "You"
)
_LISTED = "|".join(
    [
        f"(?i:{_ABBREVIATIONS})",
        *(f"(?i:{word[0]}){word[1:]}" for word in _LOWER_OR_TITLE.split("|")),
        *(f"{word[0].upper()}(?i:{word[1:]})" for word in _CAPITALISED.split("|")),
    ]
)
_NAME = r"[A-Za-z_:][A-Za-z0-9_:.-]*"  # of a tag
_FILES = (  # what may follow a number and a period; behind words everything may
    "c|h|x|gz|pl|ps|py|bat|bmp|cgi|class|cpp|dll|docx?|exe|gif|html?|jar|java|jpe?g|mov|mp3|pdf|php|png|ppt|sql|tar|txt|"
    "wav|xml|zip"
)
_URL_END = r"[^\s\"<>|().,;:!?/'\u2019-]"
_SIDE = "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"  # of a slash
_RULES = [
    re.compile(pattern)
    for pattern in (
        # The group is the token; what has to follow it is outside. Both count when the longest match is sought.
        # Tags and entities
        rf"(<{_NAME}(?: +{_NAME}(?: *= *(?:\"[^\"]*\"|'[^']*'))?)* */?>|</{_NAME} *>|<[!?][^<>]*>)",
        r"(&(?:amp|lt|gt|quot|apos|mdash|nbsp);)",
        # Two words written as one
        r"((?i:can))(?i:not)",
        r"((?i:gon|wan))(?i:na)",
        r"((?i:got))(?i:ta)",
        r"((?i:lem|gim))(?i:me)",
        r"('(?i:t))(?i:is|was)",
        rf"({_L}+?)(?i:n)['\u2019`](?i:t)",
        r"((?i:n)['\u2019`](?i:t))",
        rf"({_L}{_A}*){_CONTRACTED}",
        # Words, and words joined by signs
        rf"({_A}+)",
        rf"({_A}+(?:[-_]{_A}+)+)",
        rf"([0-9]+(?:[.,][0-9]+)*(?:-{_A}+)+)",
        rf"({_A}+\.\.\.{_A}+(?:-{_A}+)+)",
        rf"({_SIDE}(?:/{_SIDE}){{1,2}})",
        rf"({_L}{_A}*(?:[.!?]{_L}{_A}*)+(?:-{_A}+)*)",
        r"([A-Z]+(?:&(?:amp;)?[A-Z]+)+)",
        r"([Cc]\+\+|[CFcf]#)",
        # Words that keep their period
        rf"({_L}+\.(?:-{_A}+)+)",
        r"([A-Za-z](?:\.[A-Za-z])*\.(?:-[A-Za-z0-9]+)*)",
        rf"({_L})\.\s+(?:{_SENTENCE_STARTS})(?!{_A})",
        rf"((?:{_LISTED})\.)",
        r"((?i:ph\.d\.))",
        rf"((?i:{_BEFORE_NUMBERS})\.)\s*[0-9]",
        rf"((?:{_A}+(?:[-_]{_A}+)*|{_L}{_A}*(?:\.{_L}{_A}*)+)\.)[,;:]",
        # Apostrophes
        rf"([DdOoLlNn]{_APOSTROPHE}{_L}{_L}+(?:-{_A}+)*)",
        rf"({_L}+[AEIOUYaeiouy]{_APOSTROPHE}[aeiouA-Z]{_L}*)",
        rf"([A-HJ-XZ]{_APOSTROPHE}{_L}{_L}+)",
        rf"((?i:c{_APOSTROPHE}mon|e{_APOSTROPHE}er))",
        rf"((?i:ol|[djl]){_APOSTROPHE})",
        rf"([Yy]{_APOSTROPHE}){_L}",
        rf"({_APOSTROPHE}(?i:em|till?|cause|n{_APOSTROPHE}|n(?!{_L})))",
        rf"((?={_CONTRACTED}){_APOSTROPHE}[A-Za-z]+)",
        rf"({_APOSTROPHE}(?:[0-9]0s(?!{_A})|[0-9]{{2}}s?(?!\S)))",
        # Numbers
        r"([-+]?[.,:]?[0-9]+(?:[.,:][0-9]+)*)",
        rf"([0-9]+(?:\.[0-9]+)*\.(?i:{_FILES})(?!{_A}))",
        r"((?:[0-9]{1,4}[- ])?[0-9]{1,4}[/\u2044][0-9]{1,4})",
        r"([0-9]{1,2}/[0-9]{1,2}/[0-9]{2,4})",
        r"(\([0-9]{3}\) ?[0-9]{3}-[0-9]{4})",
        r"([A-Z]{1,3}\$)",
        # Addresses
        r"(@[A-Za-z_][A-Za-z_0-9]*)",
        rf"(#{_L}+)",
        r"([A-Za-z0-9][^\s\"<>|()]*@(?:[^\s\"<>|().{}]+\.)*[^\s\"<>|().{}]+)",
        r"(<[^\s<>|()\"]+@[^\s<>|()\"]+>)",
        rf"(https?://[^\s\"<>|()]+\.[^\s\"<>|()]*{_URL_END})",
        rf"((?:www\.(?:[A-Za-z0-9_-]+\.)+[A-Za-z]{{2,4}}|(?:[A-Za-z][A-Za-z0-9]*\.)+(?:com|net|org|edu))"
        rf"(?:/[^\s\"<>|()]*{_URL_END})?)",
        # Smileys
        r"([<>]?[:;=][-'o*]?[()DPpdO@|\\{}\[\]])(?![A-Za-z0-9])",
        r"(\([-=<>^'][-=<>^']\))",
        r"([-=<>^'x]_[-=<>^'x])",
        # Other signs
        r"(-(?i:[lr][rcs]b)-)",
        r"([!?]{2,})",
        r"(\.(?: ?\.){2,})",
        r"(-{2,}|_{2,}|\*{2,}|#{2,}|@{2,}|<<|>>|\\\*|''|``)",
        r"(\S)",
    )
]
# Most of a caption, without the rules: words (none is split, all abbreviations are shorter than those with a period
# behind them here) and marks that stand for themselves.
_PLAIN = re.compile(r"[A-Za-z]+(?=[ ,]|$)|[A-Za-z]{8,}(?=\.(?: |$))|[.,;:!?](?= |$)")
_SPLIT = frozenset(["cannot", "gonna", "wanna", "gotta", "lemme", "gimme"])


def tokens_of(line: str, ends_input: bool = False) -> list[str]:
    """The tokens of a line, punctuation among them, lower-case.

    Args:
        ends_input: nothing comes behind this line, not even its end.
    """
    text = _spell(line) + ("" if ends_input else "\n")
    found: list[str] = []
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        plain = _PLAIN.match(text, position)
        if plain and plain[0].lower() not in _SPLIT:
            found.append(plain[0].lower())
            position = plain.end()
            continue
        token = _longest(text, position)
        position += len(token)
        found += _written(token)
    return found


def _longest(text: str, position: int) -> str:
    best, length = "", 0
    for rule in _RULES:
        match = rule.match(text, position)
        if match and match.end() - position > length:
            best, length = match[1], match.end() - position
    return best


def _written(token: str) -> list[str]:
    """A token as it is written in the treebank, with unbreakable blanks; none for an entity that stands for a blank."""
    if token in _FRACTIONS:
        return [_FRACTIONS[token]]
    if token in _ENTITIES:
        return [_ENTITIES[token]] if _ENTITIES[token] else []
    if token == '"':
        return ["''"]
    if token[0] == "." and set(token) <= {".", " "} and len(token) > 1:
        return ["..."]
    if re.fullmatch("-{2,4}", token):
        return ["--"]
    if re.fullmatch(r"[\u2019](?:s|d|m|ll|ve|re)|n\u2019t|\u2019", token, re.IGNORECASE):
        token = token.replace("\u2019", "'")
    if token[0] == "<":
        return [token.lower().replace(" ", "\xa0")]
    for bracket, name in _BRACKETS.items():
        token = token.replace(bracket, name)
    return [re.sub(" +", "\xa0", token.replace("&amp;", "&")).lower()]


class _Spelling(dict[int, str]):
    """What stands for a character; filled as characters are met."""

    def __init__(self, symbol: Callable[[str], object]) -> None:
        self._symbol = symbol

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if char in _SPELLED:
            found = _SPELLED[char]
        elif " " < char < "\x7f" or char in _FRACTIONS or self._symbol(char):
            found = char
        else:
            word = code < 0x10000 and unicodedata.category(char).startswith(_IN_WORDS)
            found = char if word or code in (0x2010, 0x2011) else " "
        self[code] = found
        return found


_SPELLING = _Spelling(re.compile(f"[{_SYMBOLS}]").match)


def _spell(line: str) -> str:
    return line.translate(_SPELLING)
