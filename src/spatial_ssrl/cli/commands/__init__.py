"""Commands that need no Trainer: plain typed functions, callable from Python too."""
