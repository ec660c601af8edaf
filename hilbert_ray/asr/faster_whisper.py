"""Whisper by CTranslate2, the engine of faster-whisper: `faster-whisper:<id or folder>`."""
