"""A trained model outside of training: loaded, scored with, talked to."""
