"""Made-up data in the public schemas of MUSE, WMDP and MMLU, a few rows of each."""

import json

LETTERS = "abcd"


def write_rows(path, rows, *, array=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows) if array else "".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def asked(name, count):
    return [
        {"question": f"What is {name} {number}?", "answer": f"{name} is {number}."} for number in range(count)
    ]


def chosen(name, count, **more):
    return [
        {"question": f"Which {name} {number}?", "choices": list(LETTERS), "answer": number % 4, **more}
        for number in range(count)
    ]


def write_muse(folder):
    """MUSE: a folder per configuration, a file per split."""
    for split in ("forget", "retain1", "retain2", "holdout"):
        write_rows(
            folder / "raw" / f"{split}.json",
            [{"text": f"{split} story {number} tells of Kalo."} for number in range(6)],
        )
    for split in ("forget", "retain", "holdout"):
        write_rows(
            folder / "privleak" / f"{split}.json",
            [{"text": f"{split} rumour {number} tells of Miren."} for number in range(4)],
        )
    for kind in ("sust", "scal"):
        for number in range(1, 5):
            write_rows(folder / kind / f"forget_{number}.json", [{"text": f"{kind} request {number}."}])
    for split in ("forget_qa", "retain_qa"):
        write_rows(folder / "knowmem" / f"{split}.json", asked(split, 4), array=True)
        write_rows(folder / "knowmem" / f"{split}_icl.json", asked(f"{split} shot", 10), array=True)
    passages = [
        {"prompt": f"Passage {number} begins", "gt": f"and ends with {number}."} for number in range(4)
    ]
    write_rows(folder / "verbmem" / "forget.jsonl", passages)
    return folder


def write_wmdp(folder):
    """WMDP, MMLU and two corpora. Returns: the settings that name them."""
    for subset in ("bio", "cyber", "chem"):
        write_rows(folder / f"wmdp-{subset}" / "test.json", chosen(subset, 8), array=True)
    write_rows(folder / "mmlu" / "all" / "test.jsonl", chosen("fact", 6, subject="world_religions"))
    corpora = {
        f"{name}_corpus": write_rows(
            folder / f"{name}.jsonl",
            [{"text": f"{name} paper {number}. It says much."} for number in range(5)],
        )
        for name in ("forget", "retain")
    }
    return {"path": str(folder), "mmlu": str(folder / "mmlu"), **corpora}


def own_files(name, folder):
    """Overrides that a packaged sweep needs before it loads: those that name files of the user's own."""
    if name == "wmdp_zephyr_7b.yaml":
        return [f"data.{key}={value}" for key, value in write_wmdp(folder).items()]
    if name == "local_files.yaml":
        files = {
            part: write_rows(folder / f"{part}.jsonl", [{"prompt": f"a {part}", "response": "b"}])
            for part in ("forget", "retain")
        }
        return ["model.target=org/model", *(f"data.{part}={file}" for part, file in files.items())]
    return []
