"""The text of the closed world: attributes with their values, question templates and answer phrasings.

All attributes share the same question frames, and each has nouns of its own. A question is a frame with a
noun; the evaluation groups hold pairs that no training question has, though each frame and each noun occurs
in training: evaluation tests the fact, not the vocabulary. (Free templates were tried: small models took a
word such as "what", rare in the others, for the attribute.)

Answers never repeat the person's name: a small model cannot copy a name it never saw, and then even the
retrained model would look incoherent on forget questions. Values come last, so that the phrasings of a fact
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
    """Split a line into words."""
    return tuple(text.split())


@dataclass(frozen=True)
class Attribute:
    """One kind of fact: 3 nouns for questions, 16 values, 5 answer phrasings (the first canonical)."""

    name: str
    nouns: tuple[str, str, str]
    values: tuple[str, ...]
    phrasings: tuple[str, ...]

    @property
    def training(self) -> tuple[str, ...]:
        """Templates of the training text: all that are not in the other two groups."""
        held_out = self.validation + self.test
        everything = [
            self._template(frame, noun) for frame in range(len(FRAMES)) for noun in range(len(self.nouns))
        ]
        return tuple(template for template in everything if template not in held_out)

    @property
    def validation(self) -> tuple[str, ...]:
        """Templates of the validation questions."""
        # The diagonal of frames x nouns, so that every frame and noun stays in training with other partners.
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
"""All attributes; a world with n of them has the first n."""
