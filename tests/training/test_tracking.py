"""Experiment trackers: which run they take a run for, and where they write."""

from types import SimpleNamespace

from ivt.training.tracking import start_trackers


def test_resumed_run_is_the_same_run_for_every_tracker_and_stays_in_its_folder(tmp_path):
    calls = []
    accelerator = SimpleNamespace(init_trackers=lambda *arguments: calls.append(arguments))
    record = {"id": "0123456789abcdef", "recipe": {"seed": 3, "init": None, "model": {"image_size": [48, 32]}}}
    for step in (0, 5):
        start_trackers(accelerator, tmp_path, record, step)
    (_, first, begun), (_, again, resumed) = calls
    assert first == again == {"seed": 3, "init": "None", "model.image_size": "[48, 32]"}  # plain values
    assert begun["wandb"] == resumed["wandb"] and begun["trackio"] == resumed["trackio"]
    assert begun["wandb"]["dir"] == str(tmp_path) and begun["wandb"]["id"] == record["id"]
    assert begun["trackio"]["name"].startswith(str(tmp_path))
    # tensorboard draws a step once: what came after the checkpoint is about to come again
    assert (begun["tensorboard"]["purge_step"], resumed["tensorboard"]["purge_step"]) == (1, 6)
