"""Hard texts: a fast encoder must give the reference tokenizer's ids on all of them before it is used."""

BATTERY = (
    "",
    " ",
    "  ",
    "   \n\n  \t\t \r\n",
    "a  b   c    d     e      f       g        h                 i",
    "Hello, world! It's 12345 o'clock; they'll've said: \"don't\".",
    "def f(x):\n    if x > 0:\n        return x ** 2\n\telse:\n\t\treturn -1\n",
    "▁▁ literal ▁ marks▁",
    "NUL \x00 and controls \x01\x02\x1b\x7f end",
    "emoji 😀👨‍👩‍👧‍👦🏳️‍🌈 e\u0301 é ﬁ ｆｕｌｌ　ｗｉｄｔｈ Å Å",
    "中文和日本語のテキスト 한국어 العربية עברית हिन्दी ไทย",
    "\u200b\u200d\ufeff\u00a0\u2028\u2029\u0085",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𒀀 \U0010fffd",
    "0 00 000 0000 1234567890 3.14159 1,000,000 ١٢٣",
    "http://example.org/a?b=c&d=%20e#f user@example.org C:\\path\\to",
    "!!!??? ... --- === *** ### `code` ```block``` <tag attr='x'>y</tag> {[()]}",
    "<0x0A> <unk> <pad> [INST] <<SYS>> <|im_start> |im_end|>",
    "word\n\nword \n word\n ",
    " leading and trailing ",
    "'s 't 're 've 'm 'll 'd 'S 'T",
)
