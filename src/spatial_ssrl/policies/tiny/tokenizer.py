"""A compact tokenizer whose tokens are clauses: a question of 80 words takes about 20 tokens.

What a program writes repeats itself, so whole clauses are tokens, digits and option letters
stand alone, and every other text falls back to characters and bytes; no text is unknown.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from spatial_ssrl.prompts.templates import instruction

PAD, END, UNKNOWN, IMAGE, ASSISTANT = "<|pad|>", "<|end|>", "<|unknown|>", "<image>", "<|answer|>"
SPECIAL_TOKENS = (PAD, END, UNKNOWN, IMAGE, ASSISTANT)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|answer|>{% endif %}"
)

# A clause ends after punctuation and the space behind it. Digits (with the comma before them),
# letters that name an option and the marks of the answer form are tokens of their own.
_LETTER = r"\b[A-D](?:\. |(?=[.,}]|$| and))"
_CLAUSE = re.compile(
    rf"{re.escape(instruction())}|<image>|</think>(?:\\boxed\{{)?|<think>|\}}|,?\d|{_LETTER}|[^\d.:?!\n;<}}]*?"
    rf"(?:[.:?!;]+\s*|\n+|(?=,?\d)|(?={_LETTER})|(?=<)|(?=\}})|$)"
)


def clauses(text: str) -> list[str]:
    """Split a text into the pieces that may become tokens; joined, they give the text."""
    pieces: list[str] = []
    position = 0
    while position < len(text):
        match = _CLAUSE.match(text, position)
        end = match.end() if match is not None and match.end() > position else position + 1
        pieces.append(text[position:end])
        position = end
    return pieces


def build_tokenizer(texts: Iterable[str], min_count: int = 2) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a corpus.

    Args:
        texts: Prompts and completions to make short.
        min_count: How often a clause must occur to become a token.

    Returns:
        A fast tokenizer with a chat template; lossless for any text without special tokens.
    """
    counts = Counter(piece for text in texts for piece in clauses(text))
    frequent = sorted(piece for piece, count in counts.items() if count >= min_count)
    characters = [c for c in string.printable if c.isprintable() or c in "\n\t"]
    digits = [f",{digit}" for digit in string.digits]
    known = dict.fromkeys([*frequent, *digits])
    for special in SPECIAL_TOKENS:
        known.pop(special, None)
    # Viterbi segmentation maximises the sum of scores: few clauses beat many characters, and
    # characters beat bytes.
    vocabulary = [(token, 0.0) for token in SPECIAL_TOKENS]
    vocabulary += [(piece, -1.0) for piece in known if piece not in characters]
    vocabulary += [(character, -10.0) for character in characters]
    vocabulary += [(f"<0x{byte:02X}>", -100.0) for byte in range(256)]
    unknown = SPECIAL_TOKENS.index(UNKNOWN)
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=unknown, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE, ASSISTANT],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
    )
