"""From `hf:<id or folder>[@revision]` to the recogniser for its architecture: Whisper, or CTC models."""
