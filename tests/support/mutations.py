"""Ways to break a sweep file or a data file, as people and editors do; each is a function of a seeded random
generator."""

import json
import random

import yaml

WORLD = {
    "benchmark": "closed_world",
    "people": 6,
    "forget_people": 2,
    "attributes": 2,
    "values": 3,
    "phrasings": 2,
}
ODD_VALUES = [
    None,
    "",
    "many",
    -1,
    -1e300,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    [],
    [None],
    {},
    {"a": {"b": 1}},
    True,
    "\u0000",
    "é" * 400,
]


def paths_of(tree, prefix=()):
    """Every key of a nested mapping, as a path."""
    for key, value in tree.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths_of(value, (*prefix, key))


def parent_of(tree, path):
    for key in path[:-1]:
        tree = tree[key]
    return tree


# YAML: each takes the settings as a mapping and gives the bytes of a file.


def dumped(settings):
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode()


def without_a_key(settings, chance):
    path = chance.choice(list(paths_of(settings)))
    del parent_of(settings, path)[path[-1]]
    return dumped(settings)


def odd_value(settings, chance):
    path = chance.choice(list(paths_of(settings)))
    parent_of(settings, path)[path[-1]] = chance.choice(ODD_VALUES)
    return dumped(settings)


def renamed_key(settings, chance):
    path = chance.choice(list(paths_of(settings)))
    block = parent_of(settings, path)
    new = chance.choice(
        [path[-1] + "s", path[-1].upper() + "X", "x", path[-1][:-1] + "é", 17, None, True, 1.5]
    )
    block[new] = block.pop(path[-1])
    return dumped(settings)


def misplaced_block(settings, chance):
    path = chance.choice(list(paths_of(settings)))
    value = parent_of(settings, path).pop(path[-1])
    place = parent_of(settings, chance.choice([other for other in paths_of(settings)]))
    place[path[-1] + "_moved"] = value
    return dumped(settings)


def duplicate_key(settings, chance):
    key = chance.choice(list(settings))
    return dumped(settings) + dumped({key: settings[key]})


def tab_for_spaces(settings, chance):
    lines = dumped(settings).decode().split("\n")
    indented = [number for number, line in enumerate(lines) if line.startswith("  ")]
    number = chance.choice(indented)
    lines[number] = "\t" + lines[number].lstrip()
    return "\n".join(lines).encode()


def truncated(settings, chance):
    text = dumped(settings)
    return text[: chance.randrange(len(text) // 3)]


def bad_utf8(settings, chance):
    text = bytearray(dumped(settings))
    place = chance.randrange(len(text))
    return bytes(text[:place]) + bytes([chance.choice([0xFF, 0xC3, 0x80, 0xED])]) + b"(" + bytes(text[place:])


def control_character(settings, chance):
    text = dumped(settings)
    place = chance.randrange(len(text))
    return text[:place] + chance.choice([b"\x00", b"\x07", b"\x1b[31m", b"\x7f"]) + text[place:]


def other_encoding(settings, chance):
    return dumped(settings).decode().encode(chance.choice(["utf-16", "utf-32", "utf-16-le"]))


def byte_order_mark(settings, chance):
    return b"\xef\xbb\xbf" + dumped(settings)


def stray_punctuation(settings, chance):
    text = dumped(settings)
    place = chance.choice([index for index, byte in enumerate(text) if byte == ord("\n")])
    return (
        text[:place]
        + chance.choice(
            [
                b"\n}",
                b"\n]",
                b"\n: :",
                b"\n- a",
                b"\n%TAG",
                b"\n*nowhere",
                b"\n!!python/object:os.system",
                b"\n'",
            ]
        )
        + text[place:]
    )


def bomb(settings, chance):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for last, name in zip("abcdefg", "bcdefgh", strict=True):
        lines.append(f"{name}: &{name} [{', '.join(['*' + last] * 9)}]")
    place = chance.choice(
        [
            "name: *h",
            "description: *h",
            "space: *h",
            "trial: {steps: *h}",
            "search: {enqueue: *h}",
            "extra: *h",
        ]
    )
    return (
        "\n".join(lines) + f"\n{place}\nmodel: {{base: scratch}}\ndata: {{benchmark: closed_world}}\n"
    ).encode()


def endless(settings, chance):
    return chance.choice(
        [
            b"model: &m {base: *m}\n",
            b"&s [*s]\n",
            b"trial: &t\n  forget: *t\nmodel: {base: scratch}\n",
            b"space: &s {a: *s}\n",
        ]
    )


def deep(settings, chance):
    depth = chance.choice([200, 3000])
    return chance.choice(
        [b"space: " + b"[" * depth, b"space: " + b"{a: " * depth + b"1" + b"}" * depth, b"a: " * depth]
    )


def not_a_mapping(settings, chance):
    return chance.choice(
        [
            b"",
            b"\n\n# nothing\n",
            b"42",
            b"- a\n- b\n",
            b"text",
            b"null",
            b"---\na: 1\n---\nb: 2\n",
            b"{}",
            b"!!set {a, b}",
            b"? [a, b]\n: c\n",
        ]
    )


def odd_date(settings, chance):
    settings["name"] = chance.choice(["@D", "@B", "@I"])
    texts = {"@D": "2026-02-31", "@B": "!!binary notbase64", "@I": "0o9_9:99:99"}
    return dumped(settings).decode().replace(f"'{settings['name']}'", texts[settings["name"]]).encode()


YAML_MUTATIONS = [
    without_a_key,
    odd_value,
    odd_value,
    renamed_key,
    renamed_key,
    misplaced_block,
    duplicate_key,
    tab_for_spaces,
    truncated,
    bad_utf8,
    control_character,
    other_encoding,
    byte_order_mark,
    stray_punctuation,
    bomb,
    endless,
    deep,
    not_a_mapping,
    odd_date,
]


# JSONL: each takes rows and gives the bytes of a file.


def lines_of(rows):
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def with_line(rows, chance, line):
    lines = lines_of(rows).split(b"\n")[:-1]
    lines[chance.randrange(len(lines))] = line
    return b"\n".join(lines) + b"\n"


def odd_line(rows, chance):
    return with_line(
        rows,
        chance,
        chance.choice(
            [
                b"[1, 2]",
                b'"text"',
                b"17",
                b"null",
                b"{",
                b"{'prompt': 'a', 'response': 'b'}",
                b"prompt,response",
                b"NaN",
            ]
        ),
    )


def row_without_a_field(rows, chance):
    del rows[chance.randrange(len(rows))][chance.choice(["prompt", "response"])]
    return lines_of(rows)


def odd_field(rows, chance):
    rows[chance.randrange(len(rows))][chance.choice(["prompt", "response"])] = chance.choice(
        [None, 3, 1.5, True, [], ["a"], {"a": 1}, "", " ", "\n\t"]
    )
    return lines_of(rows)


def odd_paraphrases(rows, chance):
    rows[chance.randrange(len(rows))]["paraphrases"] = chance.choice(
        ["text", 3, {"a": "b"}, [3], [""], [None], [["a"]], True, None]
    )
    return lines_of(rows)


def renamed_field(rows, chance):
    row = rows[chance.randrange(len(rows))]
    key = chance.choice(["prompt", "response"])
    row[chance.choice([key + "s", key.upper(), "question", ""])] = row.pop(key)
    return lines_of(rows)


def field_twice(rows, chance):
    return with_line(rows, chance, b'{"prompt": "a", "response": "b", "prompt": "c"}')


def cut_line(rows, chance):
    text = lines_of(rows)
    return text[: chance.randrange(2, len(text) - 3)]


def row_bad_utf8(rows, chance):
    text = lines_of(rows)
    place = chance.randrange(len(text))
    return text[:place] + chance.choice([b"\xff", b"\xc3(", b"\x80"]) + text[place:]


def row_other_encoding(rows, chance):
    return lines_of(rows).decode().encode(chance.choice(["utf-16", "utf-32"]))


def raw_control(rows, chance):
    return with_line(rows, chance, b'{"prompt": "a\x01b", "response": "c"}')


def lone_surrogate(rows, chance):
    return with_line(rows, chance, b'{"prompt": "a \\ud800 b", "response": "c"}')


def deep_row(rows, chance):
    depth = chance.choice([500, 100_000])
    return with_line(
        rows,
        chance,
        chance.choice(
            [
                b"[" * depth,
                b'{"prompt": ' * depth,
                b'{"prompt": "a", "response": ' + b"[" * depth + b"]" * depth + b"}",
            ]
        ),
    )


def huge_number(rows, chance):
    return with_line(
        rows,
        chance,
        b'{"prompt": "a", "response": ' + chance.choice([b"9" * 5000, b"1e999", b"-Infinity"]) + b"}",
    )


def no_rows(rows, chance):
    return chance.choice([b"", b"\n\n \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])


def one_array(rows, chance):
    return json.dumps(rows, indent=chance.choice([None, 1])).encode()


JSONL_MUTATIONS = [
    odd_line,
    row_without_a_field,
    odd_field,
    odd_field,
    odd_paraphrases,
    renamed_field,
    field_twice,
    cut_line,
    row_bad_utf8,
    row_other_encoding,
    raw_control,
    lone_surrogate,
    deep_row,
    huge_number,
    no_rows,
    one_array,
]


def chance_of(kind, number):
    """The generator of one case, the same in every run."""
    return random.Random(f"{kind} {number}")
