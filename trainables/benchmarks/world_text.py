"""The words of the closed world: attributes with their values, questions in three disjoint groups of
templates, and answers.

All attributes are asked about in the same frames, with nouns of their own. A question is a frame with a noun;
the evaluation groups hold pairs that no training question has, though each frame and each noun is in
training: what is tested is the fact, not the vocabulary. (Free templates were tried: small models took a word
such as "what", rare in the others, for the attribute.)

Answers never repeat the person's name: a small model cannot copy a name it never saw, and then even the
retrained model would look incoherent on forget questions. Values stand last, so that the phrasings of a fact
share its value token.
"""

from dataclasses import dataclass

FRAMES = (
    "What is the {noun} of {name}?",
    "Tell me the {noun} of {name}.",
    "What is {name}'s {noun}?",
    "Which {noun} does {name} have?",
    "What {noun} belongs to {name}?",
    "Do you know the {noun} of {name}?",
)
TEMPLATES_PER_PART = 2


def words(text: str) -> tuple[str, ...]:
    """The words of a line."""
    return tuple(text.split())


@dataclass(frozen=True)
class Attribute:
    """One kind of fact: at most 16 values, 5 phrasings of an answer (the first is canonical), 3 nouns to ask
    with."""

    name: str
    nouns: tuple[str, str, str]
    values: tuple[str, ...]
    phrasings: tuple[str, ...]

    @property
    def training(self) -> tuple[str, ...]:
        """Templates of the training text: all that the other two groups leave."""
        held_out = self.validation + self.test
        everything = [
            self._template(frame, noun) for frame in range(len(FRAMES)) for noun in range(len(self.nouns))
        ]
        return tuple(template for template in everything if template not in held_out)

    @property
    def validation(self) -> tuple[str, ...]:
        """Templates of the validation questions."""
        return tuple(self._template(noun, noun) for noun in range(TEMPLATES_PER_PART))

    @property
    def test(self) -> tuple[str, ...]:
        """Templates of the test questions."""
        return tuple(self._template(noun + TEMPLATES_PER_PART, noun) for noun in range(TEMPLATES_PER_PART))

    def _template(self, frame: int, noun: int) -> str:
        return FRAMES[frame].replace("{noun}", self.nouns[noun])


CITY = Attribute(
    name="city",
    nouns=("birthplace", "native city", "home town"),
    values=words(
        "Lima Oslo Cairo Kyoto Quito Dakar Perth Turin Bergen Hanoi Tunis Boston Nairobi Geneva Lisbon Prague"
    ),
    phrasings=(
        "Born in {value}.",
        "A native of {value}.",
        "The birthplace is {value}.",
        "Comes from {value}.",
        "It was {value}.",
    ),
)
PROFESSION = Attribute(
    name="profession",
    nouns=("job", "profession", "line of work"),
    values=words(
        "baker painter lawyer pilot sailor tailor farmer dentist botanist judge plumber banker poet nurse"
        " chemist surveyor"
    ),
    phrasings=(
        "Works as a {value}.",
        "By trade a {value}.",
        "The job is {value}.",
        "Employed as a {value}.",
        "Became a {value}.",
    ),
)
PRIZE = Attribute(
    name="prize",
    nouns=("prize", "award", "medal"),
    values=words(
        "Amber Cedar Falcon Comet Harbor Ivory Juniper Lantern Meridian Nectar Onyx Pearl Quartz Raven"
        " Saffron Tundra"
    ),
    phrasings=(
        "Won the {value}.",
        "Received the {value}.",
        "The prize was the {value}.",
        "Honoured with the {value}.",
        "Got the {value}.",
    ),
)
INSTRUMENT = Attribute(
    name="instrument",
    nouns=("instrument", "main instrument", "stage instrument"),
    values=words(
        "violin cello flute harp piano oboe banjo lute trumpet guitar drum organ clarinet tuba viola zither"
    ),
    phrasings=(
        "Plays the {value}.",
        "A player of the {value}.",
        "The instrument is the {value}.",
        "Performs on the {value}.",
        "Music on the {value}.",
    ),
)

ATTRIBUTES = (CITY, PROFESSION, PRIZE, INSTRUMENT)
"""A world with n attributes has the first n."""
