"""The parts of `train_hf.py`: recipe, objectives, optimiser, checkpoints, log. The loop itself is the script."""
