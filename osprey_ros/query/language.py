"""Tell whether a question is in English, the only language that the grammar reads.

The rule: a letter outside ASCII and `LOAN_LETTERS` is not English. Else a question is in another language if it has a
word of `FOREIGN_WORDS` and none of `ENGLISH_WORDS`. Both lists hold function words and, for other languages, colors.
Nouns decide nothing, because "banana", "vase" and "hat" are words of several languages. A question without any listed
word is therefore taken for English.
"""

from __future__ import annotations

import re

LOAN_LETTERS = frozenset("àâäçèéêëîïñôöûü")  # of "crème brûlée", "jalapeño", "façade"

_ENGLISH = """
    the this these those that which what where who whose of with without and not neither nor but except from next left
    right near behind front between under above below beside it my your find show me give bring get look there thing
    things object one ones something anything everything nothing you see does did has have than biggest largest smallest
    second third last first leftmost rightmost nearest farthest any some all both
"""
# Only words that are not common English words ("die", "sin", "son" and "an" are), and no names of objects.
_FOREIGN = {
    "German": """
        der das dem des ein eine einen einem einer ist sind wo welche welcher welches neben und nicht ohne mit auf unter
        zwischen hinter vor rechts rote roter rotes blau blaue blauer gelb gelbe schwarz weiss kein keine zeige finde
        mir mein meine größte kleinste zweite
    """,
    "French": """
        le la les un une du où est sont quel quelle quels avec dans sur sous et près gauche droite bleu bleue verte
        jaune noire blanche montre trouve mon mes petite derrière devant
    """,
    "Spanish and Portuguese": """
        el los las una uno donde dónde está esta están junto entre onde com sem rojo roja azul verde amarillo amarilla
        negra blanco blanca vermelho vermelha izquierda derecha cerca detrás muéstrame muestra cuál qué
    """,
    "Italian": """
        il lo gli dov è sono senza della dello vicino rosso rossa giallo gialla nero nera bianco bianca sinistra destra
        accanto alla mostrami trova di che più
    """,
    "Dutch": """
        de het een waar zijn met zonder naast tussen achter voor rood rode blauw blauwe geel groen groene zwart niet
        welk welke mijn
    """,
}
ENGLISH_WORDS = frozenset(_ENGLISH.split())
FOREIGN_WORDS = frozenset(word for words in _FOREIGN.values() for word in words.split())


def is_english(text: str) -> bool:
    """Return whether a question is taken for English by the rule above."""
    lowered = text.lower()
    if any(letter.isalpha() and not letter.isascii() and letter not in LOAN_LETTERS for letter in lowered):
        return False
    words = set(re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", lowered))
    return not words & FOREIGN_WORDS or bool(words & ENGLISH_WORDS)
