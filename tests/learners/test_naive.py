"""Joint training with a head a task: the multitask control of methods that infer the task."""

from __future__ import annotations

import torch

from reverie.learners import Joint
from reverie.metrics.task_inference import entropy
from tests.tiny import tiny_stream, train


def test_joint_training_with_heads_of_their_own_believes_the_least_uncertain_head() -> None:
    stream = tiny_stream(tasks=3)
    run = train(Joint(active_classes="current", steps=60), stream)
    heads = run.learner.spec.heads
    assert len(heads) == 3
    groups = run.learner.groups
    assert [groups[list(head)].tolist() for head in heads] == [[0, 0], [1, 1], [2, 2]]
    x = stream.tests[0].rows.take(torch.arange(9)).x
    scores = run.learner.network.scores(x).double()
    found = run.learner.predict(x)
    softmaxes = [torch.softmax(scores[:, list(head)], dim=1) for head in heads]
    doubt = torch.cat([entropy(p[None, None]) for p in softmaxes], dim=1)
    for row, task in enumerate(doubt.argmax(dim=1).tolist()):
        answer = heads[task][int(softmaxes[task][row].argmax())]
        assert int(found.scores[row].argmax()) == answer
    summary = run.result["summary"]
    assert summary["tgiven_final"] >= summary["tinfer_final"]["entropy"]
    assert run.result["accuracy"] == run.result["matrices"]["inferred_by_entropy"]


def test_otherwise_all_classes_share_one_softmax() -> None:
    run = train(Joint(steps=20), tiny_stream(tasks=3))
    assert run.learner.groups is None
    assert "inferred_by_entropy" not in run.result["matrices"]
