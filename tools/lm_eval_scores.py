"""Scores a small task through a server with lm-eval's local-completions and in process, and compares.

    pip install lm-eval transformers
    python tools/lm_eval_scores.py URL MODEL_FILE

The task is made here: which of four lines of Python goes on where a piece of code stops. Log-likelihoods must agree to
.02 and the accuracies exactly; the status is 1 where they do not.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import ggq
from ggq.generate.sampling import log_softmax

CODE = [
    ("def add(a, b):\n    return", " a + b"),
    ("import os\nimport", " sys"),
    ("for i in range(10):\n    print(", "i)"),
    ("class Reader:\n    def __init__(self,", " path):"),
    ("if x is None:\n    raise", " ValueError"),
    ("try:\n    import json\nexcept", " ImportError:"),
    ("with open(path) as", " file:"),
    ("while True:\n    line =", " file.readline()"),
]


def documents() -> list[dict[str, Any]]:
    """Each piece with four ends, its own at a random place."""
    chance = random.Random(3)
    found = []
    for text, end in CODE * 3:
        others = chance.sample([other for _, other in CODE if other != end], 3)
        choices = [*others, end]
        chance.shuffle(choices)
        found.append({"text": text, "choices": choices, "label": choices.index(end)})
    return found


def served_scores(url: str, folder: Path) -> tuple[list[list[float]], float]:
    """The log-likelihood of each choice and the accuracy, by lm-eval."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    data = folder / "task.jsonl"
    data.write_text("\n".join(map(json.dumps, documents())))
    task = f"""
task: code_ends
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {data}}}}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
    (folder / "code_ends.yaml").write_text(task)
    arguments = (
        f"model=demo,base_url={url}/v1/completions,tokenizer={Path(ggq.__file__).parent / 'demo'},num_concurrent=4"
    )
    result = lm_eval.simple_evaluate(
        "local-completions",
        model_args=arguments + ",max_length=512",
        tasks=["code_ends"],
        task_manager=TaskManager(include_path=str(folder)),
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = sorted(result["samples"]["code_ends"], key=lambda sample: sample["doc_id"])
    scores = [[float(each[0][0]) for each in sample["resps"]] for sample in samples]
    return scores, float(result["results"]["code_ends"]["acc,none"])


def own_scores(path: str) -> tuple[list[list[float]], float]:
    """The same in process."""
    scores, right = [], 0
    with ggq.load(path) as model:
        for each in documents():
            found = []
            for choice in each["choices"]:
                whole = model.encode(each["text"] + choice, begin=False)
                start = len(model.encode(each["text"], begin=False))
                logs = log_softmax(model.logits(whole))
                found.append(float(sum(logs[i - 1, whole[i]] for i in range(start, len(whole)))))
            scores.append(found)
            right += int(np.argmax(found)) == each["label"]
    return scores, right / len(scores)


def main() -> None:
    """Compare."""
    with tempfile.TemporaryDirectory() as folder:
        served, accuracy = served_scores(sys.argv[1], Path(folder))
    own, own_accuracy = own_scores(sys.argv[2])
    largest = float(np.abs(np.array(served) - np.array(own)).max())
    print(f"accuracy by lm-eval {accuracy:.4f}, in process {own_accuracy:.4f}; largest difference {largest:.5f}")
    sys.exit(accuracy != own_accuracy or largest > 0.02)


if __name__ == "__main__":
    main()
